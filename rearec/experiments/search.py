"""The search for good settings: as many for base as for erl and prl, chosen on validation, nothing else looked at."""

from __future__ import annotations

from typing import Any

import numpy as np

from rearec.evaluation.seen import seen_words
from rearec.experiments.artefact import per_backbone
from rearec.experiments.metric_tables import METRIC, Setting, add_gains, add_metrics
from rearec.experiments.plan import Plan, settings_of
from rearec.experiments.results import Results
from rearec.experiments.runs import Run
from rearec.experiments.search_space import grids
from rearec.report.page import Markdown, Page

__all__ = ["SEARCH"]

METHODS = ("base", "erl", "prl")


def _candidates(plan: Plan, backbone: str, method: str) -> list[Run]:
    """The best known setting, then others drawn from the grid without replacement, the same in every call."""
    runs = [plan.run(method, backbone=backbone)]
    axes = grids(backbone, method, plan.settings)
    shape = tuple(map(len, axes.values()))
    for place in np.random.default_rng(0).permutation(int(np.prod(shape))):
        if len(runs) >= plan.search_settings:
            break
        indices = np.unravel_index(place, shape)
        changes = {name: values[index] for (name, values), index in zip(axes.items(), indices, strict=True)}
        run = plan.run(method, backbone=backbone, **changes)
        if run not in runs:
            runs.append(run)
    return runs


def _by_method(plan: Plan, backbone: str) -> dict[str, list[Run]]:
    return {method: _candidates(plan, backbone, method) for method in plan.methods or METHODS}


def _runs(plan: Plan, backbone: str) -> list[Run]:
    """Turn by turn, so that a budget that ends early has tried as many settings of each method."""
    candidates = _by_method(plan, backbone).values()
    longest = max(map(len, candidates))
    return [runs[turn] for turn in range(longest) for runs in candidates if turn < len(runs)]


def _fill(page: Page, plan: Plan, results: Results, backbone: str, name: str) -> None:
    page.text(
        "Every method gets the same number of settings: the best known one, then draws from a grid (all of what it has "
        "in common, and its own terms). The setting with the highest NDCG@20 on the **validation** split is chosen; "
        "the test split is looked at for the chosen settings alone. All runs have one seed."
    )
    data: list[dict[str, Any]] = []
    chosen: dict[str, Run] = {}
    for method, candidates in _by_method(plan, backbone).items():
        finished = results.finished(candidates)
        if not finished:
            page.text(f"### {method}\n\nNo setting is trained yet.")
            continue
        values = {run: results.result(run)["valid"][METRIC] for run in finished}
        chosen[method] = max(finished, key=values.__getitem__)
        axes = grids(backbone, method, plan.settings)
        rows = [
            {
                **{axis: settings_of(run)[axis] for axis in axes},
                "best epoch": results.result(run)["best_epoch"],
                "valid NDCG@20": values[run],
                "chosen": run == chosen[method],
            }
            for run in sorted(finished, key=values.__getitem__, reverse=True)
        ]
        page.text(f"### {method}: {len(finished)} of {len(candidates)} settings")
        shown = [{key: f"{cell:g}" if key in axes else cell for key, cell in row.items()} for row in rows]
        caption = f"Validation split, {seen_words(results.seen)}:"
        chosen_rows = [{**row, "chosen": Markdown("**best**") if row["chosen"] else ""} for row in shown]
        page.table(chosen_rows, caption=caption)
        data += [{"method": method, **row} for row in rows]
    page.data(data, name, shared={"seen": results.seen})
    page.text("### The chosen settings on the test split")
    over = [chosen["base"]] if "base" in chosen else []
    table = [Setting({"method": method}, [run], over if method != "base" else ()) for method, run in chosen.items()]
    add_metrics(page, results, table, f"{name}-test")
    compared = [setting for setting in table if setting.over]
    add_gains(page, results, compared, f"{name}-gains", "Gain over the chosen setting of base")


SEARCH = per_backbone("search", "Search for settings", _runs, _fill)
