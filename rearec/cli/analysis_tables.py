"""What of an analysis is printed: tables of few columns; its page has all of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rearec.cli.tables import Cell, FittingTable

if TYPE_CHECKING:
    from rearec.report.page import Page, PlainTable

__all__ = ["analysis_tables"]

# Columns that say what a line is about; "by" heads a table of its own.
LABELS = ("model", "by", "group", "state", "step", "steps", "")
# What else is shown, where that is not all, beside the metric that the analysis goes by.
SHOWN = {
    "steps": ("over step 0",),
    "ranks": ("higher", "lower", "top 10", "median rank"),
    "latency": ("median ms", "25 % below", "75 % below", "relative"),
}


def analysis_tables(analysis: str, page: Page, result: Any, metric: str) -> Iterator[FittingTable]:
    """The tables to print.

    Args:
        page: that the analysis has filled. result: its numbers.
        metric: the heading of the one that it goes by.
    """
    if analysis == "case":
        yield from _cases(result)
        return
    for table in page.tables:
        columns = [column for column in table.columns if column not in LABELS]
        if analysis in SHOWN:
            columns = [column for column in columns if column in (metric, *SHOWN[analysis])]
        yield from _by_heading(table, columns)


def _by_heading(table: PlainTable, columns: list[str]) -> Iterator[FittingTable]:
    place = {column: index for index, column in enumerate(table.columns)}
    models = {line[place["model"]][0] for line in table.lines if line[place["model"]][0]} if "model" in place else set()
    labels = [each for each in LABELS if each in place and each != "by" and not (each == "model" and len(models) < 2)]
    parts: dict[str, list[tuple[str, list[Cell]]]] = {}
    for line in table.lines:
        words = [line[place[label]][0] for label in labels]
        # A step alone is a number.
        words = [
            f"{label} {word}" if word.isdigit() and label in ("step", "steps") else word
            for label, word in zip(labels, words, strict=True)
        ]
        cells = [_cell(*line[place[column]]) for column in columns]
        parts.setdefault(line[place["by"]][0] if "by" in place else "", []).append(
            (" ".join(filter(None, words)), cells)
        )
    for title, lines in parts.items():
        yield FittingTable(title, columns, lines, whole=True)


def _cell(text: str, error: str) -> Cell:
    if error:
        return Cell(text, f"± {error}")
    interval = re.fullmatch(r"(\S+(?: %)?) (\(.*\))", text)
    return Cell(*interval.groups()) if interval else Cell(text)


def _cases(result: Any) -> Iterator[FittingTable]:
    """A line for each case: the item that came next, and its rank by step."""
    if not result:
        return
    lines = []
    for number, case in enumerate(result, 1):
        title = case["titles"].get(case["target"], case["target"])
        lines.append((f"{number}. {title}, user {case['user']}", [Cell(f"{rank:g}") for rank in case["ranks"]]))
    yield FittingTable("Rank of the item that came next", result[0]["steps"], lines)
