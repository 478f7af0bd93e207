"""ClozeBatches: every training row in one window, shown with some and with its last one masked; determinism."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_rows import dataset_of

from rearec.data import Batch, SequenceDataset
from rearec.data.batch import MASK_ID
from rearec.data.cloze import ClozeBatches

# A window as one tuple of its items (MASK_ID where one is masked), the row that each mask is, and their user.
View = tuple[tuple[int, ...], tuple[int, ...], int]


def views_of(batches: ClozeBatches) -> list[View]:
    """Every window of the epoch, decoded from the tensors alone."""
    result = []
    for batch in batches:
        assert batch.row is not None and batch.slot is not None
        for window in range(batch.num_windows):
            rows = batch.row_prefix == window
            length = int(batch.lengths[window])
            items = batch.items[window, :length].clone()
            assert (batch.end[rows] == length).all()
            assert batch.slot[rows].tolist() == (items == MASK_ID).nonzero().squeeze(1).tolist() != []
            assert not batch.items[window, length:].any()
            (group,) = set(batch.group[rows].tolist())
            # the row is that of the dataset, the target what was there
            for row, slot, target in zip(
                *(x[rows].tolist() for x in (batch.row, batch.slot, batch.target)), strict=True
            ):
                sequence, position = batches.dataset.rows("train")[row]
                start = batches.dataset.offsets[sequence] + position - slot
                shown = batches.dataset.items[start : start + length]
                assert target == shown[slot]
                assert all(item in (seen, MASK_ID) for item, seen in zip(items.tolist(), shown.tolist(), strict=True))
                assert group == batches.dataset.sequence_user[sequence]
            result.append((tuple(items.tolist()), tuple(batch.row[rows].tolist()), group))
    return result


def parts_by_hand(positions: list[int], slots: int) -> list[list[int]]:
    """The positions of one sequence's training rows, those of each window together."""
    parts = defaultdict(list)
    for position in positions:
        parts[(positions[-1] - position) // slots].append(position)
    # a first item alone is no window
    return [part for part in parts.values() if part != [0]]


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=9),
    max_len=st.integers(1, 9),
    batch_rows=st.integers(1, 20),
    share=st.sampled_from([0.01, 0.2, 0.5, 0.99]),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_every_window_is_shown_with_some_and_with_its_last_training_item_masked(
    lengths: list[int], max_len: int, batch_rows: int, share: float, epoch: int, data: st.DataObject
) -> None:
    sequences = [[100 * s + p for p in range(length)] for s, length in enumerate(lengths)]
    everything = [(s, p) for s, length in enumerate(lengths) for p in range(length)]
    rows = sorted(data.draw(st.sets(st.sampled_from(everything))))
    users = [s // 2 for s in range(len(lengths))]
    batches = ClozeBatches(
        dataset_of(sequences, rows, users), batch_rows=batch_rows, max_len=max_len, mask_share=share, seed=7
    )
    batches.set_epoch(epoch)
    row_of = {pair: row for row, pair in enumerate(rows)}
    views = Counter(views_of(batches))
    assert views.total() == sum(batch.num_windows for batch in batches)
    assert batches.num_rows == sum(len(row) * count for (_, row, _), count in views.items())

    for s, sequence in enumerate(sequences):
        for part in parts_by_hand([p for t, p in rows if t == s], max_len + 1):
            end = part[-1] + 1
            start = max(0, end - max_len - 1)
            last_masked = (*sequence[start : end - 1], MASK_ID), (row_of[s, part[-1]],), users[s]
            assert views[last_masked] >= 1
            views[last_masked] -= 1
            # the other view of the window: the one that has its items
            candidates = [
                view
                for view, count in views.items()
                if count and len(view[0]) == end - start and {rows[row] for row in view[1]} <= {(s, p) for p in part}
            ]
            (other,) = candidates
            views[other] -= 1
            masked = [rows[row][1] for row in other[1]]
            assert masked == sorted(set(masked))
            assert other[0] == tuple(MASK_ID if p in masked else sequence[p] for p in range(start, end))
            rounded = floor(share * (end - start) + 0.5)
            assert len(masked) == min(max(1, rounded), len(part), end - start - 1)
    assert not views.total()


def random_dataset(seed: int, count: int = 60, longest: int = 30) -> SequenceDataset:
    """Sequences of all lengths, every position but the first a train row."""
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, 50, size=rng.integers(2, longest)).tolist() for _ in range(count)]
    return dataset_of(sequences, [(s, p) for s, items in enumerate(sequences) for p in range(1, len(items))])


