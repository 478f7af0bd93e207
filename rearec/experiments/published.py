"""What a protocol's authors published, beside the runs of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rearec.evaluation.metrics import heading
from rearec.evaluation.seen import seen_words
from rearec.experiments.plan import Plan
from rearec.experiments.results import Results
from rearec.experiments.runs import Run
from rearec.report.page import Page

__all__ = ["add_published"]


def add_published(page: Page, plan: Plan, results: Results, runs: Sequence[Run]) -> None:
    """Add the table where there is a protocol and its data is the page's; say so where the data is other.

    runs: those of the page; the settings of each, its seed aside, are a line.
    """
    protocol = plan.protocol
    if protocol is None or not runs:
        return
    page.text("## Beside what is published")
    found = protocol.published_for(plan.dataset)
    if found is None:
        page.text(
            f"Nothing is published for this data; {protocol.name} has figures of {', '.join(protocol.published)}."
        )
        return
    name, published = found
    lines: list[dict[str, Any]] = []
    for model, figures in published.figures.items():
        metrics = zip(protocol.metrics, figures, strict=True)
        lines.append(
            {"model": model, "by": "published", **{heading(metric): f"{value:.4f}" for metric, value in metrics}}
        )
    settings: dict[Run, list[Run]] = {}
    for run in results.finished(runs):
        settings.setdefault(replace(run, options=replace(run.options, seed=0)), []).append(run)
    for setting, seeds in settings.items():
        summaries = {metric: results.summary(seeds, metric) for metric in protocol.metrics}
        model = f"{setting.config.backbone}, {setting.config.method}"
        lines.append(
            {"model": model, "by": "rearec", **{heading(metric): str(one) for metric, one in summaries.items()}}
        )
    seen = seen_words(results.seen)
    page.table(lines, caption=f"{name}, test split, full catalogue; ours with {seen}. Published: {protocol.source}.")
    page.text("\n".join(f"- {line}" for line in protocol.unlike))
