from .dealing import collected, dealt
from .environment import place
from .exchange import ToldElsewhereError, added, agreed, from_first, gather_rows, gather_values, mean_of_all, summed
from .few_rows import FewRows, few_rows
from .group import DEFAULT_TIMEOUT, Processes, joined, processes
from .launch import launch
from .lost import lost_processes
from .shares import SharedBatches
from .table_rows import held_rows, look_up, rows_of_all

__all__ = [
    "DEFAULT_TIMEOUT",
    "FewRows",
    "Processes",
    "SharedBatches",
    "ToldElsewhereError",
    "added",
    "agreed",
    "collected",
    "dealt",
    "few_rows",
    "from_first",
    "gather_rows",
    "gather_values",
    "held_rows",
    "joined",
    "launch",
    "look_up",
    "lost_processes",
    "mean_of_all",
    "place",
    "processes",
    "rows_of_all",
    "summed",
]
