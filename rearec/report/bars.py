"""Bars side by side, and bars of parts that make up a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from rearec.report.digits import label_decimals
from rearec.report.style import (
    CHARACTERS,
    colors,
    finish,
    known_color,
    level_style,
    plain,
    width_of,
    wrapped,
)

__all__ = ["draw_bars", "draw_parts"]

# Inches: a bar with its share of the gap between groups; the widest bar; the row of a bar of parts, and what is around.
BAR_WIDTH = 0.5
WIDEST_BAR = 0.7
ROW_HEIGHT = 0.42
ROWS_FRAME = 1.5
# Inches that the numbers above bars take.
LABEL_CHARACTER = 0.07
LABEL_HEIGHT = 0.14
# Parts of less than so many per cent have no number in them.
NAMED_PART = 5.0
# A column of notes beside bars of parts, as part of the axis.
NOTE = 0.13
PART_COLORS = ("#1f5fa8", "0.87", "#ff9a2e")


def draw_bars(
    axes: Axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    ylabel: str,
    xlabel: str = "",
    title: str = "",
    errors: Mapping[str, Sequence[float]] | None = None,
    levels: Mapping[str, float | Sequence[float]] | None = None,
    own_colors: Mapping[str, str] | None = None,
) -> None:
    """Groups of bars side by side, one bar per series, the values written above them where there is room.

    A single series has no legend, and where a group is named after a method or a floor, its bar has that colour. A
    figure that holds nothing else is made as wide as its bars need.

    Args:
        groups: G names along the x axis.
        series: for each series G heights; NaN where there is no bar.
        errors: standard errors, for each series that has them G values.
        levels: dashed lines by name: one across all groups, or for each group one across its bars (NaN for none).
        own_colors: colours of series and levels that are to have others than their names give them.
    """
    root = axes.get_figure()
    if isinstance(root, Figure) and root.axes == [axes]:
        root.set_figwidth(max(root.get_figwidth(), BAR_WIDTH * (len(groups) * len(series) + len(groups)) + 1.0))
    places = np.arange(len(groups))
    across = width_of(axes)
    width = min(0.8 / max(1, len(series)), WIDEST_BAR * max(1, len(groups)) / across)
    decimals = label_decimals(value for values in series.values() for value in values)
    labels = {name: ["" if math.isnan(v) else f"{v:.{decimals}f}" for v in values] for name, values in series.items()}
    rotation = _bar_label_rotation(labels, width * across / max(1, len(groups)))
    color_of = {**colors(series, levels or ()), **(own_colors or {})}
    alone = len(series) == 1
    for index, (name, values) in enumerate(series.items()):
        drawn = axes.bar(
            places + (index - (len(series) - 1) / 2) * width,
            values,
            width,
            yerr=(errors or {}).get(name),
            color=[known_color(group) or color_of[name] for group in groups] if alone else color_of[name],
            edgecolor="white",
            linewidth=0.6,
            error_kw={"elinewidth": 1},
            capsize=3,
            label="_" if alone else plain(name),
        )
        if rotation is not None:
            axes.bar_label(drawn, labels=labels[name], padding=4 if rotation else 2, fontsize=8, rotation=rotation)
    for name, level in (levels or {}).items():
        line: dict[str, Any] = {
            "colors": color_of[name],
            "linestyles": [level_style(name)],
            "linewidth": 1.6,
        }
        # Light around it, so that it is seen on dark bars too.
        line |= {"zorder": 2.5, "label": plain(name), "path_effects": [withStroke(linewidth=3.2, foreground="white")]}
        if isinstance(level, Sequence):
            axes.hlines(level, places - 0.46, places + 0.46, **line)
        else:
            axes.hlines([level], [-0.5], [len(groups) - 0.5], **line)
    axes.set_xlim(-0.55, len(groups) - 0.45)
    characters = max(1, int(CHARACTERS * across / max(1, len(groups))) - 1)
    shown = [wrapped(group, characters) for group in groups]
    axes.set_xticks(places, shown)
    if any(len(line) > characters for group in shown for line in group.split("\n")):
        axes.set_xticks(places, [plain(group) for group in groups])
        axes.tick_params(axis="x", labelrotation=30)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")
            tick.set_rotation_mode("anchor")
    if any(value < 0 for values in series.values() for value in values):
        axes.axhline(0, color="black", linewidth=0.8)
    # Room for the numbers above the bars.
    axes.margins(y=0.2 if rotation else 0.12)
    finish(axes, xlabel, ylabel, title)


def _bar_label_rotation(labels: Mapping[str, Sequence[str]], width: float) -> int | None:
    """How to turn the numbers above bars of this width (inches) so that they stand apart; None: there is no room."""
    longest = max((len(label) for of_one in labels.values() for label in of_one), default=0)
    if width >= LABEL_CHARACTER * longest:
        return 0
    return 90 if width >= LABEL_HEIGHT else None


def draw_parts(
    axes: Axes,
    rows: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    title: str = "",
    notes: Mapping[str, Sequence[str]] | None = None,
    without: str = "",
) -> None:
    """A horizontal bar for each row, cut into parts that make up 100 %, with columns of notes on its right.

    Args:
        rows: R names, from the top.
        parts: for up to three parts R shares in per cent; NaN in a row that has none.
        notes: for each column its R texts.
        without: what stands in the place of a bar in a row without parts.
    """
    root = axes.get_figure()
    if isinstance(root, Figure) and root.axes == [axes]:
        root.set_figheight(ROW_HEIGHT * len(rows) + ROWS_FRAME)
    places = np.arange(len(rows))
    begin = np.zeros(len(rows))
    for (name, values), color in zip(parts.items(), PART_COLORS, strict=False):
        shares = np.asarray(values, dtype=np.float64)
        drawn = axes.barh(places, shares, left=begin, height=0.7, color=color, edgecolor="white", label=plain(name))
        words = [f"{share:.0f} %" if share >= NAMED_PART else "" for share in shares]
        ink = "white" if color == PART_COLORS[0] else "black"
        axes.bar_label(drawn, labels=words, label_type="center", color=ink, fontsize=9)
        begin = begin + np.nan_to_num(shares)
    for place in places[np.isnan(np.asarray(list(parts.values()), dtype=np.float64)).all(axis=0)]:
        axes.text(50, place, without, ha="center", va="center", color="0.35", style="italic", fontsize=9)
    for column, (name, texts) in enumerate((notes or {}).items()):
        x = 1.0 + NOTE * (column + 0.6)
        for place, text in zip((-0.8, *places), (name, *texts), strict=True):
            bold = "bold" if place < 0 else "normal"
            transform = axes.get_yaxis_transform()
            axes.text(x, place, plain(text), transform=transform, ha="center", va="center", fontsize=9, weight=bold)
    axes.set_yticks(places, [plain(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.55)
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0f} %"))
    finish(axes, xlabel, "", title, grid=None)
    # Above the heads of the notes.
    axes.set_title(axes.get_title(), pad=22 if notes else None)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
