"""Text tables such as csv and tsv, read at once or in blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import polars as pl

from rearec.data.tables.files import line_blocks
from rearec.data.tables.hints import looks_like_header
from rearec.data.tables.layout import BLANKS, Layout
from rearec.data.tables.quoting import Columns, read_likely_record
from rearec.data.tables.records import Dialect, Fault, Record, Unfinished, read_record
from rearec.data.tables.rows import RowParser, Rows, fail_record
from rearec.data.tables.table import SAMPLE_ROWS, Table, filled_table
from rearec.errors import UserError

__all__ = ["read_delimited", "stream_delimited"]

# A record that is longer is taken for one whose last quote is missing.
RECORD_BYTES = 1 << 26
SEPARATOR_LINE = re.compile(rb'"?sep=([!-~\t])"?(?=\r*\n)')
# One of these stands for a separator that is no single ASCII character; no text has all of them.
CONTROLS = [bytes([code]) for code in (0x1F, 0x1E, 0x1D, 0x1C, *range(1, 9), *range(0xE, 0x1B))]


def read_delimited(path: Path, layout: Layout, columns: Sequence[str] | None = None) -> Table:
    """A text table; every column is read as text.

    Args:
        layout: its separator is a comma unless given.
        columns: those that are wanted; None: all.

    Raises:
        UserError: the file cannot be read or has no rows, a row has more fields than the first, a quoted field is not
            closed or not followed by a separator, or is doubtful (see `Layout.quoting`).
    """
    tables = list(stream_delimited(path, layout, columns))
    frame = pl.concat([table.frame for table in tables])
    return filled_table(path, frame, np.concatenate([t.rows for t in tables]), tables[0].names, tables[0].sample)


def stream_delimited(
    path: Path, layout: Layout, columns: Sequence[str] | None, default_header: Sequence[str] | None = None
) -> Iterator[Table]:
    """The same as tables of some of the rows each, for files beyond the memory; all have the first table's sample.

    Args:
        default_header: the column names of a file whose first row is no header (it lacks the first of these names);
            the last of them may be missing.

    Raises:
        UserError: as in `read_delimited`, or a file without a header has another number of columns.
    """
    reader = _Reader(path, layout, columns, default_header)
    blocks = line_blocks(path, encoding=layout.encoding)
    empty, final = True, False
    while not final:
        block = next(blocks, None)
        final = block is None
        rows = reader.read(block or b"", final)
        if rows is not None and len(rows.numbers):
            empty = False
            yield Table(path, rows.frame, rows.numbers, tuple(reader.names), reader.sample)
    if empty:
        raise UserError(f"{path}: the table has no rows")


class _Reader:
    """Reads a table block after block; a record that a block cuts off is read with the next."""

    def __init__(
        self, path: Path, layout: Layout, columns: Sequence[str] | None, default_header: Sequence[str] | None
    ) -> None:
        self.path = path
        self.layout = layout
        self.columns = columns
        self.default_header = default_header
        self.separator = layout.separator_or(",")
        self.single = len(self.separator) == 1 and self.separator.isascii()
        if layout.escape is not None and not self.single:
            raise UserError("--escape is for a separator of one ASCII character")
        self.names: list[str] = []
        self.wanted: list[int] = []
        self.sample = pl.DataFrame()
        self._parser: RowParser | None = None
        self._rest = b""
        self._row = 1

    def read(self, block: bytes, final: bool) -> Rows | None:
        """The rows that begin in the block or in what was left of the one before."""
        data, dialect = self._with_one_separator(self._rest + block)
        begin = 0
        if self._parser is None:
            begin = self._read_names(data, dialect, final)
        if self._parser is None:
            self._keep(data)
            return None
        body = data[begin:]
        first_row = self._row + data.count(b"\n", 0, begin)
        if body and not self.sample.height:
            lines = [match.end() for match in re.finditer(rb"\n", body[: 1 << 20])][:SAMPLE_ROWS]
            part = body[: lines[-1]] if lines and (len(lines) == SAMPLE_ROWS or len(body) > 1 << 20) else body
            everything = list(range(len(self.names)))
            self.sample = self._parser.parse(part, dialect, everything, first_row, final and part == body).frame
        rows = self._parser.parse(body, dialect, self.wanted, first_row, final)
        self._row = first_row + body.count(b"\n", 0, rows.end)
        self._keep(body[rows.end :])
        return rows

    def _keep(self, rest: bytes) -> None:
        self._rest = rest
        if len(rest) > RECORD_BYTES:
            self._fail(self._row, f"a field in quotes begins here and has no end within {RECORD_BYTES >> 20} MB")

    def _with_one_separator(self, data: bytes) -> tuple[bytes, Dialect]:
        """The data with an ASCII character between its fields."""
        quotes = self.layout.quoting != "none"
        if self.single:
            return data, Dialect(self.separator, quotes, self.layout.escape)
        control = next((code for code in CONTROLS if code not in data), None)
        if control is None:
            raise UserError(f"{self.path}: no text: it holds every control character")
        if self.separator == BLANKS:
            data = re.sub(rb"(?m)^[ \t]+|[ \t]+(?=\r*$)", b"", data)
            data = re.sub(rb"[ \t]+", control, data)
        else:
            data = data.replace(self.separator.encode(), control)
        return data, Dialect(control.decode(), quotes=False)

    def _read_names(self, data: bytes, dialect: Dialect, final: bool) -> int:
        """Find the names of the columns; where the rows begin. Without a whole row there is nothing to find."""
        blank = re.match(rb"[\r\n]*", data)
        assert blank is not None
        told = SEPARATOR_LINE.match(data, blank.end())
        if told is not None:
            # Excel's own first line.
            if told[1].decode() != self.separator:
                row = self._row + data.count(b"\n", 0, blank.end())
                self._fail(
                    row, f"fields are separated by {told[1].decode()!r}, it says: --separator {told[1].decode()!r}"
                )
            blank = re.compile(rb"[\r\n]*").match(data, told.end())
            assert blank is not None
        begin, row = blank.end(), self._row + data.count(b"\n", 0, blank.end())
        if begin == len(data):
            return begin
        text = data[begin:].decode("utf-8")
        try:
            first = self._first_record(text, dialect, final)
        except Fault as fault:
            fail_record(self.path, text, row, fault, dialect)
        except Unfinished as unfinished:
            if final:
                fail_record(self.path, text, row, unfinished, dialect)
            return begin
        cells = [value or "" for value in first.values]
        given = self.layout.names
        if given is not None:
            self._check_against_names(row, cells, given)
            self._set_names(list(given), "--columns names")
            return begin
        if self.default_header is not None and self.default_header[0] not in cells:
            if not len(self.default_header) - 1 <= len(cells) <= len(self.default_header):
                wanted = ",".join(self.default_header)
                self._fail(row, f"{len(cells)} fields; expected {wanted} (the last may be missing)")
            self._set_names(list(self.default_header[: len(cells)]))
            return begin
        self._set_names(cells)
        return begin + len(text[: first.end].encode())

    def _first_record(self, text: str, dialect: Dialect, final: bool) -> Record:
        doubtful = self.layout.quoting == "auto" and dialect.quotes and dialect.escape is None
        if doubtful and self.layout.names is not None:
            return read_likely_record(text, 0, dialect, Columns([], len(self.layout.names)), final)
        try:
            return read_record(text, 0, dialect)
        except (Fault, Unfinished):
            if not doubtful or dialect.separator != "\t":
                raise
            return read_record(text, 0, Dialect("\t", quotes=False))

    def _check_against_names(self, row: int, cells: list[str], given: Sequence[str]) -> None:
        if len(cells) != len(given):
            self._fail(row, f"{len(cells)} fields, but --columns names {len(given)}")
        for cell, name in zip(cells, given, strict=True):
            if cell.strip().casefold() == name.casefold():
                self._fail(row, f"the file has a header ({name!r} is in its first row): leave --columns out")
        if looks_like_header(cells):
            self._fail(row, f"looks like a header ({', '.join(cells[:4])}): leave --columns out")

    def _set_names(self, names: list[str], width_source: str = "the first row has") -> None:
        self.names = names
        self._parser = RowParser(self.path, names, width_source, self.layout.quoting == "auto")
        if self.columns is None:
            self.wanted = list(range(len(names)))
        else:
            self.wanted = [names.index(name) for name in dict.fromkeys(self.columns) if name in names]

    def _fail(self, row: int | str, message: str) -> NoReturn:
        raise UserError(f"{self.path}: row {row}: {message}")
