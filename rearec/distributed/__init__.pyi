from .dealing import collected, dealt
from .environment import place
from .exchange import ToldElsewhereError, added, agreed, from_first, gather_rows, gather_values, summed
from .few_rows import FewRows, few_rows
from .group import DEFAULT_TIMEOUT, Processes, joined, processes
from .launch import launch
from .lost import lost_processes
from .shares import SharedBatches

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
    "joined",
    "launch",
    "lost_processes",
    "place",
    "processes",
    "summed",
]
