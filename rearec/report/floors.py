"""The floors in results: their names, words, colours and dashes, and where results hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FLOORS", "beside_floors", "floor_levels", "floors_of", "with_and_without"]

Dashes = tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Floor:
    """A floor in few words (of a table's line), the grey of its bar, and the dashes of a line that stands for it."""

    words: str
    color: str
    dashes: Dashes


# In the order of every table.
FLOORS: Mapping[str, Floor] = {
    "popularity": Floor("most popular items", "0.72", (0, (1, 1.5))),
    "markov": Floor("Markov chain", "0.55", (0, (5, 2, 1, 2))),
    "itemknn": Floor("items of the same users", "0.40", (0, (3, 1.5))),
    "rules": Floor("weighted pairwise rules", "0.22", (0, (8, 2))),
}


def floors_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics of the floors that a result has, by name; results of earlier versions have fewer.

    Examples:
        >>> from rearec.report.floors import floors_of
        >>> floors_of({"ndcg@20": 0.3, "markov": {"ndcg@20": 0.2}, "popularity": {"ndcg@20": 0.1}})
        {'popularity': {'ndcg@20': 0.1}, 'markov': {'ndcg@20': 0.2}}
    """
    return {name: result[name] for name in FLOORS if name in result}


def beside_floors(name: str, result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The lines of a table: the metrics of a model by its name, then those of the floors in its result."""
    return {**with_and_without(name, result), **floors_of(result)}


def with_and_without(name: str, result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The lines of a table for a model's metrics: by its name and, of one with a graph prior, those without it.

    Examples:
        >>> from rearec.report.floors import with_and_without
        >>> list(with_and_without("prl", {"ndcg@20": 0.3, "without_prior": {"ndcg@20": 0.2}}))
        ['prl', 'prl without the graph']
    """
    without = result.get("without_prior")
    return {name: result} if without is None else {name: result, f"{name} without the graph": without}


def floor_levels(result: Mapping[str, Any], metric: str) -> dict[str, float]:
    """A metric of the floors in a result, by the names that figures give them."""
    return {f"{name} (floor)": metrics[metric] for name, metrics in floors_of(result).items()}
