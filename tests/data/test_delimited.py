"""Text tables: what is refused with its row, what is read though it looks odd, what one says about the layout."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rearec.data.tables import delimited
from rearec.data.tables.files import line_blocks
from rearec.data.tables.layout import Layout
from rearec.data.tables.table_files import read_table
from rearec.errors import UserError

Write = Callable[[str, "str | bytes"], Path]

NAMES = ["user_id", "item_id", "timestamp"]
HEADER = "title,user_id,item_id,timestamp\n"


def rows_of(path: Path, columns: list[str], **layout: Any) -> list[tuple[str | None, ...]]:
    """The rows of the columns."""
    return read_table(path, columns, Layout(**layout)).frame.rows()


def fault(path: Path, columns: list[str] = NAMES, **layout: Any) -> str:
    """What is wrong, without the path; with a named column that must exist."""
    with pytest.raises(UserError) as caught:
        table = read_table(path, columns, Layout(**layout))
        for column in columns:
            table.column(column)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.fixture(params=[1 << 24, 20], ids=["one block", "small blocks"], autouse=True)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in blocks of this size."""
    monkeypatch.setattr(delimited, "line_blocks", functools.partial(line_blocks, size=request.param))


def with_titles(*titles: str) -> str:
    """A table of 12 rows whose rows 3 and 7 (of the file) have other titles."""
    named = dict(zip((3, 7), titles, strict=False))
    lines = [f"{named.get(n, 'x')},u{n % 3},i{n},{n}" for n in range(2, 14)]
    return HEADER + "\n".join(lines) + "\n"


EXPECTED = [(f"u{n % 3}", f"i{n}", str(n)) for n in range(2, 14)]
ESCAPED = r"row 3: cannot be parsed as a table: quotes seem to be escaped by a backslash: --escape '\' reads them"


@pytest.mark.parametrize("title", ['"5\\" disk"', '"5 disk \\""', '"\\"a\\", b"', '"a\\"\n b"'])
def test_quotes_escaped_by_backslashes_are_refused_or_read(title: str, write: Write) -> None:
    path = write("t.csv", with_titles(title, title))
    assert fault(path) == ESCAPED
    text = title[1:-1].replace('\\"', '"')
    found = rows_of(path, ["title", *NAMES], escape="\\")
    assert [row[1:] for row in found] == EXPECTED
    assert [row[0] for row in found] == [text if n in (3, 7) else "x" for n in range(2, 14)]


def test_an_escape_takes_the_meaning_from_what_would_end_a_field(write: Write) -> None:
    path = write("t.csv", 'a,b\n1\\,2,\\N\n"x\\\\","say ""a"" \\"b\\""\n1\\\n2,C:\\dir\n')
    table = read_table(path, ["a", "b"], Layout(escape="\\"))
    assert table.frame.rows() == [("1,2", "\\N"), ("x\\", 'say "a" "b"'), ("1\n2", "C:\\dir")]
    assert table.rows.tolist() == [2, 3, 4]


@pytest.mark.parametrize("title", ['5" disk', "say 'a'", '5"', 'L"Etoile "b"', '"C:\\dir\\"', '""', '"a ""b"""'])
def test_odd_quotes_that_can_be_meant_in_one_way_are_read(title: str, write: Write) -> None:
    path = write("t.csv", with_titles(title, title))
    assert rows_of(path, NAMES) == EXPECTED
    assert rows_of(path, NAMES, quoting="csv") == EXPECTED


def test_what_stands_behind_a_closing_quote_is_refused_where_the_field_begins(write: Write) -> None:
    message = (
        "row 3: cannot be parsed as a table: a field begins with a quote, but ' show,u0,i' follows the closing quote"
    )
    assert fault(write("t.csv", with_titles('"Great" show'))) == message
    path = write("u.csv", with_titles('"5 disk', '5" disk'))
    message = "row 3: cannot be parsed as a table: a field begins with a quote, but ' disk,u1,i' follows"
    assert fault(path).startswith(message) and fault(path, quoting="csv").startswith(message)
    assert rows_of(path, NAMES, quoting="none") == EXPECTED


