"""Quotes of which nobody said how they are meant: read where one reading alone is likely, else refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rearec.data.tables.records import Dialect, Fault, Quoted, Record, Unfinished, read_record

__all__ = ["Columns", "read_likely_record"]

# How far behind a quote that opens a field of a tab separated table one that closes it is looked for.
TAB_FIELD = 1 << 20
# How far a record that cannot be read is searched for quotes behind backslashes.
BACKSLASHED = 1 << 16
EITHER = "--quoting csv takes it as it is, --quoting none takes quotes as characters"
NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*")
PROPER = re.compile(r'"((?:[^"]|"")*)"')


class Columns:
    """What the cells of a table look like, by some of its rows."""

    def __init__(self, rows: Sequence[Sequence[str | None]], width: int) -> None:
        self.width = width
        self.known = len(rows) > 2
        columns = [[row[column] or "" for row in rows] for column in range(width)] if self.known else []
        self._filled = [all(cells) for cells in columns]
        self._number = [all(map(NUMBER.fullmatch, filter(None, cells))) for cells in columns]
        self._token = [not any(re.search(r"\s", cell) for cell in cells) for cells in columns]
        lengths = [[len(cell) for cell in cells if cell] or [0] for cells in columns]
        self._lengths = [(min(part) / 2, max(part) * 2) for part in lengths]

    def resembles(self, column: int, cell: str) -> bool | None:
        """Whether the cell looks like those of the column; None where they look like any text."""
        if not self.known:
            return None
        if not cell:
            return False if self._filled[column] else None
        if self._number[column]:
            return NUMBER.fullmatch(cell) is not None
        shortest, longest = self._lengths[column]
        return (re.search(r"\s", cell) is None and shortest <= len(cell) <= longest) if self._token[column] else None


def read_likely_record(text: str, start: int, dialect: Dialect, columns: Columns, final: bool) -> Record:
    """The record that begins at the character ``start``, as `read_record`.

    Args:
        final: whether nothing comes after ``text``.

    Raises:
        Fault: as in `read_record`; quotes are escaped by backslashes; rows or fields seem to be swallowed.
        Unfinished: as in `read_record`.
    """
    record: Record | None = None
    fault: Fault | Unfinished | None = None
    try:
        record = read_record(text, start, dialect)
    except (Fault, Unfinished) as error:
        fault = error
    _refuse_backslashes(text, start, dialect, columns, record, fault, final)
    if dialect.separator == "\t":
        literal = _literal_record(text, start, columns.width)
        if literal is not None and (record is None or _spans_lines(record)):
            if isinstance(fault, Unfinished) and not final and len(text) - start < TAB_FIELD:
                raise fault
            if record is None or _all_lines_full(text, start, record, columns.width):
                _refuse_half_quoted(text, start, literal)
                return literal
    if fault is not None:
        raise fault
    assert record is not None
    if _spans_lines(record) and len(record.values) < columns.width:
        raise Fault(start, f"{len(record.values)} fields, one of which spans lines: {EITHER}", record.end - 2)
    for field in record.quoted:
        if "\n" in field.text and _holds_rows(record, field, dialect.separator, columns):
            message = f"one field in quotes that looks like whole rows: {EITHER}"
            raise Fault(field.at, message, field.at + len(field.text))
    end = text.find("\n", start) + 1 or len(text) + 1
    cells = text.count(dialect.separator, start, end) + 1
    if record.end == end and len(record.values) < columns.width == cells:
        raise Fault(start, f"{len(record.values)} fields, or {cells} if its quotes are characters: {EITHER}")
    return record


def _spans_lines(record: Record) -> bool:
    return any("\n" in field.text for field in record.quoted)


def _refuse_backslashes(
    text: str,
    start: int,
    dialect: Dialect,
    columns: Columns,
    record: Record | None,
    fault: Fault | Unfinished | None,
    final: bool,
) -> None:
    """Fault where a reading with quotes behind backslashes gives a row, and the other gives none or a different one."""
    at = text.find('\\"', start, start + BACKSLASHED if record is None else record.end)
    if at < 0:
        return
    try:
        other = read_record(text, start, replace(dialect, escape="\\"))
    except Unfinished:
        if final or len(text) - start > BACKSLASHED:
            return
        raise
    except Fault:
        return
    if len(other.values) != columns.width or not any('\\"' in field.text for field in other.quoted):
        return
    if fault is not None or record is None or len(record.values) != columns.width:
        raise Fault(at, r"quotes seem to be escaped by a backslash: --escape '\' reads them")
    if record.values != other.values:
        either = r"--escape '\' takes it as part of the field, --quoting csv as RFC 4180 does"
        raise Fault(at, f"a quote behind a backslash, which can be read in two ways: {either}")


def _holds_rows(record: Record, field: Quoted, separator: str, columns: Columns) -> bool:
    """Whether the lines of a quoted field, cut at its line ends, look as if they were rows of the table.

    They do if they have the right numbers of fields, and at least half of those that can be told look like their
    columns: the text of a review may well have as many commas.
    """
    if columns.width < 2 or len(record.values) > columns.width:
        return False
    first, *inner, last = (line.rstrip("\r").split(separator) for line in field.text.split("\n"))
    inner = [line for line in inner if line != [""]]
    counts = [field.column + len(first), *map(len, inner), len(last) + columns.width - 1 - field.column]
    if any(count != columns.width for count in counts):
        return False
    cells = [*enumerate(first[1:], start=field.column + 1), *enumerate(last[:-1])]
    cells += [cell for line in inner for cell in enumerate(line)]
    evidence = [columns.resembles(column, cell) for column, cell in cells]
    return 2 * evidence.count(True) >= len(evidence) - evidence.count(None)


def _literal_record(text: str, start: int, width: int) -> Record | None:
    """The line as a record whose quotes are characters, unless they enclose a field; None if fields are missing."""
    end = text.find("\n", start)
    end = len(text) if end < 0 else end
    cells = text[start:end].rstrip("\r").split("\t")
    if len(cells) != width or any("\r" in cell for cell in cells):
        return None
    proper = [PROPER.fullmatch(cell) for cell in cells]
    values = [
        (cell or None) if match is None else match[1].replace('""', '"')
        for cell, match in zip(cells, proper, strict=True)
    ]
    return Record(values, end + 1, [Quoted(n, start, match[1]) for n, match in enumerate(proper) if match is not None])


def _all_lines_full(text: str, start: int, record: Record, width: int) -> bool:
    lines = text[start : record.end - 1].split("\n")
    return all(line.count("\t") == width - 1 for line in lines if line.rstrip("\r"))


def _refuse_half_quoted(text: str, start: int, literal: Record) -> None:
    """Fault where a cell stands in quotes and has others that are not doubled: who wrote it meant to quote."""
    enclosed = {field.column for field in literal.quoted}
    for column, cell in enumerate(literal.values):
        if column not in enclosed and cell and len(cell) > 1 and cell.startswith('"') and cell.endswith('"'):
            raise Fault(
                start, f"the quotes within {cell[:30]!r} are not doubled: --quoting none takes all as characters"
            )