def test_masks_and_order_depend_on_seed_and_epoch_only() -> None:
    dataset = random_dataset(0)

    def views(seed: int, epoch: int, before: tuple[int, ...] = ()) -> list[View]:
        batches = ClozeBatches(dataset, batch_rows=32, max_len=20, mask_share=0.2, seed=seed)
        for earlier in (*before, epoch):
            batches.set_epoch(earlier)
            result = views_of(batches)
        return result

    assert views(3, 2) == views(3, 2) == views(3, 2, before=(0, 1, 5))
    for other in (views(3, 1), views(4, 2), views(2, 3)):
        assert {rows for _, rows, _ in other} != {rows for _, rows, _ in views(3, 2)}


def test_every_training_row_is_masked_as_often_as_any_other() -> None:
    """One sequence of 11 items, of which 2 are masked at random in each of 500 epochs: 100 times each on average."""
    dataset = dataset_of([list(range(11))], [(0, p) for p in range(1, 11)])
    batches = ClozeBatches(dataset, batch_rows=8, max_len=10, mask_share=0.2)
    count: Counter[int] = Counter()
    for epoch in range(500):
        batches.set_epoch(epoch)
        # the window with the last item alone is the other one
        count.update(row for _, rows, _ in views_of(batches) for row in rows if len(rows) == 2)
    assert sorted(count) == list(range(10)) and count.total() == 1000
    # a standard deviation of a count is below 9
    assert all(60 < times < 140 for times in count.values())


def test_length_and_random_access_agree_with_iteration() -> None:
    batches = ClozeBatches(random_dataset(1), batch_rows=24, max_len=20, mask_share=0.3)
    for epoch in range(3):
        batches.set_epoch(epoch)
        listed = list(batches)
        assert len(batches) == len(listed) > 1
        for index, batch in enumerate(listed):
            again = batches[index]
            assert torch.equal(again.items, batch.items) and torch.equal(again.target, batch.target)
        with pytest.raises(IndexError, match="batch index"):
            batches[len(listed)]


def test_tensors_have_the_promised_form() -> None:
    for batch in ClozeBatches(random_dataset(2), batch_rows=24, max_len=20, mask_share=0.3):
        assert batch.slot is not None and batch.row is not None
        assert {x.dtype for x in (batch.items, batch.target, batch.group, batch.row)} == {torch.int64}
        assert {x.dtype for x in (batch.lengths, batch.row_prefix, batch.end, batch.slot)} == {torch.int32}
        assert 1 <= batch.num_rows <= 24
        assert torch.equal(batch.row_prefix.unique_consecutive(), torch.arange(batch.num_windows, dtype=torch.int32))
        moved = batch.to("meta")
        assert isinstance(moved, Batch) and moved.slot is not None and moved.slot.device.type == "meta"


def test_the_masks_of_a_window_stay_together_even_beyond_the_budget() -> None:
    dataset = dataset_of([list(range(12))], [(0, p) for p in range(1, 12)])
    batches = ClozeBatches(dataset, batch_rows=4, max_len=50, mask_share=0.5)
    assert sorted(batch.num_rows for batch in batches) == [1, 6]


def test_without_training_rows_there_are_no_batches() -> None:
    batches = ClozeBatches(dataset_of([[1, 2]], []), batch_rows=4, max_len=5, mask_share=0.2)
    assert len(batches) == batches.num_rows == 0 and list(batches) == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"batch_rows": 0}, "batch_rows must be at least 1, got 0"),
        ({"max_len": 0}, "max_len must be at least 1, got 0"),
        ({"mask_share": 1.0}, "mask_share must be between 0 and 1, got 1.0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_arguments_out_of_range_are_refused(argument: dict[str, float], message: str) -> None:
    arguments = {"batch_rows": 8, "max_len": 5, "mask_share": 0.2, **argument}
    with pytest.raises(ValueError, match=message):
        ClozeBatches(random_dataset(3), **arguments)  # type: ignore[arg-type]
