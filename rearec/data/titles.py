"""Titles of items, from a metadata file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from rearec.data.files import extension
from rearec.data.json_text import is_broken_text, read_json_file
from rearec.data.readers.recbole import read_atomic
from rearec.data.tables import Table, read_table
from rearec.errors import UserError

__all__ = ["read_titles"]


def read_titles(path: Path, item_column: str, title_column: str) -> dict[str, str]:
    """The title of each item that has one; the first, where an item has several rows.

    The file is a RecBole ``.item`` file, a ``.json`` file of one object ``{item: {title_column: title}}`` or
    ``{item: title}``, or a table (csv, tsv, parquet, jsonl) with an item and a title column.

    Raises:
        UserError: the file cannot be read or a column is missing.
    """
    if extension(path) == ".item":
        return _from_table(read_atomic(path)[0], item_column, title_column)
    if extension(path) == ".json":
        return _from_json(path, title_column)
    return _from_table(read_table(path, [item_column, title_column]), item_column, title_column)


def _from_table(table: Table, item_column: str, title_column: str) -> dict[str, str]:
    titles = table.column(title_column)
    if titles.dtype != pl.String:
        raise UserError(f"{table.path}: column {title_column!r} is of type {titles.dtype}; expected text")
    pairs = zip(table.tokens(item_column), titles, strict=True)
    result: dict[str, str] = {}
    for item, title in pairs:
        if title is not None and title.strip():
            result.setdefault(item, title.strip())
    return result


def _from_json(path: Path, title_column: str) -> dict[str, str]:
    value = read_json_file(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a json object {{item: {{{title_column!r}: title}}}}")
    result: dict[str, str] = {}
    for item, entry in value.items():
        title = entry.get(title_column) if isinstance(entry, dict) else entry
        if title is not None and not isinstance(title, str):
            raise UserError(f"{path}: item {item!r}: its title is a {type(title).__name__}; expected text")
        if title is not None and is_broken_text(title):
            raise UserError(f"{path}: item {item!r}: its title holds half of a surrogate pair, which is no text")
        if title is not None and title.strip():
            result[item] = title.strip()
    return result
