"""The ceiling: what a model would reach if the best step were known for every row (paper, Figure 2), and its control.

The best of several numbers is higher than one of them even where they differ by chance alone. The control is therefore
the same oracle over K + 1 base models that differ in nothing but their seed: a ceiling below its control is noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rearec.evaluation.bootstrap import Interval, paired_interval
from rearec.evaluation.metrics import METRICS, rank_metrics, row_metrics
from rearec.evaluation.seen import SeenName, seen_words
from rearec.report.page import Page, escape
from rearec.report.plots import draw_bars, figure

__all__ = ["Ceiling", "best_rank", "ceiling", "page", "verdict"]

METRIC = "ndcg@20"
LAST, BEST = "last step", "best step per row"
ONE_BASE, BEST_BASE = "one base model", "control: best base model per row"


@dataclass(frozen=True)
class Ceiling:
    """The oracle over the steps of a model, and over as many base models.

    states: T, how many states or models the oracle chooses from.
    last, best: metrics of the last step, and of the best step per row (the ceiling).
    base: metrics of the base models, averaged over them (no standard errors). control: of the best of them per row.
    over_control: NDCG@20 of the ceiling minus that of the control. All three are None where there is no control.
    """

    states: int
    last: dict[str, Any]
    best: dict[str, Any]
    base: dict[str, Any] | None = None
    control: dict[str, Any] | None = None
    over_control: Interval | None = None


def best_rank(ranks: ArrayLike) -> NDArray[np.float64]:
    """float64 [R], the smallest of each row's ranks: [R, T], by T steps of one model or by T models.

    Raises:
        ValueError: ranks that are not [R, T] with T at least 1.
    """
    table = np.asarray(ranks, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(f"ranks: got shape {table.shape}, expected [R, T] with T at least 1")
    return table.min(axis=1)


def ceiling(by_step: ArrayLike, control: ArrayLike | None = None, *, seed: int = 0) -> Ceiling:
    """The best step per row, beside the last step and the control.

    Args:
        by_step: [R, T], each row's rank by each step (`rearec.evaluation.RankedRows.by_step`).
        control: [R, T], each row's rank by each of T base models trained with different seeds; None for none.
        seed: of the bootstrap interval.

    Raises:
        ValueError: another shape.
    """
    steps = np.asarray(by_step, dtype=np.float64)
    best = best_rank(steps)
    states = steps.shape[1]
    last, oracle = rank_metrics(steps[:, -1]), rank_metrics(best)
    if control is None:
        return Ceiling(states, last, oracle)
    models = np.asarray(control, dtype=np.float64)
    if models.shape != steps.shape:
        raise ValueError(f"control: got shape {models.shape}, expected {steps.shape} as by_step: a model for each step")
    of_one = [rank_metrics(ranks) for ranks in models.T]
    base = {metric: float(np.mean([one[metric] for one in of_one])) for metric in METRICS}
    best_base = best_rank(models)
    over = paired_interval(row_metrics(best)[METRIC], row_metrics(best_base)[METRIC], seed=seed)
    return Ceiling(states, last, oracle, {**base, "rows": len(models)}, rank_metrics(best_base), over)


def verdict(model: str, result: Ceiling) -> str:
    """What the ceiling of this model says, in words."""
    value = f"{model}: the ceiling is {result.best[METRIC]:.4f} NDCG@20, the last step {result.last[METRIC]:.4f}"
    if result.control is None or result.over_control is None:
        return (
            f"{value}. There is no control here, so nothing follows from it: the best of {result.states} numbers is "
            f"higher than one of them even if they differ by chance alone."
        )
    over = result.over_control
    between = f"difference {over.difference:+.4f}, {over.level:.0%} interval {over.low:+.4f} to {over.high:+.4f}"
    value = f"{value}; the control is {result.control[METRIC]:.4f} ({between})"
    if over.difference <= 0:
        return (
            f"{value}. The ceiling is not above its control, so it is noise: {result.states} base models that differ "
            "in nothing but their seed leave no less to choose from."
        )
    if not over.excludes_zero:
        return f"{value}. The ceiling is above its control by less than can be told from chance."
    return f"{value}. The ceiling is above its control: its steps differ by more than the seeds of base do."


def page(into: Page, results: Mapping[str, Ceiling], *, seen: SeenName, name: str = "ceiling") -> None:
    """Add what the ceiling is worth in words, a table and a figure.

    seen: whether seen items are among those ranked.
    """
    into.text(
        "The ceiling takes for every row the step that ranks its target best, which nobody knows beforehand. The "
        "control does the same with as many base models as the model has states (K + 1), trained alike but for their "
        "seed. **A ceiling below its control is noise.**"
    )
    into.text("\n".join(f"- {escape(verdict(model, result))}" for model, result in results.items()))
    rows = [_row(model, result) for model, result in results.items()]
    into.table(rows, name, caption=f"NDCG@20, full catalogue, {seen_words(seen)}.", shared={"seen": seen})
    parts: dict[str, list[dict[str, Any] | None]] = {
        LAST: [result.last for result in results.values()],
        BEST: [result.best for result in results.values()],
        ONE_BASE: [result.base for result in results.values()],
        BEST_BASE: [result.control for result in results.values()],
    }
    shown = {part: metrics for part, metrics in parts.items() if any(metrics)}
    chart = figure(
        draw_bars,
        list(results),
        {part: [of_one[METRIC] if of_one else np.nan for of_one in metrics] for part, metrics in shown.items()},
        errors={
            part: [(of_one or {}).get(f"{METRIC}_se") or np.nan for of_one in metrics]
            for part, metrics in shown.items()
        },
        ylabel="NDCG@20",
        title="Ceiling and control",
    )
    into.figure(chart, name, "NDCG@20 with standard errors over rows.")


def _row(model: str, result: Ceiling) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "states": result.states}
    for part, metrics in (
        (LAST, result.last),
        (BEST, result.best),
        (ONE_BASE, result.base),
        (BEST_BASE, result.control),
    ):
        row[part] = metrics and metrics[METRIC]
        row[f"{part}_se"] = metrics and metrics.get(f"{METRIC}_se")
    row["ceiling gain %"] = _gain(result.best, result.last)
    row["control gain %"] = _gain(result.control, result.base)
    over = result.over_control
    row["ceiling - control"] = over and over.difference
    row["low"], row["high"] = over and over.low, over and over.high
    return row


def _gain(better: Mapping[str, Any] | None, of: Mapping[str, Any] | None) -> float | None:
    """By how many per cent; None where there is nothing to compare."""
    if not better or not of or not of[METRIC]:
        return None
    return float(100 * (better[METRIC] / of[METRIC] - 1))
