"""For whom, and for which targets, a model does well (paper, Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.evaluation import evaluate
from rearec.evaluation.seen import seen_words
from rearec.reasoning import ReaRec
from rearec.report.page import Page
from rearec.report.plots import draw_bars, panels

__all__ = ["GROUPINGS", "page", "subgroups"]

METRIC = "ndcg@20"
# What `evaluate` calls them, and what they are.
GROUPINGS = {
    "users_by_length": "items in the history",
    "items_by_popularity": "target's interactions in the training data",
}


def subgroups(
    models: Mapping[str, ReaRec],
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    exclude_seen: bool | None = None,
) -> list[dict[str, Any]]:
    """Metrics of up to four groups of rows of about equal size by history length, and four by target popularity.

    exclude_seen: as in `rearec.evaluation.evaluate`.

    Returns:
        for each model, grouping and group: ``model``, ``grouping`` (a key of ``GROUPINGS``), ``group`` (a range like
        "5–7"), ``seen`` ("kept" or "excluded") and the metrics of `rank_metrics`.

    Raises:
        UserError: as `rearec.evaluation.evaluate`.
    """
    rows = []
    for name, model in models.items():
        result = evaluate(
            model,
            dataset,
            split,
            exclude_seen=exclude_seen,
            users_by="length",
            items_by="popularity",
            floors=False,
        )
        labels = {"model": name, "seen": result["seen"]}
        rows += [{**labels, "grouping": key, **group} for key in GROUPINGS for group in result[key]]
    return rows


def page(into: Page, results: Sequence[Mapping[str, Any]], *, name: str = "subgroups") -> None:
    """Add a table of NDCG@20 and a figure with a panel per grouping.

    Args:
        results: what `subgroups` returns.
    """
    into.text("Rows in groups of about equal size; ± is the standard error over the rows of a group.")
    models = list(dict.fromkeys(row["model"] for row in results))
    table, drawings = [], []
    for key, words in GROUPINGS.items():
        groups = list(dict.fromkeys(row["group"] for row in results if row["grouping"] == key))
        cells = {(row["group"], row["model"]): row for row in results if row["grouping"] == key}
        for group in groups:
            line: dict[str, Any] = {"by": words, "group": group, "rows": cells[group, models[0]]["rows"]}
            for model in models:
                line[model] = cells[group, model][METRIC]
                line[f"{model}_se"] = cells[group, model][f"{METRIC}_se"]
            table.append(line)
        drawings.append(
            partial(
                draw_bars,
                groups=groups,
                series={model: [cells[group, model][METRIC] for group in groups] for model in models},
                errors={model: [cells[group, model][f"{METRIC}_se"] or 0.0 for group in groups] for model in models},
                xlabel=words,
                ylabel="NDCG@20",
            )
        )
    seen = results[0]["seen"]
    into.table(table, name, caption=f"NDCG@20 by group, full catalogue, {seen_words(seen)}.", shared={"seen": seen})
    into.figure(panels(drawings), name, "NDCG@20 by group; bars are standard errors over rows.")
