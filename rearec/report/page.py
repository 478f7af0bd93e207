"""A Markdown page with its tables (csv) and figures (PNG, SVG, PDF) beside it."""

from __future__ import annotations

import csv
import numbers
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from rearec.errors import UserError, visible
from rearec.files import check_way, open_aside, write_aside
from rearec.report.digits import column_decimals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "Markdown", "Page", "PlainTable", "check_formats", "escape", "write_figure"]

# Of figures; those that a page can show come first.
FORMATS = ("png", "svg", "pdf")
SHOWN_FORMATS = ("png", "svg")
DOTS_PER_INCH = 150
STANDARD_ERROR = "_se"
Row = Mapping[str, Any]

# What begins a construct of Markdown, of tables, mathematics or emoji codes of GitHub's; a "_" within a word does not.
_SPECIAL = re.compile(r"[\\`*\[\]<>#&~|$]|(?<![^\W_])_|_(?![^\W_])|:(?=[\w+-]+:)")
# What begins a list or underlines a heading at the beginning of a line.
_BEGINNING = re.compile(r"^(\s*\d*)([-+=.)])")


class Markdown(str):
    """Text that is Markdown already: in a table it stands as it is, where other text is escaped."""


@dataclass(frozen=True)
class PlainTable:
    """The cells of a table as they are read: by line and column a text and, where it has one, its standard error."""

    columns: list[str]
    numeric: list[bool]
    lines: list[list[tuple[str, str]]]


