"""Lines through points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator

from rearec.report.style import colors, finish, level_style, plain

__all__ = ["Point", "draw_lines"]

MARKERS = "osD^vPX*"
# More numbers than these are not written below an axis.
MOST_TICKS = 10

# Parts of the x axis: between the error bars of two series, and that the label of a tick needs.
ERROR_BAR_ROOM = 0.02
LABEL_ROOM = 0.11

# x, y and how far its error bar reaches: the same up and down, or down and up.
Point = tuple[float, float, "float | tuple[float, float] | None"]


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
    top_is_best: bool = False,
) -> None:
    """Lines through points, with error bars where there are any.

    Args:
        series: for each line its points (x, y, error or None); an error is how far the bar reaches to both sides, or
            (down, up).
        levels: horizontal dashed lines by name.
        log_x, log_y: logarithmic axes; every value along them must be positive.
        from_zero: the y axis begins at 0.
        top_is_best: the y axis is turned round, as ranks are: the smallest stands at the top.

    Raises:
        ValueError: a value that is not positive on a logarithmic axis.
    """
    xs = sorted({x for points in series.values() for x, _, _ in points})
    ys = [*(y + _up(error) for points in series.values() for _, y, error in points), *(levels or {}).values()]
    drawn = [y for points in series.values() for _, y, _ in points]
    for logarithmic, values in ((log_x, xs), (log_y, [*drawn, *(levels or {}).values()])):
        if logarithmic and min(values, default=1.0) <= 0:
            raise ValueError(f"series: got {min(values)}, expected positive values on a logarithmic axis")
    color_of = colors(series, levels or ())
    with_errors = [name for name, points in series.items() if any(error is not None for _, _, error in points)]
    for name, level in (levels or {}).items():
        axes.axhline(level, color=color_of[name], linestyle=level_style(name), linewidth=1.4, label=plain(name))
    for index, name in enumerate(series):
        points = sorted(series[name], key=lambda point: point[0])
        marker = MARKERS[index % len(MARKERS)]
        style: dict[str, Any] = {"color": color_of[name], "marker": marker, "markersize": 5, "label": plain(name)}
        values = [y for _, y, _ in points]
        if name not in with_errors:
            axes.plot([x for x, _, _ in points], values, **style)
            continue
        place = with_errors.index(name) - (len(with_errors) - 1) / 2
        shifted = _shifted([x for x, _, _ in points], xs, place * ERROR_BAR_ROOM, log_x)
        reach = [error if isinstance(error, tuple) else (error or 0.0,) * 2 for _, _, error in points]
        axes.errorbar(shifted, values, list(zip(*reach, strict=True)), capsize=3, elinewidth=1, **style)
    if log_x:
        axes.set_xscale("log")
    if log_x and len(xs) <= MOST_TICKS:
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.minorticks_off()
        if not _have_room(xs):
            axes.tick_params(axis="x", labelrotation=60)
    elif all(float(x).is_integer() for x in xs):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        # Less than a decade has no tick of its own: then those in between are named too.
        axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    elif from_zero:
        axes.set_ylim(0, 1.08 * (max(ys, default=0.0) or 1.0))
    elif min(ys, default=1.0) <= 0 <= max(ys, default=1.0):
        axes.axhline(0, color="black", linewidth=0.8)
    if top_is_best:
        axes.invert_yaxis()
    finish(axes, xlabel, ylabel, title)


def _up(error: float | tuple[float, float] | None) -> float:
    """How far an error bar reaches up."""
    return error[1] if isinstance(error, tuple) else error or 0.0


def _shifted(values: Sequence[float], xs: Sequence[float], part: float, logarithmic: bool) -> list[float]:
    """The x values moved by a part of the axis from the first to the last of ``xs``, so that error bars stand apart."""
    if logarithmic:
        return [value * (xs[-1] / xs[0]) ** part for value in values]
    return [value + (xs[-1] - xs[0]) * part for value in values]


def _have_room(xs: Sequence[float]) -> bool:
    """Whether the labels of these places of a logarithmic axis stand side by side."""
    if len(xs) < 2:
        return True
    places = [math.log(x / xs[0]) / math.log(xs[-1] / xs[0]) for x in xs]
    return min(after - before for before, after in pairwise(places)) >= LABEL_ROOM
