"""Differences with their intervals, one below the other."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from rearec.report.style import colors, plain

__all__ = ["draw_intervals"]


def draw_intervals(
    axes: Axes, *, intervals: Mapping[str, Mapping[str, tuple[float, float, float]]], xlabel: str, ylabel: str = ""
) -> None:
    """A point with a horizontal line for each difference, and a vertical line at 0.

    intervals: by group ("" where there is one only) and name: (difference, low, high).
    """
    names = list(dict.fromkeys(name for of_group in intervals.values() for name in of_group))
    color_of = colors(names)
    alone = len(intervals) == 1
    ticks: list[tuple[float, str]] = []
    place = 0.0
    for group, of_group in intervals.items():
        begin = place
        for name, (difference, low, high) in of_group.items():
            axes.plot([low, high], [place, place], color=color_of[name], linewidth=1.6)
            label = "_" if alone or begin else plain(name)
            axes.plot([difference], [place], color=color_of[name], marker="o", linestyle="", label=label)
            if alone:
                ticks.append((place, plain(name)))
            place += 1
        if not alone:
            ticks.append(((begin + place - 1) / 2, plain(group)))
            place += 0.8
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks([at for at, _ in ticks], [words for _, words in ticks])
    axes.margins(y=0.12)
    axes.invert_yaxis()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
