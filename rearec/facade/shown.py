"""How the result of a training is shown: the model beside the floors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rearec.evaluation.metrics import METRICS, heading
from rearec.evaluation.seen import seen_words
from rearec.report.floors import beside_floors, floors_of
from rearec.report.notebook import html_table

__all__ = ["result_html", "result_lines"]

SHOWN = ("ndcg@20", "recall@20")


def result_lines(result: Mapping[str, Any]) -> list[str]:
    """The best epoch, and NDCG and Recall at 20; NDCG beside that without the item graph, if it has one, and floors."""
    lines = [f"  {_epochs(result)}"]
    for split in ("valid", "test"):
        measured = result[split]
        if measured is not None:
            shown = ", ".join(f"{heading(metric)} {measured[metric]:.4f}" for metric in SHOWN)
            without = measured.get("without_prior")
            beside = [f"without the graph {without['ndcg@20']:.4f}"] if without else []
            floors = ", ".join(f"{name} {floor['ndcg@20']:.4f}" for name, floor in floors_of(measured).items())
            beside += [f"of {floors}"] if floors else []
            said = "; ".join(beside)
            lines.append(f"  {split}: {shown}{f' (NDCG@20 {said})' if said else ''}")
    lines.append(f"  {seen_words(result['seen'])}")
    return lines


def result_html(caption: str, method: str, result: Mapping[str, Any]) -> str:
    """The same as a table, with all metrics."""
    rows: list[list[object]] = []
    for split in ("valid", "test"):
        measured = result[split]
        if measured is not None:
            named = beside_floors(method, measured)
            rows += [
                [split, name, *(values[metric] for metric in METRICS), values["rows"]] for name, values in named.items()
            ]
    return html_table(
        f"{caption}; {_epochs(result)}; {seen_words(result['seen'])}",
        ["split", "", *map(heading, METRICS), "rows"],
        rows,
    )


def _epochs(result: Mapping[str, Any]) -> str:
    if result.get("refit_of") is not None:
        return f"{result['epochs']} epochs, trained on every interaction; {result['parameters']:,} parameters"
    if result["stopped_early"]:
        end = ", stopped early"
    else:
        end = ", validation still rose" if result["valid"] and result["best_epoch"] == result["epochs"] > 1 else ""
    return f"best epoch {result['best_epoch']} of {result['epochs']}{end}; {result['parameters']:,} parameters"
