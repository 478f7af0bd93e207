"""Ids as callers have them (texts, integers, columns of a table) become the texts that a catalogue knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

from rearec.data.readers.interactions import as_token

__all__ = ["check_count", "few", "read_histories", "read_ids"]

NAMED = 5


def check_count(value: object, name: str, least: int) -> None:
    """TypeError where an argument is no integer, ValueError where it is too small; both name it."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r}, expected an integer")
    if value < least:
        raise ValueError(f"{name}: got {value}, expected {least} or more")


def few(ids: Sequence[str]) -> str:
    """The first ids, and how many more there are."""
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    return f"{', '.join(ids[:NAMED])}{more}"


def read_ids(values: object, where: str, of: str = "item") -> list[str]:
    """Ids in order, from a list, an array or a column; TypeError names `where` and the first that is no id."""
    listed = _listed(values, where, f"a sequence of {of} ids")
    if all(isinstance(value, str) for value in listed):
        return listed
    try:
        return [as_token(value) for value in listed]
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None


def read_histories(values: object, where: str = "histories") -> list[list[str]]:
    """The ids of each history, from a list of lists, an array [R, L] or a column of lists; TypeError as `read_ids`."""
    listed = _listed(values, where, "a sequence of histories, each a sequence of item ids")
    return [read_ids(history, f"{where}[{index}]") for index, history in enumerate(listed)]


def _listed(values: Any, where: str, expected: str) -> list[Any]:
    """The values as a list: TypeError for a text, for what has no order, and for a table in place of a column."""
    if hasattr(values, "columns"):
        raise TypeError(f"{where}: got a table, expected {expected} (one of its columns)")
    if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
        raise TypeError(f"{where}: expected {expected} (texts or integers), got {type(values).__name__}")
    for method in ("to_list", "to_pylist", "tolist"):  # of polars and pandas; of pyarrow; of numpy and torch
        if hasattr(values, method):
            listed = getattr(values, method)()
            return listed if isinstance(listed, list) else _listed(listed, where, expected)
    return list(values)
