"""What all plots share: colours, names as they are drawn, labels, grid."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable

from matplotlib.axes import Axes

from rearec.errors import visible
from rearec.report.floors import FLOORS

__all__ = [
    "CHARACTERS",
    "METHOD_COLORS",
    "colors",
    "finish",
    "known_color",
    "level_style",
    "plain",
    "width_of",
    "wrapped",
]

# Of different lightness too, so that they stay apart in print without colours.
METHOD_COLORS = {"base": "#1f5fa8", "naive": "#a678c8", "rpe": "#b22222", "erl": "#ff9a2e", "prl": "#2ca02c"}
# As lines across bars of any colour.
FLOOR_LINE_COLOR = "0.1"
OTHER_COLORS = ("#00798c", "#8c564b", "#b8336a", "#6b6b00", "0.3", "black")

# Characters of the usual font size that fit into an inch.
CHARACTERS = 11.0
# Inches that the numbers and the label of a y axis take.
LABELS_WIDTH = 0.75
# Of a title, which may be as wide as axes and labels together.
TITLE_CHARACTERS = 9.5


def known_color(name: str) -> str | None:
    """The colour of the method or floor that a name begins with: "erl, mean of its states" has erl's."""
    word = _first_word(name)
    return FLOORS[word].color if word in FLOORS else METHOD_COLORS.get(word)


def colors(series: Iterable[str], levels: Iterable[str] = ()) -> dict[str, str]:
    """A colour for each name.

    The first series of a method or floor has its colour, those that are left take turns at the others. A level has the
    colour of the series that its name begins with, or else of its method; a floor is dark.
    """
    others = itertools.cycle(OTHER_COLORS)
    found: dict[str, str] = {}
    for name in series:
        color = known_color(name)
        found[name] = next(others) if color is None or color in found.values() else color
    drawn = dict(found)
    for name in levels:
        own = max((each for each in drawn if name.startswith(each)), key=len, default=None)
        if _first_word(name) in FLOORS:
            found[name] = FLOOR_LINE_COLOR
        else:
            found[name] = drawn[own] if own is not None else known_color(name) or next(others)
    return found


def level_style(name: str) -> str | tuple[int, tuple[float, ...]]:
    """The dashes of a line that stands for a name: those of a floor, or the usual ones."""
    word = _first_word(name)
    return FLOORS[word].dashes if word in FLOORS else "--"


def _first_word(name: str) -> str:
    match = re.match(r"\w+", name)
    return match.group().lower() if match else ""


def plain(name: str) -> str:
    """A name as matplotlib is to show it: it takes what stands between dollars for mathematics, and leaves names that
    begin with an underscore out of legends."""
    shown = visible(name).replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


def wrapped(name: str, characters: int) -> str:
    """A name as `plain`, in lines of about so many characters; a longer word is not cut."""
    return textwrap.fill(plain(name), characters, break_long_words=False, break_on_hyphens=False)


def width_of(axes: Axes) -> float:
    """About how many inches across they will be, once their labels have their room."""
    return _column_width(axes) - LABELS_WIDTH


def finish(axes: Axes, xlabel: str, ylabel: str, title: str, *, grid: str | None = "y") -> None:
    """Labels, a title in as many lines as it needs, and grid lines across that axis."""
    axes.set(xlabel=xlabel, ylabel=ylabel, title=wrapped(title, int(TITLE_CHARACTERS * _column_width(axes))))
    if grid is not None:
        axes.grid(axis=grid, color="0.9", linewidth=0.8)  # type: ignore[arg-type]
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def _column_width(axes: Axes) -> float:
    """Inches across of the part of the figure that the axes have with their labels."""
    place = axes.get_subplotspec()
    columns = 1 if place is None else place.get_gridspec().ncols
    return axes.figure.get_figure(root=True).get_figwidth() / columns