class Page:
    """One Markdown page, put together part by part and written at the end.

    Nothing is written before `write`; every file is written aside and renamed, the page last, so that a page that is
    there has all it refers to. What an earlier page of that name has left is replaced.

    Args:
        folder: where the page goes; made by `write` where it is missing.
        name: of the Markdown file, without its extension.
        title: the first heading, as plain text.
        formats: in which figures are written, some of ``FORMATS``. The page shows the first of them that it can show;
            the others stand beside it.

    Attributes:
        tables: those of the page so far, as they are read.

    Raises:
        UserError: no or an unknown format.
    """

    def __init__(self, folder: Path, name: str, title: str, *, formats: Sequence[str] = ("png",)) -> None:
        check_formats(formats)
        self.folder = Path(folder)
        self.name = name
        self.formats = tuple(dict.fromkeys(formats))
        self._parts = [f"# {escape(title)}"]
        self._writers: dict[str, Callable[[Path], None]] = {}
        self.tables: list[PlainTable] = []

    @property
    def files(self) -> list[Path]:
        """What `write` writes: the csv files and figures so far, then the page."""
        return [*(self.folder / file for file in self._writers), self._page]

    @property
    def markdown(self) -> str:
        """The page so far."""
        return "\n\n".join(self._parts) + "\n"

    @property
    def _page(self) -> Path:
        return self.folder / f"{self.name}.md"

    def text(self, markdown: str) -> None:
        """Add paragraphs, a list or a heading; what a user may have written in it has to be escaped (`escape`)."""
        self._parts.append(markdown.strip())

    def code(self, line: str) -> None:
        """Add a line of code, whatever it holds."""
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", line)), default=0))
        self._parts.append(f"{fence}\n{visible(line)}\n{fence}")

    def table(
        self, rows: Sequence[Row], name: str | None = None, *, caption: str = "", shared: Row | None = None
    ) -> None:
        """Add a table: numbers rounded for reading, alike in a column, and with ``name`` also unrounded as NAME.csv.

        Args:
            rows: the cells of each row by column; the columns are those of all rows, in the order they come up. Cells
                and columns are plain text, unless they are `Markdown`. A
                missing cell and None are shown as "–" and left empty in the csv. In the Markdown table a column
                ``X_se`` (a standard error) has no place of its own but is shown as ± in the cells of ``X``.
            caption: stands above the table.
            shared: as in `data`; the caption has to say it.

        Raises:
            ValueError: no row, or a name that is taken or not made of letters, digits, ``_``, ``.`` and ``-``.
        """
        table = _plain_table(rows, _columns(rows))
        if caption:
            self.text(caption)
        self.tables.append(table)
        self._parts.append(_markdown_table(table))
        if name is not None:
            self.data(rows, name, shared=shared)

    def data(self, rows: Sequence[Row], name: str, *, shared: Row | None = None) -> None:
        """Add a link to NAME.csv alone, which holds these rows unrounded.

        shared: cells that are the same in all rows, in columns after theirs.

        Raises:
            ValueError: as `table`.
        """
        rows = [{**row, **(shared or {})} for row in rows]
        columns = _columns(rows)
        cells = [[_csv_cell(row.get(column)) for column in columns] for row in rows]
        file = self._add(f"{name}.csv", lambda path: _write_csv(path, [columns, *cells]))
        self.text(f"[{file}]({file})")

    def figure(self, figure: Figure, name: str, caption: str) -> None:
        """Add a figure, NAME.png (or in the page's formats), with its caption below.

        Raises:
            ValueError: as `table`.
        """
        files = {each: self._add(f"{name}.{each}", lambda path: write_figure(path, figure)) for each in self.formats}
        shown = next((files.pop(each) for each in self.formats if each in SHOWN_FORMATS), None)
        if shown is not None:
            self.text(f"![{name}]({shown})")
        if files:
            self.text(" ".join(f"[{file}]({file})" for file in files.values()))
        self.text(caption)

    def write(self) -> Path:
        """Write everything; returns the path of the page.

        Raises:
            UserError: the folder or a file cannot be written.
        """
        check_way(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be made: {error.strerror}") from error
        for file, write in self._writers.items():
            write(self.folder / file)
        write_aside(self._page, self.markdown)
        return self._page

    def _add(self, file: str, write: Callable[[Path], None]) -> str:
        if not re.fullmatch(r"[\w.-]+", file):
            raise ValueError(f"name: got {file!r}, expected letters, digits, '_', '.' and '-'")
        if file in self._writers:
            raise ValueError(f"name: the page already has a file {file!r}")
        self._writers[file] = write
        return file


def check_formats(formats: Sequence[str]) -> None:
    """UserError for no or an unknown format of figures."""
    unknown = [each for each in formats if each not in FORMATS]
    if unknown or not formats:
        got = repr(unknown[0]) if unknown else "none"
        raise UserError(f"format of figures: got {got}, expected some of {', '.join(FORMATS)}")


def escape(text: str) -> Markdown:
    """Text of any origin as Markdown that shows it as it is, in one line, wherever it stands."""
    return Markdown(_BEGINNING.sub(r"\1\\\2", _in_a_line(text)))


def _in_a_line(text: str) -> str:
    """The same of text that does not begin a line."""
    return text if isinstance(text, Markdown) else _SPECIAL.sub(r"\\\g<0>", visible(text))


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure in the format that the name ends with, pixels at 150 dots per inch, aside, then rename it."""
    import matplotlib

    # Letters of a PDF can be searched and edited; the same figure is the same file.
    settings: dict[Any, Any] = {"pdf.fonttype": 42, "svg.hashsalt": "rearec"}
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    form = path.suffix.removeprefix(".")
    with open_aside(path, "wb") as file, matplotlib.rc_context(settings), warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes; the page and its csv have them.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(file, format=form, dpi=DOTS_PER_INCH, metadata=metadata.get(form))


def _columns(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not columns:
        raise ValueError("rows: got no cells, expected at least one row")
    return columns


def _plain_table(rows: Sequence[Row], columns: Sequence[str]) -> PlainTable:
    errors = {f"{column}{STANDARD_ERROR}" for column in columns}
    shown = [column for column in columns if column not in errors]
    numeric = [all(_is_number(row.get(column)) or row.get(column) is None for row in rows) for column in shown]
    decimals = {column: column_decimals(_fractions(rows, column)) for column in shown}
    return PlainTable(shown, numeric, [[_cell(row, column, decimals[column]) for column in shown] for row in rows])


def _markdown_table(table: PlainTable) -> str:
    lines = [[_in_a_line(column) for column in table.columns], ["--:" if right else ":--" for right in table.numeric]]
    lines += [[_in_a_line(text) + (f" ± {error}" if error else "") for text, error in cells] for cells in table.lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fractions(rows: Sequence[Row], column: str) -> list[float]:
    """The numbers of a column and their standard errors that are no integers."""
    values = (row.get(name) for row in rows for name in (column, f"{column}{STANDARD_ERROR}"))
    return [float(value) for value in values if _is_number(value) and not isinstance(value, numbers.Integral)]


def _cell(row: Row, column: str, decimals: int) -> tuple[str, str]:
    error = row.get(f"{column}{STANDARD_ERROR}")
    return _readable(row.get(column), decimals), "" if error is None else _readable(error, decimals)


def _is_number(value: object) -> TypeGuard[numbers.Real]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _readable(value: object, decimals: int) -> str:
    """A cell without what Markdown needs."""
    if value is None:
        return "–"
    if _is_number(value):
        return f"{int(value):,}" if isinstance(value, numbers.Integral) else f"{float(value):,.{decimals}f}"
    return ("yes" if value else "no") if isinstance(value, bool) else value if isinstance(value, str) else str(value)


def _csv_cell(value: object) -> object:
    return "" if value is None else value


def _write_csv(path: Path, lines: Sequence[Sequence[object]]) -> None:
    # A carriage return in a field is quoted with all the others or not at all.
    bare = any("\r" in cell for line in lines for cell in line if isinstance(cell, str))
    with open_aside(path) as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL)
        writer.writerows(lines)
