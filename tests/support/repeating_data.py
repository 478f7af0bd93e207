"""Small datasets in which targets repeat their history, some rows have none and one user knows every item."""

from __future__ import annotations

import random

import numpy as np

from rearec.data import SequenceDataset


def dataset_of(
    sequences: list[list[int]], num_items: int, *, valid: int = 1, empty_histories: int = 0
) -> SequenceDataset:
    """Leave-one-out, a user per sequence; ``empty_histories`` users more have a test row alone, without a history.

    valid: how many items before the last one are validation rows.
    """
    rows: dict[str, list[tuple[int, int]]] = {"train": [], "valid": [], "test": []}
    for user, items in enumerate(sequences):
        last = len(items) - 1
        rows["test"].append((user, last))
        rows["valid"] += [(user, place) for place in range(last - valid, last)]
        rows["train"] += [(user, place) for place in range(1, last - valid)]
    everyone = [*sequences, *([user % num_items] for user in range(empty_histories))]
    rows["test"] += [(len(sequences) + user, 0) for user in range(empty_histories)]
    return SequenceDataset(
        items=np.concatenate(everyone).astype(np.int32),
        offsets=np.cumsum([0, *map(len, everyone)]).astype(np.int64),
        sequence_user=np.arange(len(everyone), dtype=np.int32),
        split_rows={split: np.array(pairs, dtype=np.int32).reshape(-1, 2) for split, pairs in rows.items()},  # type: ignore[misc]
        item_ids=[f"i{item}" for item in range(num_items)],
        user_ids=[f"u{user}" for user in range(len(everyone))],
        statistics={},
    )


def repeating_dataset(users: int = 25, num_items: int = 12) -> SequenceDataset:
    """Half of the rows ask for an item of their history, histories are up to 20 items long, two rows have none."""
    draw = random.Random(0)
    sequences = []
    for _ in range(users):
        items = [draw.randrange(num_items) for _ in range(3)]
        while len(items) < 4 + draw.randrange(18):
            items.append(draw.choice(items) if draw.random() < 0.4 else draw.randrange(num_items))
        sequences.append(items)
    # one who knows every item, one who knows all but the target
    sequences += [[*range(num_items), 3, 5], [*range(1, num_items), 4, 0]]
    return dataset_of(sequences, num_items, empty_histories=2)
