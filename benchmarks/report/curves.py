"""Validation NDCG@20 against processor seconds of training: from a json of quality that `benchmarks/peers.py` wrote."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

Record = dict[str, Any]
# Ours in blues and greens, the others in reds and browns; recipes with a solid line.
COLORS = {
    "rearec": ("#08519c", "#4292c6", "#238b45", "#74c476"),
    "": ("#cb181d", "#fb6a4a", "#8c510a", "#bf812d", "#636363"),
}


def curves(record: Record) -> dict[str, list[tuple[float, float]]]:
    """Of each contender with a curve, (CPU-seconds, validation NDCG@20) after each epoch."""
    return {
        name: [(point["cpu_s"], point["valid_ndcg@20"]) for point in one["curve"]]
        for name, (one, *_) in record["contenders"].items()
        if one.get("curve")
    }


def plot_curves(record: Record, folder: Path) -> Path | None:
    """One picture with all curves; None where nobody has one. Returns its path."""
    found = curves(record)
    if not found:
        return None
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever the user's settings say
    axes = figure.subplots()
    left = {begin: iter(colors * 3) for begin, colors in COLORS.items()}
    for name, points in found.items():
        color = next(left["rearec" if name.startswith("rearec") else ""])
        line = "-" if name.endswith("recipe") else "--"
        axes.plot(*zip(*points, strict=True), color=color, linestyle=line, marker=".", label=name)
    axes.set(xscale="log", xlabel="processor seconds of training", ylabel="validation NDCG@20, seen items left out")
    axes.set_title(
        f"Time to quality: {record['data']['name']}, one thread of {record['machine']['processor']}", fontsize=10
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(True, which="major", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", f"peers quality {record['data']['name']}".lower()).strip("-")
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path
