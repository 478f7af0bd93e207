"""One json object per line, read at once or in blocks."""

from __future__ import annotations

import io
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.data.tables.files import check_utf8, line_blocks, read_lines
from rearec.data.tables.json_text import is_broken_text, parse_json
from rearec.data.tables.table import Table, filled_table
from rearec.errors import UserError

__all__ = ["JSON_LINES", "read_json_lines", "stream_json_lines"]

JSON_LINES = (".jsonl", ".ndjson", ".json")


def read_json_lines(path: Path, columns: Sequence[str]) -> Table:
    """One json object per line; of its fields only ``columns`` are kept, as text; blank lines are skipped.

    Raises:
        UserError: the file cannot be read, a line is no json object, or a value is a flag, a list or an object.
    """
    return filled_table(*_parse_json_lines(path, read_lines(path), columns, 1))


def stream_json_lines(path: Path, columns: Mapping[str, pl.DataType], optional: Container[str] = ()) -> Iterator[Table]:
    """The same as tables of some of the rows, for files beyond the memory; every column is there.

    Args:
        columns: their types as they are written in most files; where a block has others its columns are text.
        optional: columns that may have no value.

    Raises:
        UserError: as in `read_json_lines`.
    """
    next_row = 1
    for block in line_blocks(path):
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        frame = _parse_with_polars(block, columns)
        required = [] if frame is None else [name for name in columns if name not in optional]
        if frame is None or frame.height < lines or any(frame[name].has_nulls() for name in required):
            # Anything unusual: line by line, which knows the row and the fault.
            text = re.split("\r?\n", check_utf8(path, block, next_row))
            table = Table(*_parse_json_lines(path, text, list(columns), next_row))
            missing = [pl.lit(None, pl.String).alias(name) for name in columns if not table.has(name)]
            yield replace(table, frame=table.frame.with_columns(missing))
        else:
            yield Table(path, frame, np.arange(frame.height) + next_row)
        next_row += lines


def _parse_with_polars(block: bytes, columns: Mapping[str, pl.DataType]) -> pl.DataFrame | None:
    try:
        return pl.read_ndjson(io.BytesIO(block), schema=dict(columns)).select(list(columns))
    except pl.exceptions.PolarsError:
        return None


def _parse_json_lines(
    path: Path, lines: Iterable[str], columns: Sequence[str], first_row: int
) -> tuple[Path, pl.DataFrame, NDArray[np.int64], tuple[str, ...]]:
    """The fields of a `Table`."""
    wanted = list(dict.fromkeys(columns))
    values: dict[str, list[str | None]] = {name: [] for name in wanted}
    # A column exists if any object has it; json null is a value that is missing.
    names: dict[str, None] = {}
    rows: list[int] = []
    for row, line in enumerate(lines, start=first_row):
        if not line or line.isspace():
            continue
        fields = _parse_json_line(path, row, line)
        rows.append(row)
        names.update(dict.fromkeys(fields))
        for name in wanted:
            values[name].append(_json_text(path, row, name, fields.get(name)))
    text = {name: pl.Series(name, values[name], dtype=pl.String) for name in wanted if name in names}
    return path, pl.DataFrame(text), np.asarray(rows, dtype=np.int64), tuple(names)


def _json_text(path: Path, row: int, name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, (bool, list, dict)):
        raise UserError(f"{path}: row {row}: {name!r} is a {type(value).__name__}; expected text or a number")
    text = str(value)
    if is_broken_text(text):
        raise UserError(f"{path}: row {row}: {name!r} holds half of a surrogate pair, which is no text")
    return text


def _parse_json_line(path: Path, row: int, line: str) -> dict[str, Any]:
    value = parse_json(path, line, row)
    if not isinstance(value, dict):
        raise UserError(f"{path}: row {row}: expected a json object, got a {type(value).__name__}")
    return value
