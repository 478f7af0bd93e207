"""Figure 7: what the terms of the two objectives are worth, and what reasoning is worth without them."""

from __future__ import annotations

from rearec.experiments.artefact import per_backbone
from rearec.experiments.metric_tables import METRIC, Setting, add_gains, add_metrics, error_words
from rearec.experiments.plan import Plan
from rearec.experiments.results import Results
from rearec.experiments.runs import Run
from rearec.models.config import ReaRecConfig
from rearec.report.page import Page
from rearec.report.plots import draw_bars, figure

__all__ = ["FIG7"]

# Each method's own term: its weight, and how it is called.
TERMS = {"erl": ("kl_weight", "KL"), "prl": ("cl_weight", "RCL")}


def _settings(plan: Plan, backbone: str) -> dict[str, list[Run]]:
    """The runs over seeds by label: base, rpe, and each method with and without its term."""
    settings = {method: plan.over_seeds(method, backbone=backbone) for method in ("base", "rpe")}
    for method, (weight, term) in TERMS.items():
        # Where the best known setting has no such term, the official weight stands for the whole objective.
        best = getattr(plan.run(method, backbone=backbone).config, weight)
        full = best or getattr(ReaRecConfig, weight)
        settings[f"{method} without {term}"] = plan.over_seeds(method, backbone=backbone, **{weight: 0.0})
        settings[f"{method} with {term} {full:g}"] = plan.over_seeds(method, backbone=backbone, **{weight: full})
    return settings


def _runs(plan: Plan, backbone: str) -> list[Run]:
    return [run for runs in _settings(plan, backbone).values() for run in runs]


def _fill(page: Page, plan: Plan, results: Results, backbone: str, name: str) -> None:
    settings = _settings(plan, backbone)
    page.text(
        "rpe reasons with the last step's cross-entropy alone: what it does not reach, the objectives add. erl without "
        "KL is the ensemble of the steps alone, prl without RCL the annealed cross-entropy of all steps alone."
    )
    add_metrics(page, results, [Setting({"": label}, runs) for label, runs in settings.items()], name)
    for reference in ("base", "rpe"):
        over = settings[reference]
        compared = [
            Setting({"": label}, runs, over) for label, runs in settings.items() if label not in ("base", reference)
        ]
        add_gains(page, results, compared, f"{name}-over-{reference}", f"Gain over {reference}")
    page.text(_verdict(results, settings))
    found = {label: results.summary(runs, METRIC) for label, runs in settings.items()}
    cells = {label: summary for label, summary in found.items() if summary is not None}
    chart = figure(
        draw_bars,
        list(cells),
        {"NDCG@20": [cell.mean for cell in cells.values()]},
        errors={"NDCG@20": [cell.error or 0.0 for cell in cells.values()]},
        levels=results.floor_levels(METRIC),
        ylabel="NDCG@20 (test)",
        title=f"What is each part of the objectives worth? ({backbone})",
    )
    caption = f"NDCG@20 on the test split; error bars are {error_words(plan.seeds)}, dashed lines the floors."
    page.figure(chart, name, caption)


def _verdict(results: Results, settings: dict[str, list[Run]]) -> str:
    """Whether rpe alone does as well, in words."""
    lines = []
    for label, runs in settings.items():
        gain = results.gain(runs, settings["rpe"], METRIC)
        if gain is None or label in ("base", "rpe"):
            continue
        if not gain.excludes_zero:
            says = "rpe alone does as well: the difference cannot be told from chance"
        elif gain.difference > 0:
            says = "better than rpe alone"
        else:
            says = "worse than rpe alone"
        lines.append(f"- {label}: {says} (NDCG@20 {gain}).")
    return "\n".join(lines) or "Whether rpe alone does as well cannot be said before it is trained."


FIG7 = per_backbone("fig7", "Figure 7: ablation", _runs, _fill)
