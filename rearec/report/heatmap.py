"""A matrix as colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from rearec.report.style import finish, plain

__all__ = ["draw_heatmap"]

# More numbers than these are not written into a plot.
MOST_CELL_LABELS = 150


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
    """A matrix [R, C] as colours with its values written in, three decimals each; NaN stays blank.

    label: what the values are. limits: the values at the ends of the colour scale.
    """
    table = np.asarray(values, dtype=np.float64)
    low, high = limits or (None, None)
    image = axes.imshow(table, cmap="cividis", aspect="auto", vmin=low, vmax=high)
    axes.set_xticks(range(len(columns)), [plain(column) for column in columns])
    axes.set_yticks(range(len(rows)), [plain(row) for row in rows])
    if table.size <= MOST_CELL_LABELS:
        shades = np.asarray(image.norm(table))
        for (row, column), value in np.ndenumerate(table):
            if not math.isnan(value):
                shade = "black" if shades[row, column] > 0.55 else "white"
                axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=shade, fontsize=10)
    axes.figure.colorbar(image, ax=axes, label=label)
    finish(axes, xlabel, ylabel, title, grid=None)
