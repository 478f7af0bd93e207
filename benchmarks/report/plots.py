"""Time and memory against what a scan varies, as PNG."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from report.tables import contenders

Record = dict[str, Any]
# Ours in blues, the official algorithm in reds, what else there is in greys and greens; told apart without colour too.
STYLES = {
    "ours": ("#08519c", "o", "-"),
    "ours, bf16": ("#4292c6", "s", "-"),
    "ours, bf16x3": ("#9ecae1", "^", "-"),
    "naive": ("#cb181d", "x", "--"),
    "official as published": ("#cb181d", "x", "--"),
    "official, mask fixed": ("#fb6a4a", "+", "--"),
    "careful": ("#238b45", "D", ":"),
    "careful (encode once)": ("#238b45", "D", ":"),
}
OTHER = ("#636363", "v", "-.")


def plot_scan(name: str, points: list[Record], folder: Path, ending: str) -> Path:
    """One picture: time on the left, memory on the right where it was measured. Returns its path."""
    panels = [("median_ms", "median time (ms)")]
    if all(point["peak_memory_mb"] for point in points):
        panels.append(("peak_memory_mb", "peak memory (MB)"))
    figure = Figure(figsize=(5.2 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever the user's settings say
    axes = figure.subplots(1, len(panels), squeeze=False)
    figure.suptitle(points[0]["scan"], fontsize=11)
    names = contenders(points, "median_ms")
    for ax, (key, label) in zip(axes[0], panels, strict=True):
        for who in names:
            known = [(point["value"], point[key][who]) for point in points if point[key].get(who)]
            color, marker, line = STYLES.get(who, OTHER)
            ax.plot(*zip(*known, strict=True), color=color, marker=marker, linestyle=line, label=who)
        _axes(ax, points, label)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^a-z0-9]+", "-", f"{name} {ending}".lower()).strip("-") + ".png")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _axes(ax: Axes, points: list[Record], label: str) -> None:
    values = [point["value"] for point in points]
    ax.set(xscale="log", yscale="log", xlabel=points[0]["axis"], ylabel=label)
    ax.xaxis.set_major_locator(FixedLocator(values))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    ax.grid(True, which="major", alpha=0.3)
