"""RecBole's atomic files: tab separated, typed header fields such as ``user_id:token``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rearec.data.interactions import HistoryRows, Interactions
from rearec.data.readers.builders import HistoryRowsBuilder, InteractionsBuilder
from rearec.data.readers.options import ReadOptions
from rearec.data.readers.table import add_interactions
from rearec.data.tables.delimited import read_delimited
from rearec.data.tables.layout import Layout
from rearec.data.tables.table import Table
from rearec.errors import UserError

__all__ = ["read_atomic", "read_recbole"]

TYPES = ("token", "token_seq", "float", "float_seq")


def read_recbole(paths: list[Path], options: ReadOptions) -> Interactions | HistoryRows:
    """Interactions from ``.inter`` files, or rows from the three files of a pre-split sequential data set.

    The latter have a column ``item_id_list:token_seq`` with the history, tokens with blanks between.
    """
    files = [read_atomic(path) for path in paths]
    history = f"{options.item}_list"
    sequential = [table.has(history) for table, _ in files]
    expected = {options.user: "token", options.item: "token", history: "token_seq"}
    expected |= {options.rating: "float", options.timestamp: "float"}
    for table, types in files:
        _check_types(table, types, expected)
    if not any(sequential):
        builder = InteractionsBuilder(paths, options.given)
        for table, _ in files:
            add_interactions(builder, table, options)
        return builder.build()
    if not all(sequential):
        other = paths[sequential.index(False)]
        raise UserError(f"{other}: no column '{history}:token_seq', but {paths[sequential.index(True)]} has one")
    if not options.given:
        raise UserError(
            f"{paths[0]}: holds rows with a history ('{history}'), which are split already: "
            "give the three files train, valid, test, with the split 'given'"
        )
    rows = HistoryRowsBuilder(paths)
    for table, _ in files:
        rating = options.rating if options.rating_column or table.has(options.rating) else None
        rows.add_table(table, options.user, history, options.item, rating)
    return rows.build()


def read_atomic(path: Path) -> tuple[Table, dict[str, str]]:
    """An atomic file, its columns named without their type, and the type of each column.

    Raises:
        UserError: the file cannot be read, or a header field has no type.
    """
    table = read_delimited(path, Layout(separator="\t", quoting="none"))
    types: dict[str, str] = {}
    for number, field in enumerate(table.frame.columns, start=1):
        name, _, kind = field.rpartition(":")
        if kind not in TYPES or not name or ":" in name:
            known = ", ".join(TYPES)
            raise UserError(f"{path}: row 1: header field {number} is {field!r}; expected name:type ({known})")
        if name in types:
            raise UserError(f"{path}: the column {name!r} occurs more than once")
        types[name] = kind
    return replace(
        table, frame=table.frame.rename(dict(zip(table.frame.columns, types, strict=True))), names=tuple(types)
    ), types


def _check_types(table: Table, types: dict[str, str], expected: dict[str, str]) -> None:
    for name, kind in expected.items():
        if types.get(name, kind) != kind:
            raise UserError(f"{table.path}: column {name!r} is of type {types[name]}; expected {kind}")
