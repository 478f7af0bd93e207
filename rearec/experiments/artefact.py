"""What a table or figure of the paper is to the rest: the runs it needs, and how it fills its page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rearec.errors import UserError
from rearec.experiments.plan import Plan
from rearec.experiments.results import Results
from rearec.experiments.runs import Run
from rearec.report.page import Page

__all__ = ["Artefact", "per_backbone", "reasoning_runs"]

FIGURE_BACKBONES = ("sasrec",)


@dataclass(frozen=True)
class Artefact:
    """A table or figure.

    name: on the command line and of its page. title: of its page. runs: those it is made of, most important first.
    fill: puts everything on the page that the finished runs allow.
    """

    name: str
    title: str
    runs: Callable[[Plan], list[Run]]
    fill: Callable[[Page, Plan, Results], None]


def per_backbone(
    name: str,
    title: str,
    runs: Callable[[Plan, str], list[Run]],
    fill: Callable[[Page, Plan, Results, str, str], None],
) -> Artefact:
    """An artefact with a section for each backbone: SASRec unless others are asked for.

    runs: by plan and backbone. fill: the section, by page, plan, results, backbone and the name for its files; called
    only where one of its runs is finished, or none is needed.
    """

    def backbones(plan: Plan) -> Sequence[str]:
        return plan.backbones or FIGURE_BACKBONES

    def all_runs(plan: Plan) -> list[Run]:
        return [run for backbone in backbones(plan) for run in runs(plan, backbone)]

    def fill_all(page: Page, plan: Plan, results: Results) -> None:
        for backbone in backbones(plan):
            page.text(f"## {backbone}")
            needed = runs(plan, backbone)
            if needed and not results.finished(needed):
                page.text("No run is finished yet.")
            else:
                fill(page, plan, results, backbone, f"{name}-{backbone}")

    return Artefact(name, title, all_runs, fill_all)


def reasoning_runs(plan: Plan, backbone: str, own: Sequence[str]) -> dict[str, Run]:
    """A run, with the first seed, for each method that reasons: of those asked for, or else of ``own``."""
    runs = {method: plan.run(method, backbone=backbone) for method in plan.methods or own}
    reasoning = {method: run for method, run in runs.items() if run.config.steps > 0}
    if not reasoning:
        raise UserError("this is about reasoning steps: it needs a method that reasons, and 1 step or more")
    return reasoning
