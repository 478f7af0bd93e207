"""Evaluation written down a second time: one row at a time, in float64, over a full list of scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rearec.data import SequenceDataset, collate_histories
from rearec.reasoning import ReaRec

Scores = Sequence[float] | np.ndarray


def histories_of(dataset: SequenceDataset, split: str) -> list[tuple[int, list[int], int]]:
    """(user, history, target) of each row."""
    found = []
    for sequence, position in dataset.split_rows[split].tolist():  # type: ignore[index]
        begin = int(dataset.offsets[sequence])
        items = dataset.items[begin : begin + position + 1].tolist()
        found.append((int(dataset.sequence_user[sequence]), items[:-1], items[-1]))
    return found


def rank(scores: Scores, target: int, seen: Iterable[int]) -> float:
    """How many stand above the target, those beside it count half; seen items do not count."""
    barred = set(seen)
    rivals = [score for item, score in enumerate(scores) if item != target and item not in barred]
    return sum(score > scores[target] for score in rivals) + sum(score == scores[target] for score in rivals) / 2


def shown(scores: Scores, seen: Iterable[int], k: int) -> list[int]:
    """The first k items, ties by lower item; seen items are not shown."""
    barred = set(seen)
    return sorted((item for item in range(len(scores)) if item not in barred), key=lambda item: (-scores[item], item))[
        :k
    ]


def training_events(dataset: SequenceDataset) -> list[tuple[int, int]]:
    """(user, item) of everything before a sequence's first valid or test row; for data with a sequence per user."""
    events = []
    for sequence, user in enumerate(dataset.sequence_user.tolist()):
        asked = [
            place for split in ("valid", "test") for s, place in dataset.split_rows[split].tolist() if s == sequence
        ]
        begin, end = dataset.offsets[sequence : sequence + 2].tolist()
        events += [(user, item) for item in dataset.items[begin:end].tolist()[: min(asked, default=end - begin)]]
    return events


def popularity_scores(dataset: SequenceDataset) -> list[int]:
    """[N], how often each item is in the training data."""
    count = Counter(item for _, item in training_events(dataset))
    return [count[item] for item in range(dataset.num_items)]


def markov_scores(dataset: SequenceDataset, split: str) -> list[list[int]]:
    """[N] for each row: transitions of the training rows from the last item first, popularity second."""
    follows = Counter((history[-1], target) for _, history, target in histories_of(dataset, "train"))
    popularity = popularity_scores(dataset)
    weight = sum(popularity) + 1
    return [
        [count + (weight * follows[history[-1], item] if history else 0) for item, count in enumerate(popularity)]
        for _, history, _ in histories_of(dataset, split)
    ]


def graph_scores(
    dataset: SequenceDataset, split: str, weight: Mapping[tuple[int, int], np.float32], last: int, decay: float
) -> list[list[int]]:
    """[N] for each row: weights from the last items of the history first, popularity second; as places from below."""
    popularity = popularity_scores(dataset)
    found = []
    for _, history, _ in histories_of(dataset, split):
        sums = [0.0] * dataset.num_items
        used = history[-last:]
        # numpy's power, which need not round as Python's
        parts = decay ** np.arange(len(used), dtype=np.float64)[::-1]
        for source, part in zip(used, parts, strict=True):
            for item in range(dataset.num_items):
                sums[item] += float(weight.get((source, item), 0.0)) * part
        pairs = [*zip(sums, popularity, strict=True)]
        found.append([sorted(set(pairs)).index(pair) for pair in pairs])
    return found


def itemknn_scores(dataset: SequenceDataset, split: str) -> list[list[int]]:
    """[N] for each row, by the cosines between the users of two items."""
    having = [{user for user, item in training_events(dataset) if item == one} for one in range(dataset.num_items)]
    both = {(a, b): len(having[a] & having[b]) for a in range(len(having)) for b in range(len(having)) if a != b}
    weight = {
        (a, b): np.float32(count / math.sqrt(len(having[a]) * len(having[b])))
        for (a, b), count in both.items()
        if count
    }
    return graph_scores(dataset, split, weight, last=10**9, decay=1.0)


