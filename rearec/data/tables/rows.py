"""The rows of a block of a text table: by polars where lines are rows by themselves, else one by one."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.data.tables.hints import width_hint
from rearec.data.tables.quoting import Columns, read_likely_record
from rearec.data.tables.records import Dialect, Fault, Record, Unfinished, read_record
from rearec.data.tables.table import SAMPLE_ROWS
from rearec.errors import UserError

__all__ = ["RowParser", "Rows", "fail_record"]

# Beyond this many columns one pattern for a whole line becomes too large.
PATTERN_COLUMNS = 64


class Rows(NamedTuple):
    """Rows that were read, and the lines in which they begin; ``end``: the bytes of the block that they make up."""

    frame: pl.DataFrame
    numbers: NDArray[np.int64]
    end: int


class _Lines(NamedTuple):
    """Of each line of a block: its end, its length without the line end, the number of its separators."""

    ends: NDArray[np.int64]
    lengths: NDArray[np.int64]
    separators: NDArray[np.int64]


class RowParser:
    """Parses the rows of one table.

    Args:
        names: of all columns.
        width_source: what says how many columns there are, as in "the first row has".
        doubtful: whether quotes that are likely to be meant otherwise are refused (quoting "auto").
    """

    def __init__(self, path: Path, names: Sequence[str], width_source: str, doubtful: bool) -> None:
        self.path = path
        self.names = names
        self.width_source = width_source
        self.doubtful = doubtful
        self._unique_names = _unique(names)
        self._likeness: Columns | None = None
        self._first_row: int | None = None

    def parse(self, data: bytes, dialect: Dialect, wanted: list[int], first_row: int, final: bool) -> Rows:
        """The columns ``wanted`` (by their numbers) of whole lines, of which the first is ``first_row``.

        Args:
            final: whether nothing comes after ``data``; else a row that it cuts off is left.

        Raises:
            UserError: a row has too many fields, or its quotes are wrong or doubtful.
        """
        if self._first_row is None:
            self._first_row = first_row
        lines = _measure(data, dialect.separator)
        returns = data.count(b"\r") != data.count(b"\r\n")
        if returns or (dialect.quotes and b'"' in data) or (dialect.escape and dialect.escape.encode() in data):
            return self._parse_one_by_one(data, dialect, wanted, first_row, final)
        width = len(self.names)
        long = lines.separators >= width
        if long.any():
            index = int(long.argmax())
            self._fail_width(first_row + index, int(lines.separators[index]) + 1)
        frame = self._parse_lines(data, dialect, wanted, len(lines.ends))
        filled = np.flatnonzero(lines.lengths)
        if wanted and len(filled) < len(lines.ends):
            frame = frame[filled]
        return Rows(frame, filled + first_row, len(data))

    def _parse_lines(self, data: bytes, dialect: Dialect, wanted: list[int], height: int) -> pl.DataFrame:
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
        # Older versions do not keep the order of ``columns``.
        frame = frame[1:].select([f"column_{index + 1}" for index in wanted])
        if frame.height != height:
            raise UserError(f"{self.path}: {height} lines were read as {frame.height} rows: please report this file")
        frame.columns = names
        return frame

    def _parse_one_by_one(self, data: bytes, dialect: Dialect, wanted: list[int], first_row: int, final: bool) -> Rows:
        """Rows of a block in which some need a closer look."""
        text = data.decode("utf-8")
        lines = pl.Series("lines", [text]).str.split("\n").explode()
        if text.endswith("\n"):
            lines = lines.head(-1)
        blank = lines.str.contains(r"^\r*$").to_numpy()
        plain = self._well_formed(lines, dialect).to_numpy() & ~blank
        if self._likeness is None or not self._likeness.known:
            part = lines.filter(pl.Series(plain)).head(SAMPLE_ROWS)
            examples = self._parse_lines(_joined(part), dialect, list(range(len(self.names))), len(part))
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
        frame = self._parse_lines(_joined(simple), dialect, wanted, len(simple))
        if wanted:
            values = {self._unique_names[i]: [_value(record, i) for record in records.values()] for i in wanted}
            frame = pl.concat([frame, pl.DataFrame(values, schema=dict.fromkeys(values, pl.String))])
        indices = np.concatenate((np.flatnonzero(plain), np.asarray(list(records), dtype=np.int64)))
        order = np.argsort(indices)
        used = len(data) if end == len(lines) else len(text[: starts[end]].encode())
        return Rows(frame[order] if wanted else frame, indices[order] + first_row, used)

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
        if dialect.quotes and self.doubtful:
            formed &= ~lines.str.contains('\\"', literal=True)
        return formed

    def _read_record(self, text: str, start: int, dialect: Dialect, first_row: int, final: bool) -> Record:
        try:
            if dialect.quotes and dialect.escape is None and self.doubtful:
                assert self._likeness is not None
                record = read_likely_record(text, start, dialect, self._likeness, final)
            else:
                record = read_record(text, start, dialect)
        except Fault as fault:
            fail_record(self.path, text, first_row, fault, dialect)
        except Unfinished as unfinished:
            if not final:
                raise
            fail_record(self.path, text, first_row, unfinished, dialect)
        if len(record.values) > len(self.names):
            self._fail_width(first_row + text.count("\n", 0, start), len(record.values))
        return record

    def _fail_width(self, row: int, width: int) -> NoReturn:
        # Where the row below the header has more already, it is the header that is wrong.
        hint = width_hint(width, self.names) if row == self._first_row or len(self.names) == 1 else ""
        raise UserError(f"{self.path}: row {row}: {width} fields, but {self.width_source} {len(self.names)}{hint}")


def fail_record(path: Path, text: str, first_row: int, error: Fault | Unfinished, dialect: Dialect) -> NoReturn:
    """UserError for a record of a text that begins in the row ``first_row``."""
    row = str(first_row + text.count("\n", 0, error.at))
    if isinstance(error, Fault):
        message = error.message
        if error.until is not None:
            row += f" to {first_row + text.count(chr(10), 0, error.until)}"
    elif dialect.quotes:
        message = "a quote opens a field and is not closed (--quoting none takes quotes as characters)"
    else:
        message = "the last line end is escaped"
    raise UserError(f"{path}: row {row}: cannot be parsed as a table: {message}") from None


def _unique(names: Sequence[str]) -> list[str]:
    """The names, those that occur again as polars names them."""
    count: dict[str, int] = {}
    unique = []
    for name in names:
        again = count.get(name, 0)
        count[name] = again + 1
        unique.append(f"{name}_duplicated_{again - 1}" if again else name)
    return unique


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
