"""RecBole's atomic files: tab separated, typed header fields such as ``user_id:token``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rearec.data.readers.builders import HistoryRowsBuilder, InteractionsBuilder
from rearec.data.readers.interactions import HistoryRows, Interactions
from rearec.data.readers.options import PrepareOptions
from rearec.data.readers.selection import find_roles
from rearec.data.readers.source_files import SourceFiles
from rearec.data.tables.arrays import Scratch
from rearec.data.tables.delimited import read_delimited
from rearec.data.tables.layout import DEFAULT_LAYOUT, Layout
from rearec.data.tables.table import SAMPLE_ROWS, Table
from rearec.errors import UserError

__all__ = ["is_sequential", "read_atomic", "read_recbole"]

TYPES = ("token", "token_seq", "float", "float_seq")


def read_recbole(files: SourceFiles, options: PrepareOptions, scratch: Scratch) -> Interactions | HistoryRows:
    """Interactions from ``.inter`` files, or rows from the three files of a pre-split sequential data set.

    The latter have a column ``item_id_list:token_seq`` with the history, tokens with blanks between.
    """
    paths = files.paths
    tables = [read_atomic(path, options.layout) for path in paths]
    found = [find_roles(table, options) for table, _ in tables]
    histories = [f"{roles.item}_list" for roles in found]
    sequential = [table.has(history) for (table, _), history in zip(tables, histories, strict=True)]
    for (table, types), roles, history in zip(tables, found, histories, strict=True):
        expected = {roles.user: "token", roles.item: "token", history: "token_seq"}
        expected |= dict.fromkeys([*roles.times, *([roles.rating] if roles.rating else [])], "float")
        _check_types(table, types, expected)
    if not any(sequential):
        builder = InteractionsBuilder(files, options, scratch)
        for (table, _), roles in zip(tables, found, strict=True):
            builder.add_table(table, roles)
        return builder.build()
    if not all(sequential):
        other = paths[sequential.index(False)]
        raise UserError(f"{other}: no column '{histories[0]}:token_seq', but {paths[sequential.index(True)]} has one")
    if files.parts is None:
        raise UserError(
            f"{paths[0]}: holds rows with a history ('{histories[0]}'), which are split already: "
            "give the three files train, valid, test, with the split 'given'"
        )
    rows = HistoryRowsBuilder(files, options)
    for (table, _), roles, history in zip(tables, found, histories, strict=True):
        rows.add_table(table, roles.user, history, roles.item, roles.rating)
    return rows.build()


def is_sequential(path: Path, options: PrepareOptions) -> bool:
    """Whether the file has a column of histories."""
    table, _ = read_atomic(path, options.layout)
    return table.has(f"{find_roles(table, replace(options, timestamps=False)).item}_list")


def read_atomic(path: Path, layout: Layout = DEFAULT_LAYOUT) -> tuple[Table, dict[str, str]]:
    """An atomic file, its columns named without their type, and the type of each column.

    Raises:
        UserError: the file cannot be read, or a header field has no type.
    """
    table = read_delimited(path, replace(layout, separator=layout.separator or "\t", quoting="none"))
    types: dict[str, str] = {}
    for number, field in enumerate(table.frame.columns, start=1):
        name, _, kind = field.rpartition(":")
        if kind not in TYPES or not name or ":" in name:
            known = ", ".join(TYPES)
            hint = _separator_hint(field)
            raise UserError(f"{path}: row 1: header field {number} is {field!r}; expected name:type ({known}){hint}")
        if name in types:
            raise UserError(f"{path}: the column {name!r} occurs more than once")
        types[name] = kind
    names = dict(zip(table.frame.columns, types, strict=True))
    frame = table.frame.rename(names)
    return replace(table, frame=frame, names=tuple(types), sample=frame.head(SAMPLE_ROWS)), types


def _separator_hint(header: str) -> str:
    """What to say where a header in one piece falls into fields by another separator."""
    for separator in (",", " ", ";", "|"):
        fields = header.split(separator)
        if len(fields) > 1 and all(field.rpartition(":")[2] in TYPES for field in fields):
            return f"; its fields seem to be separated by {separator!r}: --separator {separator!r}"
    return ""


def _check_types(table: Table, types: dict[str, str], expected: dict[str, str]) -> None:
    for name, kind in expected.items():
        if types.get(name, kind) != kind:
            raise UserError(f"{table.path}: column {name!r} is of type {types[name]}; expected {kind}")
