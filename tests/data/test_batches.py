"""PairBatches and collate_histories: every pair once, exact histories, the row budget, determinism, little padding."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_rows import dataset_of

from rearec.data import Batch, PairBatches, SequenceDataset, collate_histories

Pairing = Literal["shared", "overlapping", "separate"]
PAIRINGS: list[Pairing] = ["shared", "overlapping", "separate"]


def random_dataset(seed: int, count: int = 120, longest: int = 40) -> SequenceDataset:
    """Sequences of all lengths, every position but some a train row."""
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, 50, size=rng.integers(1, longest)).tolist() for _ in range(count)]
    rows = [(s, p) for s, items in enumerate(sequences) for p in range(len(items)) if rng.random() < 0.9]
    return dataset_of(sequences, rows)


def pairs_of(batches: PairBatches) -> list[tuple[int, tuple[int, ...], int, int]]:
    """(row, history, target, group) of every row that the batches hold, decoded from the tensors alone."""
    result = []
    for batch in batches:
        assert batch.row is not None
        for r in range(batch.num_rows):
            history = batch.items[batch.row_prefix[r], : batch.end[r]]
            result.append((int(batch.row[r]), tuple(history.tolist()), int(batch.target[r]), int(batch.group[r])))
    return result


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=12),
    max_len=st.integers(1, 9),
    batch_rows=st.integers(1, 20),
    pairing=st.sampled_from(["shared", "separate"]),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_every_pair_appears_exactly_once_with_its_last_max_len_items(
    lengths: list[int],
    max_len: int,
    batch_rows: int,
    pairing: Pairing,
    shuffle: bool,
    epoch: int,
    data: st.DataObject,
) -> None:
    sequences = [[100 * s + p for p in range(length)] for s, length in enumerate(lengths)]
    everything = [(s, p) for s, length in enumerate(lengths) for p in range(length)]
    rows = sorted(data.draw(st.sets(st.sampled_from(everything))))
    users = [s // 2 for s in range(len(lengths))]
    dataset = dataset_of(sequences, rows, users)
    batches = PairBatches(
        dataset, "train", batch_rows=batch_rows, max_len=max_len, pairing=pairing, shuffle=shuffle, seed=7
    )
    batches.set_epoch(epoch)
    expected = [
        (index, tuple(sequences[s][max(0, p - max_len) : p]), sequences[s][p], users[s])
        for index, (s, p) in enumerate(rows)
        if p > 0
    ]
    assert sorted(pairs_of(batches)) == expected
    assert batches.num_rows == len(expected)
    assert batches.empty_history_rows.tolist() == [index for index, (_, p) in enumerate(rows) if p == 0]


@settings(max_examples=40, deadline=None)
@given(length=st.integers(2, 60), max_len=st.integers(1, 12), batch_rows=st.integers(1, 30), data=st.data())
def test_overlapping_rows_see_the_later_half_of_their_last_max_len_items_or_more(
    length: int, max_len: int, batch_rows: int, data: st.DataObject
) -> None:
    sequence = list(range(100, 100 + length))
    rows = [(0, p) for p in sorted(data.draw(st.sets(st.integers(1, length - 1), min_size=1)))]
    dataset = dataset_of([sequence], rows)
    batches = PairBatches(dataset, "train", batch_rows=batch_rows, max_len=max_len, pairing="overlapping")
    pairs = sorted(pairs_of(batches))
    assert [(index, target) for index, _, target, _ in pairs] == [(i, sequence[p]) for i, (_, p) in enumerate(rows)]
    for (_, p), (_, history, _, _) in zip(rows, pairs, strict=True):
        assert history == tuple(sequence[p - len(history) : p])
        least = min(p, max_len) if p <= max_len or max_len == 1 else max_len - max_len // 2 + 1
        assert least <= len(history) <= min(p, max_len)


def test_overlapping_windows_of_long_histories_are_few() -> None:
    sequence = list(range(1, 250))
    dataset = dataset_of([sequence], [(0, p) for p in range(1, 249)])
    windows = {
        pairing: sum(
            batch.num_windows for batch in PairBatches(dataset, "train", batch_rows=64, max_len=50, pairing=pairing)
        )
        for pairing in PAIRINGS
    }
    # the first 50 rows, then 198 of them, 25 at a time
    assert windows == {"shared": 1 + 198, "overlapping": 1 + 8, "separate": 248}


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_tensors_have_the_promised_form(pairing: Pairing, shuffle: bool) -> None:
    batches = PairBatches(random_dataset(0), "train", batch_rows=37, max_len=20, pairing=pairing, shuffle=shuffle)
    for batch in batches:
        assert batch.items.dtype == batch.target.dtype == batch.group.dtype == torch.int64
        assert batch.lengths.dtype == batch.row_prefix.dtype == batch.end.dtype == torch.int32
        assert 1 <= batch.num_rows <= 37
        assert int(batch.lengths.min()) >= 1
        # Padded to the longest window and no further, with item 0.
        assert batch.items.shape == (batch.num_windows, int(batch.lengths.max()))
        padding = torch.arange(batch.items.shape[1]) >= batch.lengths[:, None]
        assert not batch.items[padding].any()
        # Every window is used, in order, and is no longer than its last row needs.
        assert torch.equal(batch.row_prefix.unique_consecutive(), torch.arange(batch.num_windows, dtype=torch.int32))
        longest = torch.zeros(batch.num_windows, dtype=torch.int32)
        longest.scatter_reduce_(0, batch.row_prefix.long(), batch.end, "amax")
        assert torch.equal(longest, batch.lengths)


def test_shared_rows_up_to_max_len_have_one_window_and_later_rows_their_own() -> None:
    sequence = list(range(1, 11))
    dataset = dataset_of([sequence], [(0, p) for p in range(1, 10)])
    batches = PairBatches(dataset, "train", batch_rows=100, max_len=6)
    (batch,) = list(batches)
    windows = [tuple(w[:n].tolist()) for w, n in zip(batch.items, batch.lengths, strict=True)]
    assert Counter(windows) == Counter([(1, 2, 3, 4, 5, 6), (2, 3, 4, 5, 6, 7), (3, 4, 5, 6, 7, 8), (4, 5, 6, 7, 8, 9)])
    assert batch.end.tolist() == [1, 2, 3, 4, 5, 6, 6, 6, 6]


def test_a_shared_window_ends_with_the_last_row_of_its_split() -> None:
    dataset = dataset_of([[5, 6, 7, 8, 9]], [(0, 1), (0, 2)])
    (batch,) = list(PairBatches(dataset, "train", batch_rows=10, max_len=50))
    assert batch.items.tolist() == [[5, 6]]


def test_a_window_with_more_rows_than_the_budget_is_cut() -> None:
    dataset = dataset_of([list(range(12))], [(0, p) for p in range(1, 12)])
    batches = PairBatches(dataset, "train", batch_rows=4, max_len=50)
    assert [batch.num_rows for batch in batches] == [4, 4, 3]
    assert [batch.items.shape[1] for batch in batches] == [4, 8, 11]


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_batches_are_filled_to_the_budget(pairing: Pairing) -> None:
    batches = PairBatches(random_dataset(1), "train", batch_rows=64, max_len=20, pairing=pairing, shuffle=True)
    # No two neighbours would fit into one batch, whatever their order.
    by_size = sorted(batch.num_rows for batch in batches)
    assert sum(by_size[:2]) > 64 or len(by_size) == 1
    assert len(by_size) <= 1.5 * batches.num_rows / 64 + 1


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_order_depends_on_seed_and_epoch_only(pairing: Pairing) -> None:
    dataset = random_dataset(2)

    def order(seed: int, epoch: int, before: tuple[int, ...] = ()) -> list[int]:
        batches = PairBatches(dataset, "train", batch_rows=32, max_len=20, pairing=pairing, shuffle=True, seed=seed)
        for earlier in (*before, epoch):
            batches.set_epoch(earlier)
            result = [row for row, *_ in pairs_of(batches)]
        return result

    assert order(3, 2) == order(3, 2) == order(3, 2, before=(0, 1, 5))
    assert order(3, 2) != order(3, 1)
    assert order(3, 2) != order(4, 2)
    assert order(0, 3) != order(3, 0)


def test_without_shuffle_the_order_never_changes() -> None:
    batches = PairBatches(random_dataset(2), "train", batch_rows=32, max_len=20)
    first = pairs_of(batches)
    batches.set_epoch(4)
    assert pairs_of(batches) == first


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_length_and_random_access_agree_with_iteration(pairing: Pairing, shuffle: bool) -> None:
    batches = PairBatches(random_dataset(3), "train", batch_rows=48, max_len=20, pairing=pairing, shuffle=shuffle)
    for epoch in range(3):
        batches.set_epoch(epoch)
        listed = list(batches)
        assert len(batches) == len(listed)
        for index, batch in enumerate(listed):
            again = batches[index]
            assert torch.equal(again.items, batch.items) and torch.equal(again.end, batch.end)
        with pytest.raises(IndexError, match="batch index"):
            batches[len(listed)]


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_windows_of_similar_length_go_together(pairing: Pairing) -> None:
    dataset = random_dataset(4, count=3000)
    batches = PairBatches(dataset, "train", batch_rows=256, max_len=40, pairing=pairing, shuffle=True)
    real = sum(int(batch.lengths.sum()) for batch in batches)
    padded = sum(batch.items.numel() for batch in batches)
    # Batches at random would spend about a third of the slots on padding.
    assert padded - real < 0.06 * padded


def test_shuffled_batches_mix_users_and_are_not_sorted_by_length() -> None:
    batches = PairBatches(random_dataset(5, count=2000), "train", batch_rows=256, max_len=40, shuffle=True)
    widths = np.asarray([batch.items.shape[1] for batch in batches])
    assert abs(np.corrcoef(widths[:-1], widths[1:])[0, 1]) < 0.3
    group = batches[0].group.unique()
    assert int(group.max() - group.min()) > 1000


def test_a_split_without_rows_has_no_batches() -> None:
    batches = PairBatches(random_dataset(6), "test", batch_rows=8, max_len=5)
    assert len(batches) == batches.num_rows == 0 and list(batches) == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"batch_rows": 0}, "batch_rows must be at least 1, got 0"),
        ({"max_len": 0}, "max_len must be at least 1, got 0"),
        ({"pairing": "both"}, "pairing must be one of shared, overlapping, separate, got 'both'"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"split": "dev"}, "split must be one of train, valid, test, got 'dev'"),
    ],
)
def test_arguments_out_of_range_are_refused(argument: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"split": "train", "batch_rows": 8, "max_len": 5} | argument
    split = arguments.pop("split")
    with pytest.raises(ValueError, match=message):
        PairBatches(random_dataset(6), split, **arguments)  # type: ignore[arg-type]


def test_a_negative_epoch_is_refused() -> None:
    batches = PairBatches(random_dataset(6), "train", batch_rows=8, max_len=5)
    with pytest.raises(ValueError, match="epoch must not be negative, got -1"):
        batches.set_epoch(-1)


def test_moving_a_batch_keeps_its_values() -> None:
    batch = PairBatches(random_dataset(6), "train", batch_rows=8, max_len=5)[0].to("meta")
    assert isinstance(batch, Batch) and batch.row is not None
    tensors = (batch.items, batch.lengths, batch.row_prefix, batch.end, batch.target, batch.group, batch.row)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert collate_histories([[1]], 5).to("cpu").row is None


def test_rows_are_made_once_for_a_batch_and_anew_for_another() -> None:
    batch = PairBatches(random_dataset(6), "train", batch_rows=8, max_len=5)[0]
    assert batch.rows is batch.rows
    index = batch.rows.index(batch.num_windows, batch.items.shape[1], batch.items.device)
    assert torch.equal(index.end, batch.end) and torch.equal(index.row_prefix, batch.row_prefix)
    shorter = replace(batch, end=batch.end.clamp(max=2))
    assert torch.equal(shorter.rows.index(batch.num_windows, 9, batch.items.device).end, shorter.end)
    twin = copy.deepcopy(batch)
    assert twin.rows is not batch.rows and batch.to("cpu").rows is batch.rows
    alone = batch.one_window_per_row().rows.index(batch.num_rows, 9, batch.items.device)
    assert alone.row_prefix.tolist() == list(range(batch.num_rows))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=9), st.integers(1, 6))
def test_collated_histories_are_their_last_items(histories: list[list[int]], max_len: int) -> None:
    batch = collate_histories([np.asarray(h) if i % 2 else h for i, h in enumerate(histories)], max_len)
    assert batch.row_prefix.tolist() == batch.group.tolist() == list(range(len(histories)))
    assert torch.equal(batch.end, batch.lengths)
    assert batch.target.tolist() == [-100] * len(histories)
    for row, history in enumerate(histories):
        kept = history[-max_len:]
        assert batch.items[row].tolist() == kept + [0] * (batch.items.shape[1] - len(kept))
    assert batch.items.shape[1] == min(max_len, max(map(len, histories)))


@pytest.mark.parametrize(
    ("histories", "max_len", "message"),
    [
        ([[1], []], 5, r"histories\[1\] is empty"),
        ([], 5, "at least one history"),
        ([[1, 2]], 0, "max_len must be at least 1, got 0"),
        ([[1], [2, -3], [4]], 5, r"histories\[1\] holds the item id -3"),
    ],
)
def test_histories_that_cannot_be_collated_are_refused(histories: list[list[int]], max_len: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collate_histories(histories, max_len)