def rules_scores(dataset: SequenceDataset, split: str, chosen: Mapping[str, Any]) -> list[list[int]]:
    """[N] for each row, by transitions with these settings; for data with a sequence per user."""
    count: Counter[tuple[int, int]] = Counter()
    events = training_events(dataset)
    for user in {user for user, _ in events}:
        items = [item for other, item in events if other == user]
        for place, after in enumerate(items):
            for gap in range(1, min(chosen["window"], place) + 1):
                before, unit = items[place - gap], chosen["decay"] ** (gap - 1) * 2**30
                if before != after:
                    count[before, after] += round(unit)
                    count[after, before] += round(chosen["reverse"] * unit)
    popularity = popularity_scores(dataset)
    weight = {}
    for (a, b), times in count.items():
        if times:
            total = sum(other for (source, _), other in count.items() if source == a) / 2**30 + chosen["shrinkage"]
            weight[a, b] = np.float32(times / 2**30 / (total * (popularity[b] + 1.0) ** chosen["popularity"]))
    return graph_scores(dataset, split, weight, chosen["last"], chosen["history_decay"])


def floor_scores(dataset: SequenceDataset, split: str, chosen: Mapping[str, Any]) -> dict[str, Sequence[Scores]]:
    """[N] for each row by each floor; chosen: the settings of rules."""
    return {
        "popularity": [popularity_scores(dataset)] * len(dataset.split_rows[split]),  # type: ignore[index]
        "markov": markov_scores(dataset, split),
        "itemknn": itemknn_scores(dataset, split),
        "rules": rules_scores(dataset, split, chosen),
    }


def model_scores(model: ReaRec, dataset: SequenceDataset, split: str) -> list[np.ndarray]:
    """[T, N] in float64 for each row: by the model's answer, then by each state; by popularity without a history."""
    found = []
    for _, history, _ in histories_of(dataset, split):
        if history:
            with torch.no_grad():
                states = model(collate_histories([history], model.config.max_len)).states
                states = torch.cat([model.final_state(states), states[0]]).double()
                found.append((states @ model.weight.double().T).numpy())
        else:
            found.append(np.tile(np.array(popularity_scores(dataset), dtype=float), (model.config.steps + 2, 1)))
    return found


@dataclass(frozen=True)
class Row:
    """A row to be measured: what was seen before, what came next, and the score of every item."""

    history: list[int]
    target: int
    scores: Scores


def rows_of(dataset: SequenceDataset, split: str, scores: Sequence[Scores]) -> list[Row]:
    """The rows of a split with their scores."""
    pairs = zip(histories_of(dataset, split), scores, strict=True)
    return [Row(history, target, of_row) for (_, history, target), of_row in pairs]


def measure(
    name: str, dataset: SequenceDataset, rows: Sequence[Row], exclude_seen: bool
) -> tuple[float | None, float | None]:
    """A metric by name over some rows, and its standard error."""
    kind, _, cutoff = name.partition("@")
    k = int(cutoff) if cutoff else dataset.num_items
    if kind not in ("coverage", "novelty", "arp"):
        places = [rank(row.scores, row.target, row.history if exclude_seen else []) for row in rows]
        gain = {"ndcg": lambda r: 1 / math.log2(r + 2), "recall": lambda r: 1.0, "hit": lambda r: 1.0}.get(
            kind, lambda r: 1 / (r + 1)
        )
        return mean_and_error([gain(place) if place < k else 0.0 for place in places])
    lists = [shown(row.scores, row.history if exclude_seen else [], k) for row in rows]
    if kind == "coverage":
        return len({item for best in lists for item in best}) / dataset.num_items, None
    events = training_events(dataset)
    users = {user for user, _ in events}
    of_item = []
    for one in range(dataset.num_items):
        having = {user for user, item in events if item == one}
        times = sum(item == one for _, item in events)
        of_item.append(times if kind == "arp" else -math.log2(max(len(having), 1) / len(users)))
    return mean_and_error([sum(of_item[item] for item in best) / len(best) for best in lists if best])


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean, and its standard error where there are two values or more."""
    if not values:
        return None, None
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
