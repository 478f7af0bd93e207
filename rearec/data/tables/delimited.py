"""Text tables such as csv and tsv, read at once or in blocks."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.data.tables.files import check_utf8, line_blocks, read_bytes
from rearec.data.tables.table import Table, filled_table
from rearec.errors import UserError

__all__ = ["read_delimited", "stream_delimited"]


def read_delimited(path: Path, separator: str, *, quoted: bool | None = None) -> Table:
    """A text table; every column is read as text.

    Args:
        separator: one character.
        quoted: whether a field may stand in double quotes; None: yes, unless the separator is a tab.

    Raises:
        UserError: the file cannot be read or has no rows, or a row has more fields than the header.
    """
    dialect = _Dialect(path, separator, '"' if quoted or (quoted is None and separator != "\t") else None)
    frame = dialect.parse(read_bytes(path))
    return filled_table(path, *_without_empty_rows(frame, 2))


def stream_delimited(path: Path, separator: str, default_header: Sequence[str]) -> Iterator[Table]:
    """A text table, quoted in double quotes where need be, as tables of some of its rows: for files beyond the memory.

    Args:
        default_header: the column names of a file whose first row is no header (it lacks the first of these names);
            the last of them may be missing.

    Raises:
        UserError: as in `read_delimited`, or a file without a header has another number of columns.
    """
    dialect = _Dialect(path, separator, '"')
    names: list[str] | None = None
    next_row, empty = 1, True
    for block in line_blocks(path, quote=b'"'):
        if names is None and not block.isspace():
            header = dialect.first_row(block)
            has_header = default_header[0] in header
            if not has_header and not len(default_header) - 1 <= len(header) <= len(default_header):
                wanted = ",".join(default_header)
                raise UserError(f"{path}: row 1: {len(header)} fields; expected {wanted} (the last may be missing)")
            frame = dialect.parse(block, None if has_header else default_header[: len(header)])
            names, next_row = frame.columns, 2 if has_header else 1
        else:
            frame = dialect.parse(block, names, next_row)
        rows_of_block = frame.height
        table = Table(path, *_without_empty_rows(frame, next_row))
        next_row += rows_of_block
        if len(table.rows):
            empty = False
            yield table
    if empty:
        raise UserError(f"{path}: the table has no rows")


def _without_empty_rows(frame: pl.DataFrame, first_row: int) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """The rows that hold anything, and their numbers."""
    rows = np.arange(frame.height) + first_row
    filled = frame.select(~pl.all_horizontal(pl.all().is_null())).to_series()
    return (frame, rows) if filled.all() else (frame.filter(filled), rows[filled.to_numpy()])


@dataclass(frozen=True)
class _Dialect:
    """How a text table is written; ``quote`` is None where fields have no quotes."""

    path: Path
    separator: str
    quote: str | None

    def first_row(self, data: bytes) -> list[str]:
        """The fields of the first row."""
        check_utf8(self.path, data)
        line = data.split(b"\n", 1)[0].decode("utf-8")
        return next(iter(csv.reader([line.strip("\r")], delimiter=self.separator, quotechar=self.quote)), [])

    def parse(self, data: bytes, names: Sequence[str] | None = None, first_row: int = 1) -> pl.DataFrame:
        """The rows of ``data`` as text, blank lines as rows of nulls; without ``names`` its first row has them."""
        check_utf8(self.path, data, first_row)
        try:
            return pl.read_csv(
                io.BytesIO(data),
                separator=self.separator,
                quote_char=self.quote,
                has_header=names is None,
                infer_schema=False,
                schema=None if names is None else dict.fromkeys(names, pl.String),
            )
        except pl.exceptions.PolarsError as error:
            width = None if names is None or first_row == 1 else len(names)
            fault = self._locate_fault(data, str(error), width, first_row)
            raise UserError(f"{self.path}: {fault}") from None

    def _locate_fault(self, data: bytes, message: str, width: int | None, first_row: int) -> str:
        text = io.StringIO(data.decode("utf-8"), newline="")
        quoting: Any = {"quoting": csv.QUOTE_NONE} if self.quote is None else {"quotechar": self.quote}
        reader = csv.reader(text, delimiter=self.separator, strict=True, **quoting)
        try:
            for row, fields in enumerate(reader, start=first_row):
                width = width or len(fields)
                if len(fields) > width:
                    return f"row {row}: {len(fields)} fields, but the first row has {width}"
        except csv.Error as error:
            return f"row {reader.line_num + first_row - 1}: cannot be parsed as a table: {error}"
        return f"cannot be parsed as a table: {message.splitlines()[0]}"