def test_a_quote_that_is_never_closed_is_refused_where_it_stands(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("t.csv", with_titles("x", '"5 disk'))
    expected = "row 7: cannot be parsed as a table: a quote opens a field and is not closed"
    assert fault(path).startswith(expected) and fault(path, quoting="csv").startswith(expected)
    monkeypatch.setattr(delimited, "RECORD_BYTES", 30)
    monkeypatch.setattr(delimited, "line_blocks", functools.partial(line_blocks, size=50))
    assert fault(path).startswith("row 7: a field in quotes begins here and has no end within")


def test_rows_that_a_pair_of_quotes_swallows_are_refused(write: Write) -> None:
    path = write("t.csv", with_titles('"5 disk', 'disk 5"'))
    message = (
        "row 3 to 7: cannot be parsed as a table: one field in quotes that looks like whole rows: --quoting csv takes"
    )
    assert fault(path).startswith(message)
    assert len(rows_of(path, NAMES, quoting="csv")) == 8
    assert rows_of(path, NAMES, quoting="none") == EXPECTED
    # In two columns: the swallowed rows make a row that is too short or too long.
    path = write("u.csv", "a,b,c\n" + "1,2,3\n" * 3 + '"4,5,6\n7,8",9\n' + "1,2,3\n" * 3)
    message = "row 5 to 6: cannot be parsed as a table: 2 fields, one of which spans lines: --quoting csv takes it"
    assert fault(path, ["a"]).startswith(message)
    path = write("v.csv", 'a,b,c\n1,2,3\n1,"2,3"\n')
    assert fault(path, ["a"]).startswith(
        "row 3: cannot be parsed as a table: 2 fields, or 3 if its quotes are characters"
    )
    assert rows_of(path, ["a", "c"], quoting="csv") == [("1", "3"), ("1", None)]


REVIEWS = [
    "Good.\nI like it, it is small, and red",
    "a\nb",
    "One, two\n\nthree, four, five",
    "1\n2, 3, 4",
    'I say: "yes"\nand, "no", "why"',
    "\n\n",
]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_texts_over_several_lines_are_read(place: int, write: Write) -> None:
    header = NAMES.copy()
    header.insert(place, "text")
    lines, expected = [",".join(header)], []
    for number in range(60):
        text = REVIEWS[number % len(REVIEWS)] if number % 2 else "plain"
        cells = [f"user{number:04}", f"B00{number:07}", str(number)]
        expected.append((*cells, text))
        cells.insert(place, '"' + text.replace('"', '""') + '"')
        lines.append(",".join(cells))
    path = write("t.csv", "\n".join(lines))
    table = read_table(path, [*NAMES, "text"])
    assert table.frame.rows() == expected
    physical = "\n".join(lines).split("\n")
    assert [expected[n][0] in "".join(physical[row - 1 : row + 3]) for n, row in enumerate(table.rows)] == [True] * 60


def test_tab_separated_tables_may_have_quotes_or_not(write: Write) -> None:
    lines = [
        '"a"\tu\t"1"',
        '"Great" show\tv\t2',
        '"\tw\t3',
        '"x ""y"""\tx\t4',
        '"p\tq"\ty\t5',
        '5"\tz\t6',
        '"two\nlines"\tt\t7',
    ]
    path = write("t.tsv", "title\tuser\ttime\n" + "\n".join(lines) + "\n")
    titles = ["a", '"Great" show', '"', 'x "y"', "p\tq", '5"', "two\nlines"]
    expected = [(title, user, str(n)) for n, (title, user) in enumerate(zip(titles, "uvwxyzt", strict=True), start=1)]
    assert rows_of(path, ["title", "user", "time"]) == expected
    raw = [(title, user) for title, user, *_ in (line.split("\t") for line in lines[:4])]
    unquoted = write("u.tsv", "title\tuser\ttime\n" + "\n".join(lines[:4]) + "\n")
    assert rows_of(unquoted, ["title", "user"], quoting="none") == raw
    assert fault(write("v.tsv", 'title\tuser\n"5" disk"\tu\n'), ["user"]).startswith(
        "row 2: cannot be parsed as a table: "
    )
    assert fault(write("w.tsv", 'title\tuser\n"5\\" disk"\tu\n'), ["user"]).startswith(
        "row 2: cannot be parsed as a table: qu"
    )


@pytest.mark.parametrize(
    ("separator", "text"),
    [
        ("::", "a::b::c\n1::x:y::3\n"),
        ("||", "a||b||c\n1||x:y||3\n"),
        ("\\t", "a\tb\tc\n1\tx:y\t3\n"),
        ("tab", "a\tb\tc\n1\tx:y\t3\n"),
        ("space", "a b c\n1 x:y 3\n"),
        ("semicolon", "a;b;c\n1;x:y;3\n"),
        (r"\s+", "  a  b \t c\n1   x:y\t3  \r\n"),
        (r"\x01", "a\x01b\x01c\n1\x01x:y\x013\n"),
        ("¦", "a¦b¦c\n1¦x:y¦3\n"),
        ("::", 'a::b::c\n1::x:y::3\n2::"5 disk::4\n'),
    ],
)
def test_separators_as_one_types_them(separator: str, text: str, write: Write) -> None:
    path = write("t.dat", text)
    found = rows_of(path, ["a", "b", "c"], separator=separator)
    assert found == [("1", "x:y", "3"), ("2", '"5 disk', "4")][: len(found)] and found
    assert fault(write("u.dat", text + text[1:]), ["b", "d"], separator=separator).startswith("no column 'd'")


def test_movielens_is_read_as_it_is_shipped(write: Write) -> None:
    path = write("ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n2::914::3::978301968\n")
    names = ("user_id", "item_id", "rating", "timestamp")
    table = read_table(path, ["user_id", "timestamp"], Layout("::", names=names))
    assert table.frame.rows() == [("1", "978300760"), ("1", "978302109"), ("2", "978301968")]
    assert table.rows.tolist() == [1, 2, 3] and table.names == names
    assert table.sample.rows()[0] == ("1", "1193", "5", "978300760")
    movies = write("movies.dat", "661::Café (1996)::Drama\n".encode("latin-1"))
    assert rows_of(movies, ["t"], separator="::", encoding="latin-1", names=("i", "t", "g")) == [("Café (1996)",)]
    assert fault(movies, separator="::").startswith("row 1: not UTF-8 text (byte 0xe9); --encoding cp1252 or latin-1")
    assert fault(path).endswith(
        "it looks like fields separated by '::': --separator '::' --columns user_id,item_id,rating,timestamp"
    )
    hint = "(the first row looks like data, not like a header: --columns user_id,item_id,rating,timestamp)"
    assert fault(path, separator="::") == f"no column 'user_id'; the columns are '1', '1193', '5', '978300760' {hint}"


def test_names_are_for_tables_without_a_header(write: Write) -> None:
    names = ("user_id", "item_id", "rating")
    assert fault(write("a.csv", "1,2\n"), names=names) == "row 1: 2 fields, but --columns names 3"
    assert fault(write("b.csv", "1,2,3\n\n1,2,3,4\n"), names=names) == "row 3: 4 fields, but --columns names 3"
    assert fault(write("c.csv", "userId,itemId,Rating\n1,2,3\n"), names=names) == (
        "row 1: the file has a header ('rating' is in its first row): leave --columns out"
    )
    escaped = write("d.csv", '"5\\" disk",2,3\n')
    assert fault(escaped, names=names) == ESCAPED.replace("row 3", "row 1")
    parquet = write("p.jsonl", '{"a": 1}\n')
    assert fault(parquet, names=names).startswith("--columns is for text tables without a header; jsonl files name")


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("t.csv", "user_id;item_id\nu;1,5\n", "(one column with ';' in it: --separator ';')"),
        ("t.csv", "user_id\titem_id\nu\ta\n", "(one column with '\\t' in it: --separator '\\t')"),
        (
            "t.csv",
            "1|2|3|4\n1|2|3|4\n",
            "(one column with '|' in it: --separator '|' --columns user_id,item_id,rating,timestamp)",
        ),
        ("t.txt", "user_id,item_id\nu,a\n", "(one column with ',' in it: --separator ',')"),
        ("t.log", "1 2 3\n4 5 6\n", "separated by ' ': --separator ' ' --columns user_id,item_id,..."),
        (
            "t.data",
            "196\t242\t3\t881250949\n1\t2\t3\t4\n",
            "--separator '\\t' --columns user_id,item_id,rating,timestamp",
        ),
        ("t.dat", '{"a": 1}\n', "it looks like json: name it .jsonl (one object per line) or .json"),
        ("t.feather", "x", "unknown kind of table '.feather'; write it as parquet or csv"),
    ],
)
def test_what_another_layout_would_need_is_said(name: str, text: str, hint: str, write: Write) -> None:
    assert fault(write(name, text)).endswith(hint)


