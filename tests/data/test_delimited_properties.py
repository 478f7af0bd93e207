"""Text tables against small independent writers and readers: rows in are rows out, cell by cell, or an error."""

from __future__ import annotations

import bz2
import csv
import functools
import gzip
import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearec.data.tables import delimited
from rearec.data.tables.files import line_blocks
from rearec.data.tables.layout import Layout
from rearec.data.tables.table_files import read_table
from rearec.errors import UserError

Rows = list[list[str]]

PIECES = st.sampled_from(['"', '""', ",", ";", "|", "\t", ":", "::", "\\", '\\"', " ", "a", "b", "1", "22", "é", "x y"])
LINES = st.sampled_from(["\n", "\r\n", "\n\n"])
SIZES = st.sampled_from([7, 90, 1 << 24])


def zipped(data: bytes) -> bytes:
    """The data as the only member of an archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._t.csv", b"\0\1")
        archive.writestr("folder/t.csv", data)
    return file.getvalue()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zip": zipped,
}


@st.composite
def tables(draw: st.DrawFn, lines: bool = False) -> Rows:
    """A header and rows of any cells; with ``lines`` they may hold line ends."""
    width = draw(st.integers(2, 4))
    cell = st.lists(PIECES | LINES if lines else PIECES, max_size=4).map("".join)
    rows = draw(st.lists(st.lists(cell, min_size=width, max_size=width), min_size=1, max_size=6))
    return [[f"c{number}" for number in range(width)], *rows]


def read(data: bytes, layout: Layout, size: int = 1 << 24, suffix: str = "") -> Rows:
    """The table in the file, without what tells an empty cell in quotes from one without."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t.csv{suffix}"
        path.write_bytes(COMPRESSIONS[suffix](data))
        with patch.object(delimited, "line_blocks", functools.partial(line_blocks, size=size)):
            table = delimited.read_delimited(path, layout)
    names = table.names
    assert names == tuple(table.frame.columns) and table.sample.columns == list(names)
    text = data.decode(layout.encoding)
    lines = (text if "\n" in text else text.replace("\r", "\n")).split("\n")
    # A row stands where its first line is.
    assert all(lines[row - 1].strip("\r") for row in table.rows)
    assert sorted(set(table.rows.tolist())) == table.rows.tolist()
    return [list(names), *([cell or "" for cell in row] for row in table.frame.rows())]


def by_csv(data: bytes, encoding: str, **dialect: Any) -> Rows:
    """The same by Python's reader; short rows filled up."""
    rows = [row for row in csv.reader(io.StringIO(data.decode(encoding), newline=""), strict=True, **dialect) if row]
    return [row + [""] * (len(rows[0]) - len(row)) for row in rows]


def by_writer(rows: Rows, encoding: str = "utf-8", **dialect: Any) -> bytes:
    """The rows as Python's writer writes them."""
    text = io.StringIO()
    csv.writer(text, **dialect).writerows(rows)
    return text.getvalue().encode(encoding)


@settings(max_examples=60, deadline=None)
@given(
    tables(lines=True),
    st.sampled_from([",", ";", "|", "\t", " "]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16"]),
    st.sampled_from(sorted(COMPRESSIONS)),
    SIZES,
)
def test_what_a_writer_quotes_is_read_as_it_was(
    rows: Rows, separator: str, quoting: Any, line_end: str, encoding: str, suffix: str, size: int
) -> None:
    data = by_writer(rows, encoding, delimiter=separator, quoting=quoting, lineterminator=line_end)
    assert by_csv(data, encoding, delimiter=separator) == rows
    assert read(data, Layout(separator, "csv", encoding=encoding), size, suffix) == rows
    try:
        assert read(data, Layout(separator, encoding=encoding), size, suffix) == rows
    except UserError:
        # Refused is right where the text can be read otherwise: where it has odd quotes.
        assert any('"' in cell or "\n" in cell or separator in cell for row in rows for cell in row)


@settings(max_examples=60, deadline=None)
@given(
    tables(lines=True),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE]),
    SIZES,
)
def test_what_a_writer_escapes_is_read_as_it_was(rows: Rows, separator: str, quoting: Any, size: int) -> None:
    rows = [[cell.replace("\r", "") for cell in row] for row in rows]
    if quoting == csv.QUOTE_NONE:
        # Of these writers leave the first character of a line end as it is.
        rows = [[cell.replace("\n", "") or "-" for cell in row] for row in rows]
    dialect: dict[str, Any] = {"delimiter": separator, "escapechar": "\\", "doublequote": False, "quoting": quoting}
    data = by_writer(rows, lineterminator="\n", **dialect)
    layout = Layout(separator, "none" if quoting == csv.QUOTE_NONE else "csv", "\\")
    if by_csv(data, "utf-8", delimiter=separator, escapechar="\\", doublequote=False, quoting=quoting) == rows:
        assert read(data, layout, size) == rows
    try:
        found = read(data, Layout(separator), size)
    except UserError:
        assert b"\\" in data or b'"' in data
        return
    # Where no quote encloses it a backslash is a character.
    bare = [[[cell.replace("\\", "") for cell in row] for row in table] for table in (found, rows)]
    assert bare[0] == bare[1]


