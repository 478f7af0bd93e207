"""Titles of items, from a metadata file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from rearec.data.readers.recbole import read_atomic
from rearec.data.readers.selection import ITEM_NAMES
from rearec.data.readers.source_files import SourceFiles
from rearec.data.tables.files import extension, line_blocks
from rearec.data.tables.json_lines import JSON_LINES, read_json_lines, stream_json_lines
from rearec.data.tables.json_text import is_broken_text, read_json_file
from rearec.data.tables.layout import DEFAULT_LAYOUT, Layout
from rearec.data.tables.table import Table
from rearec.data.tables.table_files import read_table
from rearec.errors import UserError

__all__ = ["read_titles", "split_off_item_file"]

FIRST_BYTES = 1 << 16


def read_titles(
    path: Path, item_column: str | None, title_column: str, layout: Layout = DEFAULT_LAYOUT
) -> dict[str, str]:
    """The title of each item that has one, empty if it is blank; the first, where an item has several rows.

    The file is a RecBole ``.item`` file, a ``.json`` file of one object ``{item: {title_column: title}}`` or
    ``{item: title}``, or a table (csv, tsv, parquet, json) with an item and a title column. With named columns a
    ``.item`` file is a table, as that of MovieLens 100K.

    Args:
        item_column: None: "item_id" or "item".
        layout: how a table is written.

    Raises:
        UserError: the file cannot be read or a column is missing.
    """
    names = ITEM_NAMES if item_column is None else (item_column,)
    if extension(path) == ".item" and layout.names is None:
        table = read_atomic(path, layout)[0]
    elif extension(path) in JSON_LINES and not _are_records(path):
        fields = _first_object(path)
        item_column = next((name for name in names if name in fields), names[0])
        if extension(path) == ".json" and item_column not in fields:
            return _from_json(path, names, title_column)
        return _from_json_lines(path, item_column, title_column)
    else:
        table = read_table(path, [*names, title_column], layout, ids=names)
    return _from_table(table, next((name for name in names if table.has(name)), names[0]), title_column)


def split_off_item_file(files: SourceFiles, item_column: str) -> tuple[SourceFiles, Path | None]:
    """The sources, and apart from them the one that holds items: json lines with an item but no user.

    Raises:
        UserError: there are several.
    """
    holds = [extension(path) in JSON_LINES and _is_item_file(path, item_column) for path in files.paths]
    items = [path for path, is_item in zip(files.paths, holds, strict=True) if is_item]
    if len(items) > 1:
        raise UserError(f"{items[1]}: holds items, not interactions, as {items[0]} does; give one file of items")
    kept = [index for index, is_item in enumerate(holds) if not is_item]
    named = tuple(files.named[index] for index in kept)
    return replace(files, paths=[files.paths[index] for index in kept], named=named), items[0] if items else None


def _is_item_file(path: Path, item_column: str) -> bool:
    fields = _first_object(path)
    return item_column in fields and "user_id" not in fields


def _are_records(path: Path) -> bool:
    """Whether the file is an array of objects, or lines of Python literals."""
    start = next(line_blocks(path, FIRST_BYTES), b"").lstrip()
    return re.match(rb"\[|\{\s*u?'", start) is not None


def _first_object(path: Path) -> dict[str, Any]:
    """The object in the first line, empty if there is none."""
    line = next(line_blocks(path, FIRST_BYTES), b"").lstrip().split(b"\n", 1)[0]
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        # Whoever reads all of the file says what is wrong.
        return {}
    return value if isinstance(value, dict) else {}


def _from_json_lines(path: Path, item_column: str, title_column: str) -> dict[str, str]:
    result: dict[str, str] = {}
    columns = {item_column: pl.String(), title_column: pl.String()}
    for table in stream_json_lines(path, columns, optional=(title_column,), ids=(item_column,)):
        _add_titles(result, table, item_column, title_column)
    # Without any title the column may be missing, which only a look at every line tells.
    return result or _from_table(read_json_lines(path, list(columns)), item_column, title_column)


def _from_table(table: Table, item_column: str, title_column: str) -> dict[str, str]:
    result: dict[str, str] = {}
    _add_titles(result, table, item_column, title_column)
    return result


def _add_titles(result: dict[str, str], table: Table, item_column: str, title_column: str) -> None:
    for item, title in table.titles(item_column, title_column).items():
        if not result.get(item):
            result[item] = title


def _from_json(path: Path, names: tuple[str, ...], title_column: str) -> dict[str, str]:
    value = read_json_file(path)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        table = read_json_lines(path, [*names, title_column])
        return _from_table(table, next((name for name in names if table.has(name)), names[0]), title_column)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a json object {{item: {{{title_column!r}: title}}}}")
    result: dict[str, str] = {}
    for item, entry in value.items():
        title = entry.get(title_column) if isinstance(entry, dict) else entry
        if title is not None and not isinstance(title, str):
            raise UserError(f"{path}: item {item!r}: its title is a {type(title).__name__}; expected text")
        if title is not None and is_broken_text(title):
            raise UserError(f"{path}: item {item!r}: its title holds half of a surrogate pair, which is no text")
        if title is not None:
            result[item] = title.strip()
    return result
