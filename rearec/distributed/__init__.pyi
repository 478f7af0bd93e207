from .dealing import collected, dealt
from .environment import place
from .exchange import ToldElsewhereError, added, agreed, from_first, gather_rows, gather_values, summed
from .group import DEFAULT_TIMEOUT, Processes, joined, processes
from .launch import launch
from .lost import lost_processes
from .shares import SharedBatches

__all__ = [
    "DEFAULT_TIMEOUT",
    "Processes",
    "SharedBatches",
    "ToldElsewhereError",
    "added",
    "agreed",
    "collected",
    "dealt",
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