@settings(max_examples=60, deadline=None)
@given(
    tables(), st.sampled_from([",", ";", "|", "\t", " ", "::", "||", "¦"]), st.sampled_from(["\n", "\r\n", "\r"]), SIZES
)
def test_without_quotes_every_line_is_split(rows: Rows, separator: str, line_end: str, size: int) -> None:
    # Neither cells of which nothing remains nor such as run into the separator.
    rows = [[cell.replace(separator[0], "") or "-" for cell in row] for row in rows]
    data = line_end.join(separator.join(row) for row in rows).encode()
    assert read(data, Layout(separator, "none"), size) == rows


@settings(max_examples=150, deadline=None)
@given(tables(), st.sampled_from([",", ";", "\t"]), st.lists(st.sampled_from("\0'n"), min_size=6, max_size=6), SIZES)
def test_broken_quotes_lose_no_row_and_no_cell(rows: Rows, separator: str, styles: list[str], size: int) -> None:
    # Quotes around no cell of a row, all of them, or those that are no numbers; quotes within are not doubled.
    rows = [[cell.replace(separator, "").replace("\\", "") for cell in row] for row in rows]
    lines = [separator.join(rows[0])]
    for row, style in zip(rows[1:], styles, strict=False):
        quoted = [style == "'" or (style == "n" and not cell.isdigit()) for cell in row]
        lines.append(separator.join(f'"{cell}"' if mark else cell for cell, mark in zip(row, quoted, strict=True)))
    try:
        found = read("\n".join(lines).encode(), Layout(separator), size)[1:]
    except UserError:
        assert any('"' in line for line in lines)
        return
    assert len(found) == len(lines) - 1
    for line, cells in zip(lines[1:], found, strict=True):
        # Whatever is taken for a quote around a cell or not, the text is the same.
        assert [cell.replace('"', "") for cell in cells] == [cell.replace('"', "") for cell in line.split(separator)]


STYLES = {
    "bare": "x",
    "quoted": '"x"',
    "comma": '"x, y"',
    "doubled": '"5"" disk"',
    "backslash": '"5\\" disk"',
    "backslash at the end": '"5 disk \\""',
    "stray": '5" disk',
    "stray at the end": '5 disk"',
    "open": '"5 disk',
    "enclosed": '"5" disk"',
    "text behind": '"great" show',
    "empty": '""',
    "line end": '"two\nlines"',
    "lone": '"',
    "path": '"C:\\dir\\"',
}


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("first", STYLES)
def test_twelve_rows_in_twelve_out_or_refused(first: str, suffix: str, place: int, tmp_path: Path) -> None:
    separator = "," if suffix == ".csv" else "\t"
    path = tmp_path / f"t{suffix}"
    read_rows = 0
    styles = list(STYLES)
    for second in styles[styles.index(first) :]:
        for every in (2, 5):
            lines = []
            for number in range(12):
                cells = [f"u{number // 4}", f"i{number % 5}", str(number)]
                cells.insert(place, STYLES[first if number % every else second])
                lines.append(separator.join(cells))
            names = ["user_id", "item_id", "timestamp"]
            header = [*names[:place], "title", *names[place:]]
            path.write_text(separator.join(header) + "\n" + "\n".join(lines) + "\n", newline="")
            try:
                table = read_table(path, names)
            except UserError:
                continue
            expected = [(f"u{number // 4}", f"i{number % 5}", str(number)) for number in range(12)]
            assert table.frame.rows() == expected, (second, every)
            read_rows += 12
    # With what a row of its own can hold some pair is read.
    assert read_rows or first in ("backslash", "backslash at the end", "open", "enclosed", "text behind", "lone")
