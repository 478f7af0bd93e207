"""Work in parts that processes take in turn, every part by one of them, and what they have made of it in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from rearec.distributed.exchange import gather_values
from rearec.distributed.group import Processes

__all__ = ["collected", "dealt"]

Value = TypeVar("Value")
Part_co = TypeVar("Part_co", covariant=True)


class _Parts(Protocol[Part_co]):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Part_co: ...


class _Dealt(Generic[Value]):
    """Those of the parts that are this process's: part i is that of process i modulo their number."""

    def __init__(self, parts: _Parts[Value], group: Processes) -> None:
        self._parts = parts
        self._group = group

    def __len__(self) -> int:
        return -(-len(self._parts) // self._group.size)

    def __iter__(self) -> Iterator[Value | None]:
        for turn in range(len(self)):
            index = turn * self._group.size + self._group.rank
            yield self._parts[index] if index < len(self._parts) else None


def dealt(parts: _Parts[Value], group: Processes) -> _Dealt[Value]:
    """Those of the parts that are this process's, as many as any process has: None where there are too few parts.

    Examples:
        >>> from rearec.distributed import Processes, dealt
        >>> [list(dealt("abcde", Processes(rank, 2))) for rank in range(2)]
        [['a', 'c', 'e'], ['b', 'd', None]]
    """
    return _Dealt(parts, group)


def collected(own: Sequence[Value], group: Processes) -> list[Value]:
    """What was made of all parts, in their order, of what each process has made of its own; on every process."""
    if group.size == 1:
        return [*own]
    turns = itertools.zip_longest(*gather_values(own), fillvalue=_NOTHING)
    return [value for turn in turns for value in turn if value is not _NOTHING]


_NOTHING: Any = object()
