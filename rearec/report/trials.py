"""How a search for settings went."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rearec.report.style import finish

__all__ = ["draw_history"]

STYLES = {"complete": ("tab:blue", "o"), "pruned": ("0.6", "x")}


def draw_history(axes: Axes, trials: Sequence[tuple[int, str, float | None]]) -> None:
    """A point for each trial that has a value, complete or pruned, and a line for the best complete one so far.

    trials: (number, state, validation NDCG@20) in the order of their numbers.
    """
    for state, (color, marker) in STYLES.items():
        points = [(number, value) for number, of, value in trials if of == state and value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, linestyle="", label=state)
    complete = [(number, value) for number, of, value in trials if of == "complete" and value is not None]
    if complete:
        numbers, values = zip(*complete, strict=True)
        last = max(number for number, _, _ in trials)
        best = list(accumulate(values, max))
        axes.step([*numbers, last], [*best, best[-1]], where="post", color="tab:green", label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(axes, "trial", "validation NDCG@20", "How the search went")
