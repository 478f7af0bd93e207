"""Figure 5: how many reasoning steps each method wants."""

from __future__ import annotations

from rearec.experiments.artefact import per_backbone
from rearec.experiments.metric_tables import METRIC, Setting, add_metrics, error_words
from rearec.experiments.plan import Plan
from rearec.experiments.results import Results
from rearec.experiments.runs import Run
from rearec.report.page import Page
from rearec.report.plots import draw_lines, figure

__all__ = ["FIG5"]

STEPS = (1, 2, 3, 4, 5)
METHODS = ("naive", "rpe", "erl", "prl")


def _settings(plan: Plan, backbone: str) -> dict[tuple[str, int], list[Run]]:
    """The runs over seeds by method and steps; base has none."""
    settings = {("base", 0): plan.over_seeds("base", backbone=backbone)}
    for steps in STEPS:
        for method in plan.methods or METHODS:
            if method != "base":
                settings[method, steps] = plan.over_seeds(method, backbone=backbone, steps=steps)
    return settings


def _runs(plan: Plan, backbone: str) -> list[Run]:
    return [run for runs in _settings(plan, backbone).values() for run in runs]


def _fill(page: Page, plan: Plan, results: Results, backbone: str, name: str) -> None:
    settings = _settings(plan, backbone)
    page.text("Every point is a training of its own with so many steps; base does not reason.")
    table = [Setting({"method": method, "steps": steps}, runs) for (method, steps), runs in sorted(settings.items())]
    add_metrics(page, results, table, name)
    series: dict[str, list[tuple[float, float, float | None]]] = {}
    levels = {}
    for (method, steps), runs in settings.items():
        summary = results.summary(runs, METRIC)
        if summary is None:
            continue
        if method == "base":
            levels["base"] = summary.mean
        else:
            series.setdefault(method, []).append((steps, summary.mean, summary.error))
    chart = figure(
        draw_lines,
        series,
        xlabel="reasoning steps K, in training and at inference",
        ylabel="NDCG@20 (test)",
        title=f"How many reasoning steps does each method want? ({backbone})",
        levels=levels,
    )
    caption = (
        f"NDCG@20 by number of steps, every point a training of its own; error bars are {error_words(plan.seeds)}, "
        "the dashed line is base, which does not reason."
    )
    page.figure(chart, name, caption)


FIG5 = per_backbone("fig5", "Figure 5: reasoning steps", _runs, _fill)