def test_lines_are_counted_as_an_editor_does(write: Write) -> None:
    path = write("t.csv", '\n\ntitle,user_id\r\n\r\n"a\nb",u\n\n\nc,v\r\r\n"d",w')
    table = read_table(path, ["title", "user_id"])
    assert table.frame.rows() == [("a\nb", "u"), ("c", "v"), ("d", "w")]
    assert table.rows.tolist() == [5, 9, 10]
    assert fault(write("u.csv", "a,b\n1,2\n1\r2,3\n"), ["a"]) == (
        "row 3: cannot be parsed as a table: a carriage return in the middle of a line"
    )


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("width", [3, 40, 300])
def test_wide_rows_are_checked_too(width: int, quote: str, write: Write) -> None:
    def line(cells: list[str]) -> str:
        return ",".join(f"{quote}{cell}{quote}" for cell in cells) + "\n"

    good = [[f"r{row}c{column}" for column in range(width)] for row in range(8)]
    text = line([f"n{column}" for column in range(width)]) + "".join(map(line, good))
    last = f"n{width - 1}"
    assert rows_of(write("a.csv", text), [last, "n0"]) == [(row[-1], row[0]) for row in good]
    long = write("b.csv", text + line([*good[0], "x"]) + line(good[0]))
    assert fault(long, ["n0"]) == f"row 10: {width + 1} fields, but the first row has {width}"
    # A short row and a long one have as many separators together as two good ones.
    both = write("c.csv", text + line(good[0][:-1]) + line([*good[0], "x"]))
    assert fault(both, ["n0"]) == f"row 11: {width + 1} fields, but the first row has {width}"
    assert rows_of(write("d.csv", text + line(good[0][:-1])), [last, "n0"])[-1] == (None, good[0][0])


def test_the_sample_has_all_columns_of_the_first_rows(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "line_blocks", functools.partial(line_blocks, size=1 << 12))
    text = "a,b,a,\n" + "".join(f'{n},"{n} x",y,\n' for n in range(1500))
    table = read_table(write("t.csv", text), ["b"])
    assert table.frame.shape == (1500, 1) and table.names == ("a", "b", "a", "")
    assert table.sample.columns == ["a", "b", "a_duplicated_0", ""]
    assert table.sample.rows() == [(str(n), f"{n} x", "y", None) for n in range(table.sample.height)]
    assert 1 <= table.sample.height <= 1000
    with pytest.raises(UserError, match="the column 'a' occurs more than once"):
        read_table(write("u.csv", text), ["a"]).column("a")
