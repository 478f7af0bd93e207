"""Plots: lines, grouped bars and heat maps, one to a figure or several as panels.

Every function returns a `matplotlib.figure.Figure` that belongs to nobody (no pyplot state). The legend stands below
the axes, where it covers nothing; a series that is named after a method has the method's colour everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from numpy.typing import ArrayLike

from rearec.report.drawing import (
    CHARACTERS,
    FLOOR_COLORS,
    METHOD_COLORS,
    Point,
    draw_bars,
    draw_heatmap,
    draw_lines,
    plain,
)

__all__ = [
    "FLOOR_COLORS",
    "METHOD_COLORS",
    "bars",
    "draw_bars",
    "draw_heatmap",
    "draw_lines",
    "heatmap",
    "lines",
    "panels",
]

# Inches.
SINGLE = (6.4, 4.4)
PANEL = (4.4, 3.8)
BAR_WIDTH = 0.5
LEGEND_ROW = 0.22

Drawing = Callable[[Axes], None]


def lines(
    series: Mapping[str, Sequence[Point]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    levels: Mapping[str, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
) -> Figure:
    """Lines through points with error bars.

    Args:
        series: for each line its points (x, y, standard error or None).
        levels: horizontal dashed lines by name.
        log_x, log_y: logarithmic axes; every value along them must be positive.
        from_zero: the y axis begins at 0.

    Raises:
        ValueError: a value that is not positive on a logarithmic axis.
    """
    draw = partial(
        draw_lines,
        series=series,
        xlabel=xlabel,
        ylabel=ylabel,
        title=title,
        levels=levels,
        log_x=log_x,
        log_y=log_y,
        from_zero=from_zero,
    )
    return _figure([draw], SINGLE)


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    ylabel: str,
    xlabel: str = "",
    title: str = "",
    errors: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Groups of bars side by side, one bar per series, the values written above them where there is room.

    A single series has no legend, and where a group is named after a method or a floor, its bar has that colour.

    Args:
        groups: G names along the x axis.
        series: for each series G heights.
        errors: standard errors, for each series that has them G values.
    """
    width = max(SINGLE[0], BAR_WIDTH * (len(groups) * len(series) + len(groups)) + 1.0)
    draw = partial(
        draw_bars, groups=groups, series=series, ylabel=ylabel, xlabel=xlabel, title=title, errors=errors or {}
    )
    return _figure([draw], (width, SINGLE[1]))


def heatmap(
    values: ArrayLike,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    decimals: int = 2,
) -> Figure:
    """A matrix [R, C] as colours with its values written in; ``label`` says what they are, NaN stays blank."""
    across, down = 1.0 + 0.75 * len(columns), 0.5 + 0.5 * len(rows)
    draw = partial(
        draw_heatmap,
        values=values,
        rows=rows,
        columns=columns,
        label=label,
        title=title,
        xlabel=xlabel,
        ylabel=ylabel,
        decimals=decimals,
    )
    return _figure([draw], (max(5.0, across + 1.5), max(3.8, down + 1.5)))


def panels(
    drawings: Sequence[Drawing],
    *,
    title: str = "",
    columns: int = 3,
    share_y: bool = False,
    one_legend: bool = True,
) -> Figure:
    """Several plots in one figure, row by row.

    Args:
        drawings: what draws each panel on its axes, e.g. ``partial(draw_lines, series=..., xlabel=..., ylabel=...)``.
        title: of the figure.
        columns: most panels side by side.
        share_y: whether all panels have the same y axis.
        one_legend: one legend for all panels; otherwise each has its own below.
    """
    if one_legend:
        return _figure(drawings, PANEL, title=title, columns=columns, share_y=share_y)
    across = min(columns, len(drawings))
    down = math.ceil(len(drawings) / across)
    figure = Figure(figsize=(PANEL[0] * across, PANEL[1] * down), layout="constrained")
    first: Axes | None = None
    for part, draw in zip(figure.subfigures(down, across, squeeze=False).ravel(), drawings, strict=False):
        axes = part.subplots(sharey=first) if share_y else part.subplots()
        first = first or axes
        draw(axes)
        _legend(part, [axes], PANEL[0])
    figure.suptitle(plain(title))
    return figure


def _figure(
    drawings: Sequence[Drawing],
    size: tuple[float, float],
    *,
    title: str = "",
    columns: int = 1,
    share_y: bool = False,
) -> Figure:
    """The drawings row by row on axes of this size each, with one legend below."""
    across = min(columns, len(drawings))
    down = math.ceil(len(drawings) / across)
    figure = Figure(figsize=(size[0] * across, size[1] * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=share_y).ravel()
    for axes, draw in zip(grid, drawings, strict=False):
        draw(axes)
    for axes in grid[len(drawings) :]:
        axes.set_visible(False)
    figure.suptitle(plain(title))
    rows = _legend(figure, list(grid[: len(drawings)]), figure.get_figwidth())
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(0, rows - 2))
    return figure


def _legend(figure: FigureBase, drawn: Sequence[Axes], width: float) -> int:
    """One legend for these axes below them, unless it had one entry only; returns how many rows it has."""
    handles: dict[str, Any] = {}
    for axes in drawn:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if len(handles) < 2:
        return 0
    # An entry takes a handle and a gap beside its text.
    fitting = max(1, int(CHARACTERS * width // (max(map(len, handles)) + 8)))
    columns = min(fitting, len(handles))
    figure.legend(
        handles=list(handles.values()),
        labels=list(handles),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
    )
    return math.ceil(len(handles) / columns)
