"""Tables of numbers that no terminal is too narrow for: lines and columns change places before anything is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.measure import Measurement
from rich.table import Table

from rearec.cli.terminal import UNLIMITED

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

__all__ = ["Cell", "FittingTable", "plain_table"]


@dataclass(frozen=True)
class Cell:
    """A number, and what is left out of it first where it is narrow: ± its standard error, or (its interval)."""

    value: str
    more: str = ""

    def text(self, whole: bool) -> str:
        """With the rest or without."""
        return f"{self.value} {self.more}" if whole and self.more else self.value


@dataclass(frozen=True)
class FittingTable:
    """Lines of cells under columns, in the first of these forms that fits the width.

    As it is, or with lines as columns; either with less in the cells, unless ``whole``; as it is, with some columns
    after the others.
    """

    title: str
    columns: Sequence[str]
    lines: Sequence[tuple[str, Sequence[Cell]]]
    whole: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[str | Table]:
        if self.title:
            # A title in the table would be as narrow as the table.
            yield self.title
        for form in self._forms():
            if _width(console, options, form) <= options.max_width:
                yield form
                yield ""
                return
        for part in self._parts(console, options):
            yield part
            yield ""

    def _forms(self) -> Iterator[Table]:
        turned = [(name, [cells[place] for _, cells in self.lines]) for place, name in enumerate(self.columns)]
        for whole in (True,) if self.whole else (True, False):
            yield _table(self.columns, self.lines, whole)
            yield _table([name for name, _ in self.lines], turned, whole)

    def _parts(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """As many columns as fit beside names of half the width, one at least, then those after them."""
        longest = options.max_width // 2
        first = 0
        while first < len(self.columns):
            end = len(self.columns)
            while end > first + 1 and _width(console, options, self._part(first, end, longest)) > options.max_width:
                end -= 1
            yield self._part(first, end)
            first = end

    def _part(self, first: int, end: int, longest: int | None = None) -> Table:
        lines = [(name[:longest], cells[first:end]) for name, cells in self.lines]
        return _table(self.columns[first:end], lines, True)


def _width(console: Console, options: ConsoleOptions, table: Table) -> int:
    return Measurement.get(console, options.update(max_width=UNLIMITED), table).maximum


def _table(columns: Sequence[str], lines: Sequence[tuple[str, Sequence[Cell]]], whole: bool) -> Table:
    return plain_table(["", *columns], [[name, *(cell.text(whole) for cell in cells)] for name, cells in lines])


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """A table of texts, the first column left and the others right; what is too wide is folded, never cut."""
    table = Table(
        title=title or None,
        title_justify="left",
        box=SIMPLE_HEAD,
        show_header=any(columns),
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
