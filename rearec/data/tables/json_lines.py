"""Json files of one object per line, or of one array of objects, read at once or in blocks."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from rearec.data.tables.files import line_blocks
from rearec.data.tables.json_records import RecordsBuilder, array_elements, refuse_single_object
from rearec.data.tables.json_text import parse_json_line
from rearec.data.tables.table import SAMPLE_ROWS, Table
from rearec.errors import UserError

__all__ = ["JSON_LINES", "read_json_lines", "stream_json_lines"]

JSON_LINES = (".jsonl", ".ndjson", ".json")


def read_json_lines(
    path: Path,
    columns: Sequence[str],
    ids: Container[str] = (),
    encoding: str = "utf-8",
    flags: Container[str] = (),
) -> Table:
    """One object per line, in json or as Python writes it, or one json array of objects; blank lines are skipped.

    Of the fields only ``columns`` are kept, as text; a column of lists as lists of text. What is no number (NaN,
    Infinity) is no value.

    Args:
        ids: columns that hold text or whole numbers.
        flags: columns that may hold true and false, which are then text.

    Raises:
        UserError: the file cannot be read or has no rows, a line is no object, or a value is a flag or an object, or a
            list where others are none.
    """
    builder = RecordsBuilder(path, columns, ids, lists=True, flags=flags)
    blocks = line_blocks(path, encoding=encoding)
    next_row = 1
    for block in blocks:
        if not builder.rows and block.lstrip().startswith(b"["):
            text = b"\n" * (next_row - 1) + b"".join([block, *blocks])
            for row, value in array_elements(path, text.decode("utf-8")):
                builder.add(row, value)
            break
        try:
            _add_lines(builder, block, next_row)
        except UserError:
            if not builder.rows:
                _refuse_spread_object(path, b"".join([block, *blocks]), columns)
            raise
        next_row += block.count(b"\n")
    table = builder.table()
    if len(table.rows) == 0:
        raise UserError(f"{path}: the table has no rows")
    return table


def stream_json_lines(
    path: Path,
    columns: Mapping[str, pl.DataType],
    optional: Container[str] = (),
    ids: Container[str] = (),
    flags: Container[str] = (),
) -> Iterator[Table]:
    """Objects, one per line, as tables of some of the rows, for files beyond the memory; every column is there.

    Args:
        columns: their types as they are written in most files; where a block has others its columns are text.
        optional: columns that may have no value.
        ids, flags: as in `read_json_lines`.

    Raises:
        UserError: as in `read_json_lines`, or a value is a list.
    """
    next_row = 1
    first: Table | None = None
    for block in line_blocks(path):
        if first is None:
            first = _first_rows(path, block)
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        frame = _parse_with_polars(block, columns, optional)
        required = [] if frame is None else [name for name in columns if name not in optional]
        if frame is None or frame.height < lines or any(frame[name].has_nulls() for name in required):
            # Anything unusual: line by line, which knows the row and the fault.
            builder = RecordsBuilder(path, list(columns), ids, lists=False, flags=flags)
            _add_lines(builder, block, next_row)
            table = builder.table()
            missing = [pl.lit(None, pl.String).alias(name) for name in columns if not table.has(name)]
            yield replace(table, frame=table.frame.with_columns(missing))
        else:
            yield Table(path, frame, np.arange(frame.height) + next_row, first.names, first.sample)
        next_row += lines


def _add_lines(builder: RecordsBuilder, block: bytes, first_row: int) -> None:
    for row, line in enumerate(re.split("\r?\n", block.decode("utf-8")), start=first_row):
        if line and not line.isspace():
            builder.add(row, parse_json_line(builder.path, line, row))


def _first_rows(path: Path, block: bytes) -> Table:
    """The names and the sample of a file that begins so; lines that are no objects are left to others."""
    builder = RecordsBuilder(path, (), (), lists=False)
    for row, line in enumerate(block.split(b"\n", SAMPLE_ROWS)[:SAMPLE_ROWS], start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            builder.add(row, value)
    return builder.table()


def _parse_with_polars(
    block: bytes, columns: Mapping[str, pl.DataType], optional: Container[str]
) -> pl.DataFrame | None:
    """The columns of the block, or None where any of its values may be otherwise than they seem."""
    text = [name for name, dtype in columns.items() if dtype == pl.String()]
    for name in text:
        # As text polars takes flags, numbers (97.0 as 97), lists and objects too.
        other = rb'[^"\sn]' if name in optional else rb'[^"\s]'
        if re.search(b'"' + re.escape(name.encode()) + rb'"\s*:\s*' + other, block):
            return None
    try:
        frame = pl.read_ndjson(io.BytesIO(block), schema=dict(columns)).select(list(columns))
    except pl.exceptions.PolarsError:
        return None
    # Half of a surrogate pair becomes a NUL.
    return None if any(frame[name].str.contains("\0", literal=True).any() for name in text) else frame


def _refuse_spread_object(path: Path, data: bytes, columns: Sequence[str]) -> None:
    """UserError where the file is one object that spans lines, or begins with one."""
    text = data.decode("utf-8").lstrip()
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict) and not text[end:].strip():
        refuse_single_object(path, value, columns)
        raise UserError(f"{path}: one json object over several lines; expected one object per line")
    if isinstance(value, dict) and "\n" in text[:end]:
        raise UserError(f"{path}: json objects over several lines; expected one object per line, or one array of them")
