"""Figure 6: sensitivity to the temperature τ, ERL's diversity weight λ and PRL's annealing factor α."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from rearec.experiments.artefact import per_backbone
from rearec.experiments.metric_tables import METRIC, Setting, add_metrics, error_words
from rearec.experiments.plan import Plan
from rearec.experiments.results import Results
from rearec.experiments.runs import Run
from rearec.report.page import Page
from rearec.report.plots import draw_lines, panels

__all__ = ["FIG6"]


@dataclass(frozen=True)
class Sweep:
    """One setting on a grid, all others as they are: the paper's grid, and the value that is used otherwise."""

    setting: str
    words: str
    grid: tuple[float, ...]
    methods: tuple[str, ...]

    def settings(self, plan: Plan, backbone: str) -> Iterator[tuple[str, float, list[Run]]]:
        """Method, value and the runs over seeds."""
        for method in self.methods:
            if plan.methods and method not in plan.methods:
                continue
            usual = getattr(plan.run(method, backbone=backbone).config, self.setting)
            for value in sorted({*self.grid, usual}):
                yield method, value, plan.over_seeds(method, backbone=backbone, **{self.setting: value})


SWEEPS = (
    Sweep("temperature", "temperature τ", (0.05, 0.1, 0.5, 1, 2, 5), ("erl", "prl")),
    Sweep("kl_weight", "diversity weight λ", (0.001, 0.005, 0.01, 0.05, 0.1), ("erl",)),
    Sweep("alpha", "annealing factor α", (1, 1.2, 1.5, 2, 5, 10), ("prl",)),
)


def _base(plan: Plan, backbone: str) -> list[Run]:
    return plan.over_seeds("base", backbone=backbone)


def _runs(plan: Plan, backbone: str) -> list[Run]:
    swept = [run for sweep in SWEEPS for *_, runs in sweep.settings(plan, backbone) for run in runs]
    return [*_base(plan, backbone), *swept]


def _fill(page: Page, plan: Plan, results: Results, backbone: str, name: str) -> None:
    page.text("One setting is changed at a time, the others are as listed below; base has the temperature of the rest.")
    base = results.summary(_base(plan, backbone), METRIC)
    levels = {"base": base.mean} if base else {}
    table, drawings = [], []
    for sweep in SWEEPS:
        series: dict[str, list[tuple[float, float, float | None]]] = {}
        for method, value, runs in sweep.settings(plan, backbone):
            table.append(Setting({"setting": sweep.setting, "method": method, "value": f"{value:g}"}, runs))
            summary = results.summary(runs, METRIC)
            if summary is not None:
                series.setdefault(method, []).append((value, summary.mean, summary.error))
        if series:
            draw = partial(draw_lines, series=series, levels=levels, log_x=True, xlabel=sweep.words)
            drawings.append(partial(draw, ylabel="NDCG@20 (test)"))
    add_metrics(page, results, table, name)
    if drawings:
        chart = panels(drawings, title=f"How much does each setting matter? ({backbone})", same_y=True)
        caption = f"NDCG@20 by setting, every value tried, on one scale; error bars are {error_words(plan.seeds)}."
        page.figure(chart, name, caption)


FIG6 = per_backbone("fig6", "Figure 6: sensitivity", _runs, _fill)
