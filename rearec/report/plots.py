"""Figures: one plot, or several as panels, with one legend below, where it covers nothing.

``figure(draw_lines, series, xlabel=..., ylabel=...)`` and ``panels([partial(draw_bars, ...), ...])`` return a
`matplotlib.figure.Figure` that belongs to nobody (no pyplot state). A series that is named after a method has the
method's colour everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rearec.report.bars import draw_bars, draw_parts
from rearec.report.heatmap import draw_heatmap
from rearec.report.lines import draw_lines
from rearec.report.style import CHARACTERS, METHOD_COLORS, plain

__all__ = ["METHOD_COLORS", "draw_bars", "draw_heatmap", "draw_lines", "draw_parts", "figure", "panels"]

# Inches. A wide panel has the whole width, so that a narrow screen still shows its letters.
SINGLE = (6.4, 4.4)
PANEL = (4.4, 3.8)
WIDE_PANEL = (6.4, 3.3)
LEGEND_ROW = 0.22

Drawing = Callable[[Axes], None]
Arguments = ParamSpec("Arguments")


def figure(
    draw: Callable[Concatenate[Axes, Arguments], None], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Figure:
    """One plot: ``draw(axes, *args, **kwargs)`` on the axes of a new figure."""
    return _grid([lambda axes: draw(axes, *args, **kwargs)], SINGLE)


def panels(drawings: Sequence[Drawing], *, title: str = "", columns: int = 1, same_y: bool = False) -> Figure:
    """Several plots in one figure, row by row, with one legend.

    Args:
        drawings: what draws each panel on its axes, e.g. ``partial(draw_lines, series=..., xlabel=..., ylabel=...)``.
        title: of the figure.
        columns: most panels side by side; those one below the other are wide.
        same_y: all have the same y axis.
    """
    return _grid(drawings, WIDE_PANEL if columns == 1 else PANEL, title=title, columns=columns, same_y=same_y)


def _grid(
    drawings: Sequence[Drawing], size: tuple[float, float], *, title: str = "", columns: int = 1, same_y: bool = False
) -> Figure:
    """The drawings row by row on axes of this size each, with one legend below."""
    across = min(columns, len(drawings))
    down = math.ceil(len(drawings) / across)
    figure = Figure(figsize=(size[0] * across, size[1] * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=same_y).ravel()
    for axes, draw in zip(grid, drawings, strict=False):
        draw(axes)
    for axes in grid[len(drawings) :]:
        axes.set_visible(False)
    figure.suptitle(plain(title))
    rows = _legend(figure, list(grid[: len(drawings)]), figure.get_figwidth())
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(0, rows - 2))
    return figure


def _legend(figure: Figure, drawn: Sequence[Axes], width: float) -> int:
    """One legend for these axes below them, unless it had one entry only; returns how many rows it has."""
    handles: dict[str, Any] = {}
    for axes in drawn:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if len(handles) < 2:
        return 0
    # Row by row, bars and lines through points first, levels after them; matplotlib fills column by column.
    labels = sorted(handles, key=lambda label: _is_level(handles[label]))
    most = next(each for each in range(len(labels), 0, -1) if each == 1 or _fits(labels, each, width))
    rows = math.ceil(len(labels) / most)
    columns = math.ceil(len(labels) / rows)
    ordered = [label for column in range(columns) for label in labels[column::columns]]
    figure.legend(
        handles=[handles[label] for label in ordered],
        labels=ordered,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
    )
    return rows


def _is_level(handle: Any) -> bool:
    return isinstance(handle, LineCollection) or (isinstance(handle, Line2D) and handle.get_marker() == "None")


def _fits(labels: Sequence[str], columns: int, width: float) -> bool:
    """Whether a legend of so many columns is no wider than that (inches)."""
    # An entry takes a handle and a gap beside its text.
    return sum(max(map(len, labels[column::columns])) + 7 for column in range(columns)) <= CHARACTERS * width
