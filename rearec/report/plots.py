"""Plots: lines, grouped bars and heat maps, drawn on axes; one to a figure or several as panels.

``figure(draw_lines, series, xlabel=..., ylabel=...)`` and ``panels([partial(draw_bars, ...), ...])`` return a
`matplotlib.figure.Figure` that belongs to nobody (no pyplot state). The legend stands below the axes, where it covers
nothing; a series that is named after a method has the method's colour everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator
from numpy.typing import ArrayLike

from rearec.errors import visible

__all__ = ["METHOD_COLORS", "draw_bars", "draw_heatmap", "draw_lines", "figure", "panels"]

METHOD_COLORS = {"base": "tab:blue", "naive": "tab:purple", "rpe": "tab:red", "erl": "tab:orange", "prl": "tab:green"}
FLOOR_COLORS = {"popularity": "0.75", "markov": "0.6"}
OTHER_COLORS = ("tab:cyan", "tab:brown", "tab:pink", "tab:olive", "tab:gray", "black")
MARKERS = "osD^vPX*"

# Inches.
SINGLE = (6.4, 4.4)
PANEL = (4.4, 3.8)
BAR_WIDTH = 0.5
LEGEND_ROW = 0.22
# Characters of the usual font size that fit into an inch.
CHARACTERS = 11.0
# Inches that the numbers above bars take.
LABEL_CHARACTER = 0.07
LABEL_HEIGHT = 0.14
# More numbers than these are not written into a plot.
MOST_CELL_LABELS = 150
MOST_TICKS = 10

# Parts of the x axis: between the error bars of two series, and that the label of a tick needs.
ERROR_BAR_ROOM = 0.012
LABEL_ROOM = 0.11

Point = tuple[float, float, "float | None"]

Drawing = Callable[[Axes], None]
Arguments = ParamSpec("Arguments")


def figure(
    draw: Callable[Concatenate[Axes, Arguments], None], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Figure:
    """One plot: ``draw(axes, *args, **kwargs)`` on the axes of a new figure."""
    return _grid([lambda axes: draw(axes, *args, **kwargs)], SINGLE)


def panels(
    drawings: Sequence[Drawing],
    *,
    title: str = "",
    columns: int = 3,
    one_legend: bool = True,
) -> Figure:
    """Several plots in one figure, row by row.

    Args:
        drawings: what draws each panel on its axes, e.g. ``partial(draw_lines, series=..., xlabel=..., ylabel=...)``.
        title: of the figure.
        columns: most panels side by side.
        one_legend: one legend for all panels; otherwise each has its own below.
    """
    if one_legend:
        return _grid(drawings, PANEL, title=title, columns=columns)
    across = min(columns, len(drawings))
    down = math.ceil(len(drawings) / across)
    figure = Figure(figsize=(PANEL[0] * across, PANEL[1] * down), layout="constrained")
    for part, draw in zip(figure.subfigures(down, across, squeeze=False).ravel(), drawings, strict=False):
        axes = part.subplots()
        draw(axes)
        _legend(part, [axes], PANEL[0])
    figure.suptitle(plain(title))
    return figure


def _grid(drawings: Sequence[Drawing], size: tuple[float, float], *, title: str = "", columns: int = 1) -> Figure:
    """The drawings row by row on axes of this size each, with one legend below."""
    across = min(columns, len(drawings))
    down = math.ceil(len(drawings) / across)
    figure = Figure(figsize=(size[0] * across, size[1] * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
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


def draw_lines(
    axes: Axes,
    series: Mapping[str, Sequence[Point]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    levels: Mapping[str, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
) -> None:
    """Lines through points with error bars.

    Args:
        series: for each line its points (x, y, standard error or None).
        levels: horizontal dashed lines by name.
        log_x, log_y: logarithmic axes; every value along them must be positive.
        from_zero: the y axis begins at 0.

    Raises:
        ValueError: a value that is not positive on a logarithmic axis.
    """
    xs = sorted({x for points in series.values() for x, _, _ in points})
    ys = [*(y for points in series.values() for _, y, _ in points), *(levels or {}).values()]
    for logarithmic, values in ((log_x, xs), (log_y, ys)):
        if logarithmic and min(values, default=1.0) <= 0:
            raise ValueError(f"series: got {min(values)}, expected positive values on a logarithmic axis")
    names = [*series, *(levels or {})]
    with_errors = [name for name, points in series.items() if any(error for _, _, error in points)]
    for index, (name, color) in enumerate(zip(names, _colors(names), strict=True)):
        if name in series:
            points = sorted(series[name], key=lambda point: point[0])
            place = with_errors.index(name) - (len(with_errors) - 1) / 2 if name in with_errors else 0.0
            axes.errorbar(
                _shifted([x for x, _, _ in points], xs, place * ERROR_BAR_ROOM, log_x),
                [y for _, y, _ in points],
                [error or 0.0 for _, _, error in points],
                color=color,
                marker=MARKERS[index % len(MARKERS)],
                markersize=5,
                capsize=3,
                elinewidth=1,
                label=plain(name),
            )
        else:
            axes.axhline((levels or {})[name], color=color, linestyle="--", linewidth=1.2, label=plain(name))
    if log_x:
        axes.set_xscale("log")
    if log_x and len(xs) <= MOST_TICKS:
        axes.set_xticks(xs, _labels_with_room(xs))
        axes.minorticks_off()
    elif all(float(x).is_integer() for x in xs):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        # Less than a decade has no tick of its own: then those in between are named too.
        axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    elif from_zero:
        axes.set_ylim(0, 1.08 * max(ys, default=1.0))
    _finish(axes, xlabel, ylabel, title)


def _shifted(values: Sequence[float], xs: Sequence[float], part: float, logarithmic: bool) -> list[float]:
    """The x values moved by a part of the axis from the first to the last of ``xs``, so that error bars stand apart."""
    if logarithmic:
        return [value * (xs[-1] / xs[0]) ** part for value in values]
    return [value + (xs[-1] - xs[0]) * part for value in values]


def _labels_with_room(xs: Sequence[float]) -> list[str]:
    """A label for each x of a logarithmic axis, empty where it would run into the one before."""
    labels, last = [], -math.inf
    for x in xs:
        place = math.log(x / xs[0]) / math.log(xs[-1] / xs[0]) if xs[-1] > xs[0] else 0.0
        fits = place - last >= LABEL_ROOM
        labels.append(f"{x:g}" if fits else "")
        last = place if fits else last
    return labels


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
    """Groups of bars side by side, one bar per series, the values written above them where there is room.

    A single series has no legend, and where a group is named after a method or a floor, its bar has that colour. A
    figure that holds nothing else is made as wide as its bars need.

    Args:
        groups: G names along the x axis.
        series: for each series G heights.
        errors: standard errors, for each series that has them G values.
    """
    root = axes.get_figure()
    if isinstance(root, Figure) and root.axes == [axes]:
        root.set_figwidth(max(root.get_figwidth(), BAR_WIDTH * (len(groups) * len(series) + len(groups)) + 1.0))
    places = np.arange(len(groups))
    width = 0.8 / max(1, len(series))
    across = axes.bbox.width / axes.figure.get_figure(root=True).dpi
    labels = {name: [_short(value) for value in series[name]] for name in series}
    rotation = _bar_label_rotation(labels, width * across / max(1, len(groups)))
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
            label="_" if alone else plain(name),
        )
        if rotation is not None:
            axes.bar_label(drawn, labels=labels[name], padding=2, fontsize=8, rotation=rotation)
    axes.set_xticks(places, [plain(group) for group in groups])
    if (max(map(len, groups), default=0) + 1) * len(groups) > CHARACTERS * across:
        axes.tick_params(axis="x", labelrotation=30)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")
            tick.set_rotation_mode("anchor")
    if any(value < 0 for values in series.values() for value in values):
        axes.axhline(0, color="black", linewidth=0.8)
    # Room for the numbers above the bars.
    axes.margins(y=0.2 if rotation else 0.12)
    _finish(axes, xlabel, ylabel, title)


def _bar_label_rotation(labels: Mapping[str, Sequence[str]], width: float) -> int | None:
    """How to turn the numbers above bars of this width (inches) so that they stand apart; None: there is no room."""
    longest = max((len(label) for of_one in labels.values() for label in of_one), default=0)
    if width >= LABEL_CHARACTER * longest:
        return 0
    return 90 if width >= LABEL_HEIGHT else None


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
    limits: tuple[float, float] | None = None,
) -> None:
    """A matrix [R, C] as colours with its values written in; NaN stays blank.

    label: what the values are. limits: the values at the ends of the colour scale.
    """
    table = np.asarray(values, dtype=np.float64)
    low, high = limits or (None, None)
    image = axes.imshow(table, cmap="viridis", aspect="auto", vmin=low, vmax=high)
    axes.set_xticks(range(len(columns)), [plain(column) for column in columns])
    axes.set_yticks(range(len(rows)), [plain(row) for row in rows])
    if table.size <= MOST_CELL_LABELS:
        shades = np.asarray(image.norm(table))
        for (row, column), value in np.ndenumerate(table):
            if not math.isnan(value):
                shade = "black" if shades[row, column] > 0.6 else "white"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=9)
    axes.figure.colorbar(image, ax=axes, label=label)
    _finish(axes, xlabel, ylabel, title, grid=False)


def _finish(axes: Axes, xlabel: str, ylabel: str, title: str, *, grid: bool = True) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel, title=plain(title))
    if grid:
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def plain(name: str) -> str:
    """A name as matplotlib is to show it: it takes what stands between dollars for mathematics, and leaves names that
    begin with an underscore out of legends."""
    shown = visible(name).replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


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
    """A number as it is written above a bar: three significant digits, no exponent; nothing for NaN."""
    if math.isnan(value):
        return ""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    return f"{value:.{max(0, min(4, 2 - math.floor(math.log10(abs(value)))))}f}"
