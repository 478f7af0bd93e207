"""Tables 2 and 3: backbones × methods, and how far each method is above base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rearec.errors import UserError
from rearec.experiments.artefact import Artefact
from rearec.experiments.metric_tables import METRIC, Setting, add_gains, add_metrics, error_words, gain_caption
from rearec.experiments.plan import Plan
from rearec.experiments.results import Results
from rearec.experiments.runs import Run
from rearec.models.config import ID_BACKBONES, TEXT_BACKBONES
from rearec.report.page import Page
from rearec.report.plots import draw_bars, figure

__all__ = ["TABLE2", "TABLE3"]

METHODS = ("base", "erl", "prl")

# The runs over seeds by backbone and method.
Grid = Mapping[str, Mapping[str, Sequence[Run]]]


def _grid(plan: Plan, backbones: Sequence[str]) -> Grid:
    """base is always there: all is compared with it."""
    methods = list(dict.fromkeys(("base", *(plan.methods or METHODS))))
    return {
        backbone: {method: plan.over_seeds(method, backbone=backbone) for method in methods} for backbone in backbones
    }


def _artefact(name: str, title: str, known: Sequence[str]) -> Artefact:
    def grid_of(plan: Plan) -> Grid:
        backbones = [backbone for backbone in plan.backbones or known if backbone in known]
        if not backbones:
            raise UserError(f"{name} is about the backbones {', '.join(known)}; choose one of these")
        return _grid(plan, backbones)

    def runs(plan: Plan) -> list[Run]:
        every = [run for methods in grid_of(plan).values() for seeds in methods.values() for run in seeds]
        # The whole table with one seed comes before the second seed.
        return sorted(every, key=lambda run: run.options.seed)

    def fill(page: Page, plan: Plan, results: Results) -> None:
        grid = grid_of(plan)
        _fill(page, plan, results, grid, name)
        if known is TEXT_BACKBONES:
            _beside_id_backbones(page, plan, results, grid, name)

    return Artefact(name, title, runs, fill)


def _fill(page: Page, plan: Plan, results: Results, grid: Grid, name: str) -> None:
    settings = [
        Setting({"backbone": backbone, "method": method}, runs, over=methods["base"] if method != "base" else ())
        for backbone, methods in grid.items()
        for method, runs in methods.items()
    ]
    add_metrics(page, results, settings, name)
    compared = [setting for setting in settings if setting.over]
    add_gains(page, results, compared, f"{name}-gains", "Gain over base of the same backbone")
    _add_figure(page, plan, results, grid, name, "Does reasoning help? NDCG@20 by backbone and method")


def _add_figure(page: Page, plan: Plan, results: Results, grid: Grid, name: str, title: str) -> None:
    """Bars of the backbones of which every method is there."""
    cells = {
        backbone: {method: results.summary(runs, METRIC) for method, runs in methods.items()}
        for backbone, methods in grid.items()
    }
    whole = [backbone for backbone, row in cells.items() if None not in row.values()]
    if not whole:
        return
    values: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    for backbone in whole:
        for method, summary in cells[backbone].items():
            assert summary is not None
            values.setdefault(method, []).append(summary.mean)
            errors.setdefault(method, []).append(summary.error or 0.0)
    levels = results.floor_levels(METRIC)
    chart = figure(draw_bars, whole, values, errors=errors, levels=levels, ylabel="NDCG@20 (test)", title=title)
    caption = f"NDCG@20 on the test split; error bars are {error_words(plan.seeds)}, dashed lines the floors."
    page.figure(chart, name, caption)


def _beside_id_backbones(page: Page, plan: Plan, results: Results, grid: Grid, name: str) -> None:
    """Whether texts help: every text backbone against every ID backbone that was trained in the same folder."""
    ids = _grid(plan, ID_BACKBONES)
    ids = {backbone: methods for backbone, methods in ids.items() if all(map(results.finished, methods.values()))}
    page.text("## Beside the ID backbones")
    if not ids:
        page.text("They are not trained in this folder: table2 with the same settings does it.")
        return
    rows = []
    for backbone, methods in grid.items():
        for method, runs in methods.items():
            row: dict[str, Any] = {"backbone": backbone, "method": method}
            for other in ids:
                gain = results.gain(runs, ids[other][method], METRIC)
                row[f"NDCG@20 over {other}"] = gain and str(gain)
            rows.append(row)
    page.table(rows, caption=gain_caption("Gain over the same method on another backbone", results))
    _add_figure(
        page, plan, results, {**ids, **grid}, f"{name}-all-backbones", "Do texts help? NDCG@20 of text and ID backbones"
    )


TABLE2 = _artefact("table2", "Table 2: ID backbones", ID_BACKBONES)
TABLE3 = _artefact("table3", "Table 3: text backbones", TEXT_BACKBONES)
