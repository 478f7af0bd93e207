"""Plots: lines, grouped bars and heat maps, one to a figure or several as panels.

Every function returns a `matplotlib.figure.Figure` that belongs to nobody (no pyplot state). The legend stands below
the axes, where it covers nothing; a series that is named after a method has the method's colour everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

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

METHOD_COLORS = {"base": "tab:blue", "naive": "tab:purple", "rpe": "tab:red", "erl": "tab:orange", "prl": "tab:green"}
FLOOR_COLORS = {"popularity": "0.75", "markov": "0.6"}
OTHER_COLORS = ("tab:cyan", "tab:brown", "tab:pink", "tab:olive", "tab:gray", "black")
MARKERS = "osD^vPX*"

# Inches.
SINGLE = (6.4, 4.4)
PANEL = (4.4, 3.8)
BAR_WIDTH = 0.45
# Characters of the usual font size that fit into an inch.
CHARACTERS = 11.0
# More numbers than these are not written into a plot.
MOST_BAR_LABELS = 24
MOST_CELL_LABELS = 150
MOST_TICKS = 10

Drawing = Callable[[Axes], None]
Point = tuple[float, float, "float | None"]


def lines(
    series: Mapping[str, Sequence[Point]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    levels: Mapping[str, float] | None = None,
    log_x: bool = False,
) -> Figure:
    """Lines through points with error bars.

    Args:
        series: for each line its points (x, y, standard error or None).
        levels: horizontal dashed lines by name.
        log_x: a logarithmic x axis; every x must be positive.

    Raises:
        ValueError: ``log_x`` and an x that is not positive.
    """
    draw = partial(
        draw_lines, series=series, xlabel=xlabel, ylabel=ylabel, title=title, levels=levels or {}, log_x=log_x
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


def panels(drawings: Sequence[Drawing], *, title: str = "", columns: int = 3, share_y: bool = False) -> Figure:
    """Several plots in one figure, row by row, with one legend for all.

    Args:
        drawings: what draws each panel on its axes, e.g. ``partial(draw_lines, series=..., xlabel=..., ylabel=...)``.
        title: of the figure.
        columns: most panels side by side.
        share_y: whether all panels have the same y axis.
    """
    return _figure(drawings, PANEL, title=title, columns=columns, share_y=share_y)


def draw_lines(
    axes: Axes,
    series: Mapping[str, Sequence[Point]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    levels: Mapping[str, float] | None = None,
    log_x: bool = False,
) -> None:
    """Draw what `lines` draws."""
    xs = sorted({x for points in series.values() for x, _, _ in points})
    if log_x and xs and xs[0] <= 0:
        raise ValueError(f"series: got x = {xs[0]}, expected positive values on a logarithmic axis")
    names = [*series, *(levels or {})]
    for index, (name, color) in enumerate(zip(names, _colors(names), strict=True)):
        if name in series:
            points = sorted(series[name], key=lambda point: point[0])
            axes.errorbar(
                [x for x, _, _ in points],
                [y for _, y, _ in points],
                [error or 0.0 for _, _, error in points],
                color=color,
                marker=MARKERS[index % len(MARKERS)],
                markersize=5,
                capsize=3,
                elinewidth=1,
                label=name,
            )
        else:
            axes.axhline((levels or {})[name], color=color, linestyle="--", linewidth=1.2, label=name)
    if log_x:
        axes.set_xscale("log")
    if log_x and len(xs) <= MOST_TICKS:
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.minorticks_off()
    elif all(float(x).is_integer() for x in xs):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes, xlabel, ylabel, title)


def draw_bars(
    axes: Axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    ylabel: str,
    xlabel: str = "",
    title: str = "",
    errors: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Draw what `bars` draws."""
    places = np.arange(len(groups))
    width = 0.8 / max(1, len(series))
    labelled = len(groups) * len(series) <= MOST_BAR_LABELS
    for index, (name, color) in enumerate(zip(series, _colors(series), strict=True)):
        alone = len(series) == 1
        drawn = axes.bar(
            places + (index - (len(series) - 1) / 2) * width,
            series[name],
            width,
            yerr=(errors or {}).get(name),
            color=[_known_color(group) or color for group in groups] if alone else color,
            error_kw={"elinewidth": 1},
            capsize=3,
            label="_" if alone else name,
        )
        if labelled:
            axes.bar_label(drawn, labels=[_short(value) for value in series[name]], padding=2, fontsize=8)
    axes.set_xticks(places, groups)
    room = CHARACTERS * axes.figure.get_figure(root=True).get_figwidth() * axes.get_position().width
    if (max(map(len, groups), default=0) + 1) * len(groups) > room:
        axes.tick_params(axis="x", labelrotation=30)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")
            tick.set_rotation_mode("anchor")
    if any(value < 0 for values in series.values() for value in values):
        axes.axhline(0, color="black", linewidth=0.8)
    # Room for the numbers above the bars.
    axes.margins(y=0.12)
    _finish(axes, xlabel, ylabel, title)


def draw_heatmap(
    axes: Axes,
    values: ArrayLike,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    decimals: int = 2,
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw what `heatmap` draws; ``limits`` are the values at the ends of the colour scale."""
    table = np.asarray(values, dtype=np.float64)
    low, high = limits or (None, None)
    image = axes.imshow(table, cmap="viridis", aspect="auto", vmin=low, vmax=high)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    if table.size <= MOST_CELL_LABELS:
        shades = np.asarray(image.norm(table))
        for (row, column), value in np.ndenumerate(table):
            if not math.isnan(value):
                shade = "black" if shades[row, column] > 0.6 else "white"
                axes.text(column, row, f"{value:.{decimals}f}", ha="center", va="center", color=shade, fontsize=9)
    axes.figure.colorbar(image, ax=axes, label=label)
    _finish(axes, xlabel, ylabel, title, grid=False)


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
    if title:
        figure.suptitle(title)
    handles: dict[str, Any] = {}
    for axes in grid[: len(drawings)]:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if len(handles) > 1:
        room = CHARACTERS * figure.get_figwidth()
        # A legend entry takes a handle and a gap beside its text.
        fitting = max(1, int(room // (max(map(len, handles)) + 8)))
        figure.legend(
            handles=list(handles.values()),
            labels=list(handles),
            loc="outside lower center",
            ncols=min(fitting, len(handles)),
            frameon=False,
        )
    return figure


def _finish(axes: Axes, xlabel: str, ylabel: str, title: str, *, grid: bool = True) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if grid:
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def _known_color(name: str) -> str | None:
    """The colour of the method or floor that a name begins with: "erl, mean of its states" has erl's."""
    match = re.match(r"\w+", name)
    word = match.group().lower() if match else ""
    return METHOD_COLORS.get(word) or FLOOR_COLORS.get(word)


def _colors(names: Sequence[str] | Mapping[str, object]) -> list[str]:
    """A colour for each name; names without one of their own take turns at the others."""
    others = 0
    colors = []
    for name in names:
        color = _known_color(name)
        if color is None:
            color = OTHER_COLORS[others % len(OTHER_COLORS)]
            others += 1
        colors.append(color)
    return colors


def _short(value: float) -> str:
    """A number as it is written above a bar: three significant digits, no exponent."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    return f"{value:.{max(0, min(4, 2 - math.floor(math.log10(abs(value)))))}f}"
