"""Where the target stands in the ranking, step by step (paper, Figure 8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
from rearec.report.plots import draw_parts, figure

__all__ = ["distribution", "page", "rank_by_step"]

TOPS = (1, 5, 10, 20, 50, 100)
# Of these in the page's table, and of these in the figure.
SHOWN_TOPS = (1, 10, 100)
NOTED_TOPS = (1, 10)
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
    ranked = rank_rows(model, dataset, split, exclude_seen=exclude_seen, prior=False, per_step=True, progress=progress)
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
    """Add a table, and a figure of the shares of rows whose target a step moves up, leaves or moves down.

    Args:
        results: by model what `rank_by_step` returns.
        seen: whether seen items are among those ranked.
    """
    into.text(
        f"The rank of the target by each reasoning state taken alone, full catalogue, {seen_words(seen)}; 1 is the "
        "top. Higher and lower are the shares of rows whose target a step ranks better and worse than step 0 does, "
        "top k the share of rows whose target is among the first k."
    )
    rows = [{"model": model, **entry} for model, entries in results.items() for entry in entries]
    into.table([_line(row) for row in rows])
    into.data(rows, name, shared={"seen": seen})
    several = len(results) > 1
    moved = [row["step"] > 0 for row in rows]
    shares = {
        "higher than by step 0": [row["better"] for row in rows],
        "the same": [1 - row["better"] - row["worse"] for row in rows],
        "lower": [row["worse"] for row in rows],
    }
    chart = figure(
        draw_parts,
        [f"{row['model']}, step {row['step']}" if several else f"step {row['step']}" for row in rows],
        {
            part: [100 * share if step else math.nan for share, step in zip(values, moved, strict=True)]
            for part, values in shares.items()
        },
        xlabel="share of the rows",
        title="Does a step move the right item up the ranking?",
        notes={
            f"top {top}": [f"{100 * row[f'top_{top}']:.1f} %" for row in rows]  # of the targets
            for top in NOTED_TOPS
        },
        without="where the steps start from",
    )
    caption = (
        "Rows whose target stands higher, the same and lower by a step than by step 0; on the right the shares of "
        "targets that are at the top and among the first ten."
    )
    into.figure(chart, name, caption)


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the page's table; the csv has more."""
    shares = {"higher": row["better"], "lower": row["worse"], **{f"top {top}": row[f"top_{top}"] for top in SHOWN_TOPS}}
    return {
        "model": row["model"],
        "step": row["step"],
        **{name: f"{100 * share:.1f} %" for name, share in shares.items()},
        "median rank": row["rank_50"],
        "MRR": row["mrr"],
        "MRR_se": row["mrr_se"],
    }
