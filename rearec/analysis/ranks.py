"""Where the target stands in the ranking, step by step (paper, Figure 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.evaluation import rank_rows
from rearec.evaluation.metrics import rank_metrics
from rearec.evaluation.seen import SeenName, seen_words
from rearec.reasoning import ReaRec
from rearec.report.page import Page
from rearec.report.plots import draw_lines, panels

__all__ = ["distribution", "page", "rank_by_step"]

TOPS = (1, 5, 10, 20, 50, 100)
QUANTILES = (10, 25, 50, 75, 90)


def rank_by_step(
    model: ReaRec,
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    exclude_seen: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """What `distribution` says of the model's ranks by each state h_0..h_K alone.

    Args and Raises as `rearec.evaluation.evaluate`.
    """
    ranked = rank_rows(model, dataset, split, exclude_seen=exclude_seen, per_step=True, progress=progress)
    assert ranked.by_step is not None
    return distribution(ranked.by_step)


def distribution(by_step: ArrayLike) -> list[dict[str, Any]]:
    """The distribution of the target's rank by step.

    Args:
        by_step: [R, T], the number of items above the target by each step.

    Returns:
        for each step: ``step``; ``top_k``, the share of rows whose target is among the first k; ``rank_q``, the q-th
        percentile of the rank, counted from 1; ``mrr`` and ``mrr_se``; ``better`` and ``worse``, the shares of rows
        whose rank is smaller and larger than by step 0.
    """
    ranks = np.asarray(by_step, dtype=np.float64)
    rows = []
    for step, rank in enumerate(ranks.T):
        metrics = rank_metrics(rank)
        percentiles = np.percentile(rank + 1, QUANTILES)
        rows.append(
            {
                "step": step,
                **{f"top_{top}": float(np.mean(rank < top)) for top in TOPS},
                **{f"rank_{q}": float(value) for q, value in zip(QUANTILES, percentiles, strict=True)},
                **{key: metrics[key] for key in ("mrr", "mrr_se")},
                "better": float(np.mean(rank < ranks[:, 0])),
                "worse": float(np.mean(rank > ranks[:, 0])),
            }
        )
    return rows


def page(
    into: Page, results: Mapping[str, Sequence[Mapping[str, Any]]], *, seen: SeenName, name: str = "ranks"
) -> None:
    """Add a table, and for each model two panels: shares of targets in the top k, percentiles of the rank.

    Args:
        results: by model what `rank_by_step` returns.
        seen: whether seen items are among those ranked.
    """
    into.text(
        f"The rank of the target by each reasoning state taken alone, full catalogue, {seen_words(seen)}; 1 is the "
        "top. top_k is the share of rows whose target is among the first k, rank_q the q-th percentile of the rank, "
        "better and worse the shares of rows whose rank is smaller and larger than by step 0."
    )
    rows = [{"model": model, **entry} for model, entries in results.items() for entry in entries]
    into.table(rows, name, shared={"seen": seen})
    drawings = []
    for model, entries in results.items():
        steps = [entry["step"] for entry in entries]
        shares = {
            f"top {top}": [(step, 100 * entry[f"top_{top}"], None) for step, entry in zip(steps, entries, strict=True)]
            for top in TOPS
        }
        percentiles = {
            f"{q} % of the rows": [(step, entry[f"rank_{q}"], None) for step, entry in zip(steps, entries, strict=True)]
            for q in QUANTILES
        }
        draw = partial(draw_lines, xlabel="reasoning step", title=model)
        drawings.append(partial(draw, series=shares, ylabel="targets in the top k (% of rows)"))
        drawings.append(partial(draw, series=percentiles, ylabel="rank of the target (1 = top)", log_y=True))
    caption = "Left: how many targets are in the top k. Right: the rank that so many of the targets reach or better."
    into.figure(panels(drawings, columns=2, one_legend=False), name, caption)
