"""For whom, and for which targets, a model does well (paper, Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from rearec.analysis.metric import METRIC, rank_metric, with_usual
from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.evaluation import evaluate, quantile_groups, seen_items
from rearec.evaluation.floors import FLOORS, baseline_ranks
from rearec.evaluation.metrics import heading, rank_metrics
from rearec.evaluation.seen import seen_words
from rearec.reasoning import ReaRec
from rearec.report.floors import FLOORS as LOOKS
from rearec.report.page import Page
from rearec.report.plots import draw_bars, panels

__all__ = ["GROUPINGS", "page", "subgroups"]

# What `evaluate` calls them, what they are, and what heads their panel.
GROUPINGS = {
    "users_by_length": "items in the history",
    "items_by_popularity": "target's interactions in the training data",
}
TITLES = {
    "users_by_length": "For whom? By length of the history",
    "items_by_popularity": "For which items? By popularity of the target",
}


def subgroups(
    models: Mapping[str, ReaRec],
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    exclude_seen: bool | None = None,
    metric: str = METRIC,
) -> list[dict[str, Any]]:
    """Metrics of up to four groups of rows of about equal size by history length, and four by target popularity.

    As in all analyses, models go without their graph prior.

    Args:
        exclude_seen: as in `rearec.evaluation.evaluate`.
        metric: what the page is about, among the others; one that the targets' ranks tell.

    Returns:
        for each model and after them the floors, each grouping and group: ``model``,
        ``grouping`` (a key of ``GROUPINGS``), ``group`` (a range like "5–7"), ``seen`` ("kept" or "excluded"),
        ``metric`` and the metrics of `rank_metrics`.

    Raises:
        UserError: as `rearec.evaluation.evaluate`, and a metric that ranks do not tell.
    """
    metric = rank_metric(metric, dataset.num_items)
    exclude = seen_items(dataset, exclude_seen)
    found: list[tuple[str, str, dict[str, Any]]] = []
    groups: dict[str, list[str]] = {}
    for name, model in models.items():
        result = evaluate(
            model,
            dataset,
            split,
            exclude_seen=exclude.exclude,
            metrics=with_usual(metric),
            users_by="length",
            items_by="popularity",
            prior=False,
            floors=False,
        )
        found += [(name, key, group) for key in GROUPINGS for group in result[key]]
        groups = {key: [group["group"] for group in result[key]] for key in GROUPINGS}
    found += _of_floors(dataset, split, exclude.exclude, with_usual(metric), groups)
    return [
        {"model": name, "seen": exclude.name, "metric": metric, "grouping": key, **group} for name, key, group in found
    ]


def _of_floors(
    dataset: SequenceDataset,
    split: SplitName,
    exclude_seen: bool,
    metrics: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> list[tuple[str, str, dict[str, Any]]]:
    """Floor, grouping, and the metrics of a group; groups: their names by grouping, as `evaluate` gives them."""
    values = {
        "users_by_length": np.asarray(dataset.rows(split))[:, 1].astype(np.int64),
        "items_by_popularity": dataset.train_item_counts()[dataset.targets(split)],
    }
    ranks = baseline_ranks(dataset, split, exclude_seen=exclude_seen)
    return [
        (floor, key, {"group": group, **rank_metrics(ranks[floor][mask], metrics)})
        for floor in FLOORS
        for key in GROUPINGS
        for group, (_, _, mask) in zip(groups[key], quantile_groups(values[key]), strict=True)
    ]


def page(into: Page, results: Sequence[Mapping[str, Any]], *, name: str = "subgroups") -> None:
    """Add a table of the metric and a figure with a panel per grouping, the floors in both.

    Args:
        results: what `subgroups` returns.
    """
    seen, metric = results[0]["seen"], results[0]["metric"]
    into.text(
        f"Rows in groups of about equal size; ± is the standard error over the rows of a group. The floors are "
        f"{', '.join(f'{name} ({floor.words})' for name, floor in LOOKS.items())}."
    )
    every = list(dict.fromkeys(row["model"] for row in results))
    models = [model for model in every if model not in FLOORS]
    table, drawings = [], []
    for key, words in GROUPINGS.items():
        groups = list(dict.fromkeys(row["group"] for row in results if row["grouping"] == key))
        cells = {(row["group"], row["model"]): row for row in results if row["grouping"] == key}
        for group in groups:
            line: dict[str, Any] = {"by": words, "group": group, "rows": cells[group, models[0]]["rows"]}
            for model in every:
                line[model] = cells[group, model][metric]
                line[f"{model}_se"] = cells[group, model][f"{metric}_se"]
            table.append(line)
        drawings.append(
            partial(
                draw_bars,
                groups=groups,
                series={model: [cells[group, model][metric] for group in groups] for model in models},
                errors={model: [cells[group, model][f"{metric}_se"] or 0.0 for group in groups] for model in models},
                levels={
                    f"{floor} (floor)": [cells[group, floor][metric] for group in groups]
                    for floor in FLOORS
                    if (groups[0], floor) in cells
                },
                xlabel=words,
                ylabel=heading(metric),
                title=TITLES[key],
            )
        )
    caption = f"{heading(metric)} by group, full catalogue, {seen_words(seen)}."
    into.table(table, name, caption=caption, shared={"seen": seen})
    into.figure(
        panels(drawings, same_y=True),
        name,
        f"{heading(metric)} by group; bars are standard errors over rows, dashed lines the floors of the same rows.",
    )
