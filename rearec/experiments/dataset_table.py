"""Table 1: the dataset, beside the counts that were published of it."""

from __future__ import annotations

from typing import Any

from rearec.data.preparation.presets import published_counts, with_all_rows
from rearec.experiments.artefact import Artefact
from rearec.experiments.plan import Plan
from rearec.experiments.results import Results
from rearec.report.page import Page

__all__ = ["TABLE1"]


def _fill(page: Page, plan: Plan, results: Results) -> None:
    got = with_all_rows(results.dataset.statistics)
    preset = results.dataset.options.get("preset")
    published = published_counts(preset) if preset else {}
    rows: list[dict[str, Any]] = []
    for name, value in got.items():
        row: dict[str, Any] = {"": name.replace("_", " "), "here": value}
        if published:
            expected = published.get(name)
            row |= {"published": expected, "difference": None if expected is None else value - expected}
        rows.append(row)
    # As texts: the column holds counts beside fractions.
    shown = [{key: _readable(value) for key, value in row.items()} for row in rows]
    page.table(shown)
    page.data(rows, "table1")
    if published:
        page.text(
            f"Prepared with the preset {preset!r}. The published counts are those of the paper's Table 1, whose "
            "interactions are the rows of all splits, and of the official notebooks."
        )
    else:
        page.text("Not prepared with a preset of the paper's datasets: there are no published counts to compare with.")


def _readable(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6f}" if value < 0.1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else value


TABLE1 = Artefact("table1", "Table 1: the dataset", lambda plan: [], _fill)
