"""Text tables such as csv and tsv, read at once or in blocks."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.data.tables.files import line_blocks
from rearec.data.tables.hints import looks_like_header, width_hint
from rearec.data.tables.layout import BLANKS, Layout
from rearec.data.tables.quoting import Columns, read_likely_record
from rearec.data.tables.records import Dialect, Fault, Record, Unfinished, read_record
from rearec.data.tables.table import SAMPLE_ROWS, Table, filled_table
from rearec.errors import UserError

__all__ = ["read_delimited", "stream_delimited"]

# A record that is longer is taken for one whose last quote is missing.
RECORD_BYTES = 1 << 26
# Beyond this many columns one pattern for a whole line becomes too large.
PATTERN_COLUMNS = 64
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


class _Rows(NamedTuple):
    """Rows that were read, and the lines in which they begin; ``end``: the bytes of the block that they make up."""

    frame: pl.DataFrame
    numbers: NDArray[np.int64]
    end: int


class _Lines(NamedTuple):
    """Of each line of a block: its end, its length without the line end, the number of its separators."""

    ends: NDArray[np.int64]
    lengths: NDArray[np.int64]
    separators: NDArray[np.int64]


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
        self._width_source = "the first row has"
        self._likeness: Columns | None = None
        self._rest = b""
        self._row = 1
        self._first_row = 0

    def read(self, block: bytes, final: bool) -> _Rows | None:
        """The rows that begin in the block or in what was left of the one before."""
        data, dialect = self._with_one_separator(self._rest + block)
        begin = 0
        if not self.names:
            begin = self._read_names(data, dialect, final)
            if not self.names:
                self._rest = data
                return None
        body = data[begin:]
        first_row = self._row + data.count(b"\n", 0, begin)
        self._first_row = self._first_row or first_row
        if body and not self.sample.height:
            lines = [match.end() for match in re.finditer(rb"\n", body[: 1 << 20])][:SAMPLE_ROWS]
            part = body[: lines[-1]] if lines and (len(lines) == SAMPLE_ROWS or len(body) > 1 << 20) else body
            everything = list(range(len(self.names)))
            self.sample = self._rows(part, dialect, everything, first_row, final and part == body).frame
        rows = self._rows(body, dialect, self.wanted, first_row, final)
        self._rest = body[rows.end :]
        self._row = first_row + body.count(b"\n", 0, rows.end)
        if len(self._rest) > RECORD_BYTES:
            self._fail(self._row, f"a field in quotes begins here and has no end within {RECORD_BYTES >> 20} MB")
        return rows

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
            first = self._first_record(text, dialect)
        except Fault as fault:
            self._fail(row + text.count("\n", 0, fault.at), f"cannot be parsed as a table: {fault.message}")
        except Unfinished as open_field:
            if final:
                self._fail(row + text.count("\n", 0, open_field.at), _unclosed(dialect))
            self._rest = data
            return begin
        cells = [value or "" for value in first.values]
        given = self.layout.names
        if given is not None:
            self._check_against_names(row, cells, given)
            self._width_source = "--columns names"
            self._set_names(list(given))
            return begin
        if self.default_header is not None and self.default_header[0] not in cells:
            if not len(self.default_header) - 1 <= len(cells) <= len(self.default_header):
                wanted = ",".join(self.default_header)
                self._fail(row, f"{len(cells)} fields; expected {wanted} (the last may be missing)")
            self._set_names(list(self.default_header[: len(cells)]))
            return begin
        self._set_names(cells)
        return begin + len(text[: first.end].encode())

    def _first_record(self, text: str, dialect: Dialect) -> Record:
        try:
            return read_record(text, 0, dialect)
        except (Fault, Unfinished):
            if self.layout.quoting != "auto" or dialect.separator != "\t":
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

    def _set_names(self, names: list[str]) -> None:
        self.names = names
        if self.columns is None:
            self.wanted = list(range(len(names)))
        else:
            self.wanted = [names.index(name) for name in dict.fromkeys(self.columns) if name in names]

    @cached_property
    def _unique_names(self) -> list[str]:
        """The names, those that occur again as polars names them."""
        count: dict[str, int] = {}
        unique = []
        for name in self.names:
            again = count.get(name, 0)
            count[name] = again + 1
            unique.append(f"{name}_duplicated_{again - 1}" if again else name)
        return unique

    def _rows(self, data: bytes, dialect: Dialect, wanted: list[int], first_row: int, final: bool) -> _Rows:
        lines = _measure(data, dialect.separator)
        returns = data.count(b"\r") != data.count(b"\r\n")
        if returns or (dialect.quotes and b'"' in data) or (dialect.escape and dialect.escape.encode() in data):
            return self._rows_one_by_one(data, dialect, wanted, first_row, final)
        width = len(self.names)
        long = lines.separators >= width
        if long.any():
            index = int(long.argmax())
            self._fail_width(first_row + index, int(lines.separators[index]) + 1)
        frame = self._parse(data, dialect, wanted, len(lines.ends))
        filled = np.flatnonzero(lines.lengths)
        if wanted and len(filled) < len(lines.ends):
            frame = frame[filled]
        return _Rows(frame, filled + first_row, len(data))

    def _parse(self, data: bytes, dialect: Dialect, wanted: list[int], height: int) -> pl.DataFrame:
        """Well-formed lines, by polars."""
        names = [self._unique_names[index] for index in wanted]
        if not wanted:
            return pl.DataFrame()
        if not height:
            return pl.DataFrame(schema=dict.fromkeys(names, pl.String))
        # By the first line polars tells how many columns there are.
        filler = dialect.separator.encode() * (len(self.names) - 1) or b"-"
        frame = pl.read_csv(
            io.BytesIO(filler + b"\n" + data),
            separator=dialect.separator,
            quote_char='"' if dialect.quotes else None,
            has_header=False,
            infer_schema=False,
            schema={f"column_{number}": pl.String for number in range(1, len(self.names) + 1)},
            columns=[f"column_{index + 1}" for index in wanted],
        )
        frame = frame[1:]
        if frame.height != height:
            raise UserError(f"{self.path}: {height} lines were read as {frame.height} rows: please report this file")
        frame.columns = names
        return frame

    def _rows_one_by_one(self, data: bytes, dialect: Dialect, wanted: list[int], first_row: int, final: bool) -> _Rows:
        """Rows of a block in which some need a closer look."""
        text = data.decode("utf-8")
        lines = pl.Series("lines", [text]).str.split("\n").explode()
        if text.endswith("\n"):
            lines = lines.head(-1)
        blank = lines.str.contains(r"^\r*$").to_numpy()
        plain = self._well_formed(lines, dialect).to_numpy() & ~blank
        if self._likeness is None or not self._likeness.known:
            part = lines.filter(pl.Series(plain)).head(SAMPLE_ROWS)
            examples = self._parse(_joined(part), dialect, list(range(len(self.names))), len(part))
            self._likeness = Columns(examples.rows(), len(self.names))
        starts = np.concatenate(([0], np.cumsum(lines.str.len_chars().to_numpy().astype(np.int64) + 1)))
        records: dict[int, Record] = {}
        line, end = 0, len(lines)
        for odd in np.flatnonzero(~(plain | blank)).tolist():
            if odd < line:
                continue
            try:
                record = self._read_record(text, int(starts[odd]), dialect, first_row, final)
            except Unfinished:
                end = odd
                break
            records[odd] = record
            line = int(np.searchsorted(starts, record.end))
            plain[odd:line] = False
        plain[end:] = False
        simple = lines.filter(pl.Series(plain))
        frame = self._parse(_joined(simple), dialect, wanted, len(simple))
        if wanted:
            values = {self._unique_names[i]: [_value(record, i) for record in records.values()] for i in wanted}
            frame = pl.concat([frame, pl.DataFrame(values, schema=dict.fromkeys(values, pl.String))])
        indices = np.concatenate((np.flatnonzero(plain), np.asarray(list(records), dtype=np.int64)))
        order = np.argsort(indices)
        used = len(data) if end == len(lines) else len(text[: starts[end]].encode())
        return _Rows(frame[order] if wanted else frame, indices[order] + first_row, used)

    def _well_formed(self, lines: pl.Series, dialect: Dialect) -> pl.Series:
        """Which lines are rows by themselves, whatever the quotes in lines before them, with all their fields."""
        width, separator = len(self.names), re.escape(dialect.separator)
        escape = "" if dialect.escape is None else re.escape(dialect.escape)
        bare = rf"[^{separator}\r{escape}" + ('"]*' if dialect.quotes else "]*")
        if width > PATTERN_COLUMNS:
            return lines.str.contains(rf"^(?:{bare}{separator})*{bare}\r*$") & (
                lines.str.count_matches(dialect.separator, literal=True) == width - 1
            )
        cell = rf'(?:"(?:[^"{escape}]|"")*"|{bare})' if dialect.quotes else bare
        formed = lines.str.contains(rf"^(?:{cell}{separator}){{{width - 1}}}{cell}\r*$")
        if dialect.quotes and self.layout.quoting == "auto":
            formed &= ~lines.str.contains('\\"', literal=True)
        return formed

    def _read_record(self, text: str, start: int, dialect: Dialect, first_row: int, final: bool) -> Record:
        try:
            if dialect.quotes and dialect.escape is None and self.layout.quoting == "auto":
                assert self._likeness is not None
                record = read_likely_record(text, start, dialect, self._likeness, final)
            else:
                record = read_record(text, start, dialect)
        except Fault as fault:
            row = first_row + text.count("\n", 0, fault.at)
            until = "" if fault.until is None else f" to {first_row + text.count(chr(10), 0, fault.until)}"
            self._fail(f"{row}{until}", f"cannot be parsed as a table: {fault.message}")
        except Unfinished as open_field:
            if not final:
                raise
            self._fail(first_row + text.count("\n", 0, open_field.at), _unclosed(dialect))
        if len(record.values) > len(self.names):
            self._fail_width(first_row + text.count("\n", 0, start), len(record.values))
        return record

    def _fail_width(self, row: int, width: int) -> None:
        first = row == self._first_row and self.layout.names is None
        hint = width_hint(width, self.names) if first or len(self.names) == 1 else ""
        self._fail(row, f"{width} fields, but {self._width_source} {len(self.names)}{hint}")

    def _fail(self, row: int | str, message: str) -> NoReturn:
        raise UserError(f"{self.path}: row {row}: {message}")


def _unclosed(dialect: Dialect) -> str:
    if dialect.quotes:
        why = "a quote opens a field and is not closed (--quoting none takes quotes as characters)"
        return f"cannot be parsed as a table: {why}"
    return "cannot be parsed as a table: the last line end is escaped"


def _value(record: Record, column: int) -> str | None:
    return record.values[column] if column < len(record.values) else None


def _joined(lines: pl.Series) -> bytes:
    text: str | None = lines.str.strip_chars_end("\r").str.join("\n").item()
    return (text or "").encode("utf-8")


def _measure(data: bytes, separator: str) -> _Lines:
    codes = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    if data and not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    lengths = ends - starts
    filled = np.flatnonzero(lengths)
    lengths[filled] -= codes[ends[filled] - 1] == ord("\r")
    before = np.searchsorted(np.flatnonzero(codes == ord(separator)), ends)
    return _Lines(ends, lengths, np.diff(before, prepend=0))
