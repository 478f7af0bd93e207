"""Figures 2, 4, 8, 9 (with 10) and 11 and Table 4: analyses of single models, all of the first seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rearec.analysis import case, ceiling, latency, ranks, similarity, subgroups
from rearec.experiments.artefact import Artefact, per_backbone, reasoning_runs
from rearec.experiments.plan import Plan
from rearec.experiments.results import Results
from rearec.experiments.runs import Run
from rearec.reasoning import ReaRec
from rearec.report.page import Page

__all__ = ["FIG2", "FIG4", "FIG8", "FIG9", "FIG11", "TABLE4"]

REASONING = ("rpe", "erl", "prl")
LATENCY_STEPS = 5


def _ceiling_runs(plan: Plan, backbone: str) -> tuple[dict[str, Run], list[Run]]:
    """The models, and the base models of the control: one for each of the states to choose from."""
    models = reasoning_runs(plan, backbone, REASONING)
    states = max(run.config.steps for run in models.values()) + 1
    return models, [plan.run("base", backbone=backbone, number=number) for number in range(states)]


def _fill_ceiling(page: Page, plan: Plan, results: Results, backbone: str, name: str) -> None:
    models, control = _ceiling_runs(plan, backbone)
    finished = results.finished(control)
    whole = len(finished) == len(control)
    if not whole:
        page.text(f"The control is not there: {len(finished)} of its {len(control)} base models are trained.")
    base = np.stack([results.ranks(run).final for run in control], axis=1) if whole else None
    found = {}
    for method, run in models.items():
        if results.finished([run]):
            by_step = results.ranks(run, per_step=True).by_step
            assert by_step is not None
            found[method] = ceiling.ceiling(by_step, None if base is None else base[:, : by_step.shape[1]])
    if found:
        ceiling.page(page, found, seen=results.seen, floors=results.floors, name=name)


def _ceiling_list(plan: Plan, backbone: str) -> list[Run]:
    models, control = _ceiling_runs(plan, backbone)
    return [*control, *models.values()]


def _subgroup_runs(plan: Plan, backbone: str) -> dict[str, Run]:
    return {method: plan.run(method, backbone=backbone) for method in plan.methods or ("base", "erl", "prl")}


def _fill_subgroups(page: Page, plan: Plan, results: Results, backbone: str, name: str) -> None:
    models = results.models(_subgroup_runs(plan, backbone))
    found = subgroups.subgroups(models, results.dataset, exclude_seen=results.exclude_seen)
    subgroups.page(page, found, name=name)


def _of_models(name: str, title: str, fill: Callable[[Page, Results, dict[str, ReaRec], str], None]) -> Artefact:
    """A page of every method that reasons; fill: by page, results, models by method and the name for its files."""

    def runs(plan: Plan, backbone: str) -> list[Run]:
        return list(reasoning_runs(plan, backbone, REASONING).values())

    def fill_of_backbone(page: Page, plan: Plan, results: Results, backbone: str, file: str) -> None:
        fill(page, results, results.models(reasoning_runs(plan, backbone, REASONING)), file)

    return per_backbone(name, title, runs, fill_of_backbone)


def _fill_ranks(page: Page, results: Results, models: dict[str, ReaRec], name: str) -> None:
    found = {
        method: ranks.rank_by_step(model, results.dataset, exclude_seen=results.exclude_seen)
        for method, model in models.items()
    }
    ranks.page(page, found, seen=results.seen, name=name)


def _fill_similarity(page: Page, results: Results, models: dict[str, ReaRec], name: str) -> None:
    found = {method: similarity.similarity(model, results.dataset) for method, model in models.items()}
    similarity.page(page, found, name=name)


def _case_runs(plan: Plan, backbone: str) -> dict[str, Run]:
    return reasoning_runs(plan, backbone, ("erl", "prl"))


def _fill_cases(page: Page, plan: Plan, results: Results, backbone: str, name: str) -> None:
    for method, model in results.models(_case_runs(plan, backbone)).items():
        page.text(f"### {method}")
        found = case.cases(model, results.dataset, exclude_seen=results.exclude_seen)
        case.page(page, found, seen=results.seen, name=f"{name}-{method}")


def _fill_latency(page: Page, plan: Plan, results: Results, backbone: str, name: str) -> None:
    config = plan.run("prl", backbone=backbone, steps=LATENCY_STEPS).config
    features = torch.from_numpy(np.array(results.dataset.features)) if config.reads_features else None
    model = ReaRec(config, features).to(results.device).eval()
    page.text("The model has random weights: time does not depend on them.")
    found = latency.latency(model, results.dataset)
    latency.page(page, {backbone: found}, device=latency.device_words(results.device), name=name)


FIG2 = per_backbone("fig2", "Figure 2: the ceiling and its control", _ceiling_list, _fill_ceiling)
FIG4 = per_backbone(
    "fig4",
    "Figure 4: by history length and popularity",
    lambda plan, backbone: list(_subgroup_runs(plan, backbone).values()),
    _fill_subgroups,
)
FIG8 = _of_models("fig8", "Figure 8: rank of the target by step", _fill_ranks)
FIG9 = _of_models("fig9", "Figures 9 and 10: similarity between the steps", _fill_similarity)
FIG11 = per_backbone(
    "fig11", "Figure 11: case study", lambda plan, backbone: list(_case_runs(plan, backbone).values()), _fill_cases
)
TABLE4 = per_backbone("table4", "Table 4: latency by step", lambda plan, backbone: [], _fill_latency)
