"""Tables 2 and 3: backbones × methods, and how far each method is above base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rearec.errors import UserError
from rearec.experiments.artefact import Artefact
from rearec.experiments.plan import Plan
from rearec.experiments.results import HEADINGS, Results, error_words
from rearec.experiments.runs import Run
from rearec.models.config import ID_BACKBONES, TEXT_BACKBONES
from rearec.pages import Page
from rearec.plots import bars

__all__ = ["TABLE2", "TABLE3", "add_gains", "metric_rows"]

METHODS = ("base", "erl", "prl")
METRIC = "ndcg@20"


def metric_rows(results: Results, settings: Mapping[tuple[str, ...], Sequence[Run]]) -> list[dict[str, Any]]:
    """For each setting its metrics as numbers: mean, ``_std`` (several seeds) or ``_se`` (one), and ``seeds``.

    settings: the runs over seeds of each setting, by what stands in the first columns.
    """
    rows = []
    for runs in settings.values():
        row: dict[str, Any] = {"seeds": len(results.finished(runs))}
        for metric in HEADINGS:
            summary = results.summary(runs, metric)
            row[metric] = summary and summary.mean
            row[f"{metric}_{'std' if len(runs) > 1 else 'se'}"] = summary and summary.error
        rows.append(row)
    return rows


def add_gains(
    page: Page, results: Results, settings: Mapping[str, Sequence[Run]], over: Sequence[Run], name: str, caption: str
) -> None:
    """Add a table of gains in per cent over the runs ``over`` in every metric, with intervals, and its csv."""
    shown, data = [], []
    for label, runs in settings.items():
        gains = {metric: results.gain(runs, over, metric) for metric in HEADINGS}
        shown.append({"": label, **{HEADINGS[metric]: gain and str(gain) for metric, gain in gains.items()}})
        data += [
            {"setting": label, "metric": metric, "gain_%": gain.percent, "low_%": gain.low, "high_%": gain.high}
            for metric, gain in gains.items()
            if gain is not None
        ]
    if data:
        page.table(shown, caption=caption)
        page.data(data, name)


def _grid(plan: Plan, known: Sequence[str], table: str) -> dict[str, dict[str, list[Run]]]:
    """Runs over seeds by backbone and method; base is always there, all is compared with it."""
    backbones = [name for name in plan.backbones or known if name in known]
    if not backbones:
        raise UserError(f"{table} is about the backbones {', '.join(known)}; choose one of these")
    methods = list(dict.fromkeys(("base", *(plan.methods or METHODS))))
    return {
        backbone: {method: plan.over_seeds(method, backbone=backbone) for method in methods} for backbone in backbones
    }


def _artefact(name: str, title: str, backbones: Sequence[str]) -> Artefact:
    def runs(plan: Plan) -> list[Run]:
        grid = _grid(plan, backbones, name)
        every = [run for methods in grid.values() for seeds in methods.values() for run in seeds]
        # The whole table with one seed comes before the second seed.
        return sorted(every, key=lambda run: run.options.seed)

    def fill(page: Page, plan: Plan, results: Results) -> None:
        grid = _grid(plan, backbones, name)
        _fill(page, plan, results, grid, name)
        if name == "table3":
            _beside_id_backbones(page, plan, results, grid)

    return Artefact(name, title, runs, fill)


def _fill(page: Page, plan: Plan, results: Results, grid: Mapping[str, Mapping[str, Sequence[Run]]], name: str) -> None:
    settings = {(backbone, method): runs for backbone, methods in grid.items() for method, runs in methods.items()}
    shown = []
    for (backbone, method), runs in settings.items():
        gain = results.gain(runs, grid[backbone]["base"], METRIC) if method != "base" else None
        shown.append(
            {
                "backbone": backbone,
                "method": method,
                **{heading: str(results.summary(runs, metric) or "–") for metric, heading in HEADINGS.items()},
                "NDCG@20 over base": gain and f"{gain.percent:+.1f} %",
            }
        )
    page.table(shown, caption=f"Test split, full catalogue, seen items not removed; ± is {error_words(plan.seeds)}.")
    page.data(
        [
            {"backbone": backbone, "method": method, **row}
            for (backbone, method), row in zip(settings, metric_rows(results, settings), strict=True)
        ],
        name,
    )
    for backbone, methods in grid.items():
        reasoning = {method: runs for method, runs in methods.items() if method != "base"}
        add_gains(
            page,
            results,
            reasoning,
            methods["base"],
            f"{name}-gains-{backbone}",
            f"{backbone}: gain over base, with 95 % paired bootstrap intervals over rows, seeds pooled.",
        )
    _figure(page, plan, results, grid, name, "NDCG@20 by backbone and method")


def _figure(
    page: Page,
    plan: Plan,
    results: Results,
    grid: Mapping[str, Mapping[str, Sequence[Run]]],
    name: str,
    title: str,
) -> None:
    """Bars of the backbones of which everything is finished."""
    methods = list(next(iter(grid.values())))
    whole = [
        backbone
        for backbone in grid
        if all(results.summary(runs, METRIC) is not None for runs in grid[backbone].values())
    ]
    if not whole:
        return
    cells = {m: [results.summary(grid[backbone][m], METRIC) for backbone in whole] for m in methods}
    figure = bars(
        whole,
        {m: [cell.mean for cell in row if cell] for m, row in cells.items()},
        errors={m: [cell.error or 0.0 for cell in row if cell] for m, row in cells.items()},
        ylabel="NDCG@20 (test)",
        title=title,
    )
    page.figure(figure, name, f"NDCG@20 on the test split; bars are {error_words(plan.seeds)}.")


def _beside_id_backbones(
    page: Page, plan: Plan, results: Results, grid: Mapping[str, Mapping[str, Sequence[Run]]]
) -> None:
    """Whether texts help: every text backbone against every ID backbone that was trained in the same folder."""
    methods = list(next(iter(grid.values())))
    ids = {name: {m: plan.over_seeds(m, backbone=name) for m in methods} for name in ID_BACKBONES}
    ids = {name: runs for name, runs in ids.items() if all(results.finished(seeds) for seeds in runs.values())}
    if not ids:
        page.text("Table 2 of the same folder would let text backbones be compared with ID backbones here.")
        return
    rows = []
    for backbone, runs in grid.items():
        for method in methods:
            row: dict[str, Any] = {"text backbone": backbone, "method": method}
            for other, other_runs in ids.items():
                gain = results.gain(runs[method], other_runs[method], METRIC)
                row[f"NDCG@20 over {other}"] = gain and str(gain)
            rows.append(row)
    page.text("## Beside the ID backbones")
    page.table(rows, caption="The same method on both, with 95 % paired bootstrap intervals over rows, seeds pooled.")
    _figure(page, plan, results, {**ids, **grid}, "table3-all-backbones", "Text and ID backbones")


TABLE2 = _artefact("table2", "Table 2: ID backbones", ID_BACKBONES)
TABLE3 = _artefact("table3", "Table 3: text backbones", TEXT_BACKBONES)
