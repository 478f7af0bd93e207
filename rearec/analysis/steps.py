"""How good each reasoning state is taken alone (paper, Figure 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rearec.data.dataset import SequenceDataset, SplitName
from rearec.evaluation import evaluate
from rearec.pages import Page
from rearec.plots import lines
from rearec.reasoning import ReaRec

__all__ = ["StepMetrics", "metrics_by_step", "page"]

StepMetrics = Mapping[str, Any]


def metrics_by_step(
    model: ReaRec,
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Metrics of each state h_0..h_K alone: ``step``, the metrics of `rank_metrics` and their standard errors.

    Raises:
        UserError: as `rearec.evaluation.evaluate`.
    """
    result: list[dict[str, Any]] = evaluate(model, dataset, split, per_step=True, floors=False, progress=progress)[
        "by_step"
    ]
    return result


def page(into: Page, results: Mapping[str, Sequence[StepMetrics]], *, name: str = "steps") -> None:
    """Add a table and a figure of NDCG@20 by step, a line per model.

    Args:
        results: by model what `metrics_by_step` returns.
    """
    rows = [{"model": model, **entry} for model, entries in results.items() for entry in entries]
    into.text(
        "Metrics of each reasoning state taken alone; step 0 is the state of the last item, before any reasoning. "
        "± is the standard error over rows. A model of method erl answers with the mean of its states, the others "
        "with the last one."
    )
    into.table(rows, name)
    figure = lines(
        {
            model: [(entry["step"], entry["ndcg@20"], entry["ndcg@20_se"]) for entry in entries]
            for model, entries in results.items()
        },
        xlabel="reasoning step",
        ylabel="NDCG@20",
        title="Each reasoning state taken alone",
    )
    into.figure(figure, name, "NDCG@20 by reasoning step; bars are standard errors over rows.")
