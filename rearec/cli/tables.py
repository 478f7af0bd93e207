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
    """A number, and what is left out of it first where it is narrow: its standard error."""

    value: str
    error: str = ""

    def text(self, errors: bool) -> str:
        """With its error or without."""
        return f"{self.value} ± {self.error}" if errors and self.error else self.value


@dataclass(frozen=True)
class FittingTable:
    """Lines of cells under columns, in the first of these forms that fits the width.

    As it is, or with lines as columns; either without errors; a part for every line.
    """

    title: str
    columns: Sequence[str]
    lines: Sequence[tuple[str, Sequence[Cell]]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[str | Table]:
        if self.title:
            # A title in the table would be as narrow as the table.
            yield self.title
        for form in self._forms():
            if Measurement.get(console, options.update(max_width=UNLIMITED), form).maximum <= options.max_width:
                break
        yield form
        yield ""

    def _forms(self) -> Iterator[Table]:
        turned = [(name, [cells[place] for _, cells in self.lines]) for place, name in enumerate(self.columns)]
        upright = (self.columns, self.lines), ([name for name, _ in self.lines], turned)
        for errors in (True, False):
            for columns, lines in upright:
                rows = [[name, *(cell.text(errors) for cell in cells)] for name, cells in lines]
                yield plain_table(["", *columns], rows)
        parts: list[list[str]] = []
        for name, cells in self.lines:
            parts += [[name, ""], *([f"  {of}", cell.text(True)] for of, cell in zip(self.columns, cells, strict=True))]
        yield plain_table(["", ""], parts)


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
