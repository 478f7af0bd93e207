"""One evaluator for all: ranks of the test targets in exported lists and of the floors; metrics and gains from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from measure.gains import gains

from contenders.libraries.ranks import FloatArray, ranks, without
from contenders.libraries.task import IntArray, Sequences
from rearec.data import SequenceDataset
from rearec.evaluation.floors import baseline_ranks
from rearec.evaluation.metrics import rank_metrics, row_metrics

CHOSEN_BY = "ndcg@20"
METRICS = ("ndcg@10", "recall@10", "ndcg@20", "recall@20")
TOP = 20
# Whether the items of the history stay in the lists.
HOW = ("seen_kept", "seen_removed")
# Whose contenders all are compared with, each its best by validation: ours, and the library ahead in the literature.
REFERENCES = ("rearec", "RecTools")

Ranks = Mapping[str, FloatArray]
"""float64 [users] by HOW; inf where a target is not among the first TOP."""


def gains_of_places() -> tuple[float, ...]:
    """What a target adds to CHOSEN_BY, by its place in a list of TOP."""
    return tuple(row_metrics(np.arange(TOP, dtype=np.float64))[CHOSEN_BY].tolist())


def ranks_of(lists: IntArray, sequences: Sequences) -> Ranks:
    """Raises ValueError for lists that are of other users or hold an item twice."""
    if len(lists) != sequences.num_users:
        raise ValueError(f"lists of {len(lists)} users, expected {sequences.num_users}")
    ordered = np.sort(lists, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("a list holds an item twice")
    targets = sequences.targets()
    return {
        "seen_kept": ranks(lists, targets, TOP),
        "seen_removed": ranks(without(lists, sequences, top=TOP), targets, TOP),
    }


def floors(dataset: SequenceDataset) -> dict[str, Ranks]:
    """By name: popularity, markov, itemknn, rules."""
    kept, removed = (baseline_ranks(dataset, "test", exclude_seen=how == "seen_removed") for how in HOW)
    return {name: {"seen_kept": _cut(kept[name]), "seen_removed": _cut(removed[name])} for name in kept}


def _cut(rank: FloatArray) -> FloatArray:
    return np.where(rank < TOP, rank, np.inf)


def metrics(found: Ranks) -> dict[str, Any]:
    """Means over users of METRICS, with standard errors, by HOW."""
    names = {*METRICS, *(f"{name}_se" for name in METRICS)}
    return {how: {name: value for name, value in rank_metrics(found[how]).items() if name in names} for how in HOW}


def references(valid: Mapping[str, float]) -> list[str]:
    """Who all are compared with: of each of REFERENCES the best by validation, where one was trained."""
    own = [{name: value for name, value in valid.items() if name.startswith(begin)} for begin in REFERENCES]
    return [max(one, key=one.__getitem__) for one in own if one]


def compared(found: Mapping[str, Ranks], over: Sequence[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Of each contender its gains in per cent over each reference, seen items left out, with 95 % paired intervals."""
    removed = {name: [one["seen_removed"]] for name, one in found.items()}
    return {
        name: {reference: gains(removed, name, reference) for reference in over if reference != name} for name in found
    }
