"""The ceiling: what a model would reach if the best step were known for every row (paper, Figure 2), and its control.

The best of several numbers is higher than one of them even where they differ by chance alone. The control is therefore
the same oracle over K + 1 base models that differ in nothing but their seed: a ceiling below its control is noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from rearec.analysis.metric import METRIC, rank_metric, with_usual
from rearec.evaluation.bootstrap import Interval, paired_interval
from rearec.evaluation.metrics import heading, rank_metrics, row_metrics, summary
from rearec.evaluation.seen import SeenName, seen_words
from rearec.report.floors import floor_levels
from rearec.report.page import Page, escape
from rearec.report.plots import draw_bars, figure

__all__ = ["Ceiling", "best_rank", "ceiling", "page", "verdict"]

LAST, BEST = "last step", "best step per row"
ONE_BASE, BEST_BASE = "one base model", "control: best base model per row"
# In the figure, of the steps of a model as of base models.
ALONE, BEST_PER_ROW = "one alone: the last step, or one base model", "best per row: the ceiling, or its control"
COLORS = {ALONE: "0.7", BEST_PER_ROW: "#00798c", "control": "#b22222"}


@dataclass(frozen=True)
class Ceiling:
    """The oracle over the steps of a model, and over as many base models.

    states: T, how many states or models the oracle chooses from.
    last, best: metrics of the last step, and of the best step per row (the ceiling).
    base: metrics of the base models, averaged over them. control: of the best of them per row.
    over_control: the metric of the ceiling minus that of the control. All three are None where there is no control.
    metric: what ceiling and control are compared by.
    """

    states: int
    last: dict[str, Any]
    best: dict[str, Any]
    base: dict[str, Any] | None = None
    control: dict[str, Any] | None = None
    over_control: Interval | None = None
    metric: str = METRIC


def best_rank(ranks: ArrayLike) -> NDArray[np.float64]:
    """float64 [R], the smallest of each row's ranks: [R, T], by T steps of one model or by T models.

    Raises:
        ValueError: ranks that are not [R, T] with T at least 1.
    """
    table = np.asarray(ranks, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(f"ranks: got shape {table.shape}, expected [R, T] with T at least 1")
    return table.min(axis=1)


def ceiling(by_step: ArrayLike, control: ArrayLike | None = None, *, metric: str = METRIC, seed: int = 0) -> Ceiling:
    """The best step per row, beside the last step and the control.

    Args:
        by_step: [R, T], each row's rank by each step (`rearec.evaluation.RankedRows.by_step`).
        control: [R, T], each row's rank by each of T base models trained with different seeds; None for none.
        metric: what they are compared by; one that ranks tell.
        seed: of the bootstrap interval.

    Raises:
        UserError: an unknown metric, or one that ranks do not tell.
        ValueError: another shape.
    """
    metric = rank_metric(metric)
    shown = with_usual(metric)
    steps = np.asarray(by_step, dtype=np.float64)
    best = best_rank(steps)
    states = steps.shape[1]
    last, oracle = rank_metrics(steps[:, -1], shown), rank_metrics(best, shown)
    if control is None:
        return Ceiling(states, last, oracle, metric=metric)
    models = np.asarray(control, dtype=np.float64)
    if models.shape != steps.shape:
        raise ValueError(f"control: got shape {models.shape}, expected {steps.shape} as by_step: a model for each step")
    # What a row adds on the average of the models.
    of_one = {each: values.mean(axis=1) for each, values in row_metrics(models, shown).items()}
    best_base = best_rank(models)
    over = paired_interval(row_metrics(best, [metric])[metric], row_metrics(best_base, [metric])[metric], seed=seed)
    return Ceiling(
        states, last, oracle, summary(of_one, len(models)), rank_metrics(best_base, shown), over, metric=metric
    )


def verdict(model: str, result: Ceiling) -> str:
    """What the ceiling of this model says, in words."""
    metric = result.metric
    value = f"{model}: the ceiling is {result.best[metric]:.4f} {heading(metric)}, the last step "
    value += f"{result.last[metric]:.4f}"
    if result.control is None or result.over_control is None:
        return (
            f"{value}. There is no control here, so nothing follows from it: the best of {result.states} numbers is "
            f"higher than one of them even if they differ by chance alone."
        )
    over = result.over_control
    between = f"difference {over.difference:+.4f}, {over.level:.0%} interval {over.low:+.4f} to {over.high:+.4f}"
    value = f"{value}; the control is {result.control[metric]:.4f} ({between})"
    if over.difference <= 0:
        return (
            f"{value}. The ceiling is not above its control, so it is noise: {result.states} base models that differ "
            "in nothing but their seed leave no less to choose from."
        )
    if not over.excludes_zero:
        return f"{value}. The ceiling is above its control by less than can be told from chance."
    return f"{value}. The ceiling is above its control: its steps differ by more than the seeds of base do."


def page(
    into: Page,
    results: Mapping[str, Ceiling],
    *,
    seen: SeenName,
    floors: Mapping[str, Mapping[str, Any]] | None = None,
    name: str = "ceiling",
) -> None:
    """Add what the ceiling is worth in words, a table and a figure.

    Args:
        results: by model what `ceiling` returns, by the same metric in all of them.
        seen: whether seen items are among those ranked.
        floors: metrics of the floors on the same rows; None to leave them out.
    """
    into.text(
        "The ceiling takes for every row the step that ranks its target best, which nobody knows beforehand. The "
        "control does the same with as many base models as the model has states (K + 1), trained alike but for their "
        "seed. **A ceiling below its control is noise.**"
    )
    into.text("\n".join(f"- {escape(verdict(model, result))}" for model, result in results.items()))
    metric = next(iter(results.values())).metric
    groups = _groups(results)
    into.table(
        [_line(group, one, best, metric) for group, (one, best) in groups.items()],
        caption=f"{heading(metric)}, full catalogue, {seen_words(seen)}; ± is the standard error over rows.",
    )
    into.data([_row(model, result) for model, result in results.items()], name, shared={"seen": seen})
    chart = figure(_draw, groups, metric, dict(floors or {}))
    into.figure(
        chart,
        name,
        f"{heading(metric)} with standard errors over rows. What a model gains from the best of its steps per row is "
        "worth something as far as it is more than base models gain from the best of their seeds.",
    )


def _groups(results: Mapping[str, Ceiling]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """The metrics of one alone and of the best per row: of the steps of each model, then of the base models."""
    groups = {f"{model}, {result.states} states": (result.last, result.best) for model, result in results.items()}
    for result in results.values():
        if result.base is not None and result.control is not None:
            groups[f"control: {result.states} base models"] = (result.base, result.control)
    return groups


def _draw(
    axes: Axes,
    groups: Mapping[str, tuple[dict[str, Any], dict[str, Any]]],
    metric: str,
    floors: Mapping[str, Mapping[str, Any]],
) -> None:
    """A group of two bars for each model and for the control, whose height is drawn across."""
    controls = [best[metric] for group, (_, best) in groups.items() if group.startswith("control")]
    names = [*groups, *([] if controls else ["control: none was given"])]
    missing = [math.nan] * (len(names) - len(groups))
    draw_bars(
        axes,
        names,
        {
            part: [pair[index][metric] for pair in groups.values()] + missing
            for index, part in enumerate((ALONE, BEST_PER_ROW))
        },
        errors={
            part: [pair[index][f"{metric}_se"] or 0.0 for pair in groups.values()] + missing
            for index, part in enumerate((ALONE, BEST_PER_ROW))
        },
        levels={
            **({"control": controls[0]} if len(controls) == 1 else {}),
            **floor_levels(floors, metric),
        },
        ylabel=heading(metric),
        title="What if the best step of every row were known? A ceiling below its control is noise",
        own_colors=COLORS,
    )
    if not controls:
        words = "no base models to compare with:\nnothing follows\nfrom the ceiling"
        height = 0.75 * axes.get_ylim()[1]
        axes.text(len(groups), height, words, ha="center", va="center", color=COLORS["control"], style="italic")


def _line(group: str, one: Mapping[str, Any], best: Mapping[str, Any], metric: str) -> dict[str, Any]:
    gain = _gain(best, one, metric)
    return {
        "": group,
        "one alone": one[metric],
        "one alone_se": one[f"{metric}_se"],
        "best per row": best[metric],
        "best per row_se": best[f"{metric}_se"],
        "gain": None if gain is None else f"{gain:+.1f} %",
    }


def _row(model: str, result: Ceiling) -> dict[str, Any]:
    """The same as a row of the csv."""
    row: dict[str, Any] = {"model": model, "states": result.states, "metric": result.metric}
    for part, metrics in (
        (LAST, result.last),
        (BEST, result.best),
        (ONE_BASE, result.base),
        (BEST_BASE, result.control),
    ):
        row[part] = metrics and metrics[result.metric]
        row[f"{part}_se"] = metrics and metrics[f"{result.metric}_se"]
    row["ceiling gain %"] = _gain(result.best, result.last, result.metric)
    row["control gain %"] = _gain(result.control, result.base, result.metric)
    over = result.over_control
    row["ceiling - control"] = over and over.difference
    row["low"], row["high"] = over and over.low, over and over.high
    return row


def _gain(better: Mapping[str, Any] | None, of: Mapping[str, Any] | None, metric: str) -> float | None:
    """By how many per cent; None where there is nothing to compare."""
    if not better or not of or not of[metric]:
        return None
    return float(100 * (better[metric] / of[metric] - 1))
