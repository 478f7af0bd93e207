"""How good each reasoning state is taken alone (paper, Figure 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.evaluation import evaluate
from rearec.evaluation.metrics import METRICS
from rearec.evaluation.seen import seen_words
from rearec.reasoning import ReaRec
from rearec.report.page import Page
from rearec.report.plots import draw_lines, figure

__all__ = ["metrics_by_step", "page"]


def metrics_by_step(
    model: ReaRec,
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    exclude_seen: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Metrics of the model's answer, and as ``by_step`` those of each state h_0..h_K alone, with standard errors.

    Args and Raises as `rearec.evaluation.evaluate`.
    """
    return evaluate(model, dataset, split, exclude_seen=exclude_seen, per_step=True, floors=False, progress=progress)


def page(into: Page, results: Mapping[str, Mapping[str, Any]], *, name: str = "steps") -> None:
    """Add a table and a figure of NDCG@20 by step, a line per model.

    Args:
        results: by model what `metrics_by_step` returns, with seen items kept or excluded in all of them.
    """
    seen = next(iter(results.values()))["seen"]
    into.text(
        "Metrics of each reasoning state taken alone; step 0 is the state of the last item, before any reasoning. "
        "The answer is ranked by the last state, by method erl by the mean of all. Full catalogue, "
        f"{seen_words(seen)}; ± is the standard error over rows."
    )
    columns = [column for metric in METRICS for column in (metric, f"{metric}_se")]
    into.table(
        [
            {"model": model, "state": state, **{column: metrics[column] for column in columns}}
            for model, result in results.items()
            for state, metrics in (
                *((f"step {entry['step']}", entry) for entry in result["by_step"]),
                ("answer", result),
            )
        ],
        name,
        shared={"seen": seen},
    )
    chart = figure(
        draw_lines,
        {
            model: [(entry["step"], entry["ndcg@20"], entry["ndcg@20_se"]) for entry in result["by_step"]]
            for model, result in results.items()
        },
        levels={f"{model}, answer": result["ndcg@20"] for model, result in results.items()},
        xlabel="reasoning step",
        ylabel="NDCG@20",
        title="Each reasoning state taken alone",
    )
    into.figure(chart, name, "NDCG@20 by reasoning step; bars are standard errors over rows.")
