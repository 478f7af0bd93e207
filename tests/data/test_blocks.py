"""Batches of more rows than a pool holds: every row once, exact length, mixed blocks, memory of one pool."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch
from train_rows import dataset_of

from rearec.data import Batch, PairBatches, SequenceDataset, window_batches
from rearec.data.batch import MASK_ID
from rearec.data.cloze import ClozeBatches
from rearec.data.window_batches import WindowBatches
from rearec.distributed import Processes, SharedBatches

Kind = Literal["shared", "overlapping", "separate", "cloze"]
KINDS: list[Kind] = ["shared", "overlapping", "separate", "cloze"]
EPOCHS = range(3)


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_batches, "BLOCK_ROWS", 40)
    monkeypatch.setattr(window_batches, "POOL_BLOCKS", 3)


def random_dataset(seed: int, count: int = 90) -> SequenceDataset:
    """Sequences of all lengths, two of a user, every position but some a train row; one is longer than a block."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.zipf(1.5, count), 30)
    lengths[rng.integers(count)] = 130
    sequences = [rng.integers(0, 50, size=length).tolist() for length in lengths]
    rows = [(s, p) for s, items in enumerate(sequences) for p in range(len(items)) if rng.random() < 0.9]
    return dataset_of(sequences, rows, [s // 2 for s in range(count)])


def batches_of(dataset: SequenceDataset, kind: Kind, shuffle: bool = True, seed: int = 3) -> WindowBatches:
    if kind == "cloze":
        return ClozeBatches(dataset, batch_rows=16, max_len=12, mask_share=0.3, seed=seed)
    return PairBatches(
        dataset, "train", batch_rows=16, max_len=12, pairing=kind, shuffle=shuffle, seed=seed, item_dropout=0.0
    )


def same(one: Batch, other: Batch) -> bool:
    names = [name for name, value in vars(one).items() if isinstance(value, torch.Tensor)]
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def rows_of(batches: WindowBatches) -> list[tuple[int, ...]]:
    return [tuple(batch.row.tolist()) for batch in batches if batch.row is not None]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_in_one_batch_of_every_epoch_and_the_length_is_exact(kind: Kind, seed: int) -> None:
    dataset = random_dataset(seed)
    batches = batches_of(dataset, kind)
    pairs = dataset.rows("train")
    assert batches._num_pools > 2
    for epoch in EPOCHS:
        batches.set_epoch(epoch)
        length = len(batches)
        listed = list(batches)
        assert len(listed) == length == len(batches)
        assert sum(batch.num_rows for batch in listed) == batches.num_rows
        for batch in listed:
            assert batch.row is not None and (batch.num_rows <= 16 or batch.num_windows == 1)
            sequence, position = pairs[batch.row.numpy()].T
            assert batch.group.tolist() == dataset.sequence_user[sequence].tolist()
            if kind == "cloze":
                continue
            for row in range(batch.num_rows):
                history = batch.items[batch.row_prefix[row], : batch.end[row]].tolist()
                assert history == dataset.history(int(sequence[row]), int(position[row]))[-len(history) :].tolist()
                assert kind == "overlapping" or len(history) == min(12, position[row])
                assert batch.target[row] == dataset.sequence(int(sequence[row]))[position[row]]
        if kind != "cloze":
            assert isinstance(batches, PairBatches)
            with_history = np.flatnonzero(pairs[:, 1])
            assert sorted(row for rows in rows_of(batches) for row in rows) == with_history.tolist()
            assert batches.empty_history_rows.tolist() == np.flatnonzero(pairs[:, 1] == 0).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_masks_hide_a_row_each_and_every_window_has_both_its_views(seed: int) -> None:
    dataset = random_dataset(seed)
    batches = batches_of(dataset, "cloze")
    pairs, masks = dataset.rows("train"), set()
    for epoch in EPOCHS:
        batches.set_epoch(epoch)
        views: Counter[tuple[int, int]] = Counter()
        for batch in batches:
            assert batch.row is not None and batch.slot is not None
            masked = batch.items == MASK_ID
            assert masked.sum() == batch.num_rows and masked[batch.row_prefix.long(), batch.slot.long()].all()
            for row, target in zip(batch.row.tolist(), batch.target.tolist(), strict=True):
                sequence, position = pairs[row].tolist()  # type: ignore[misc]
                assert dataset.sequence(sequence)[position] == target
            assert bool((masked.sum(1) < batch.lengths).all())  # something is seen
            first = torch.searchsorted(batch.row_prefix, torch.arange(batch.num_windows, dtype=torch.int32))
            for window, row in enumerate(batch.row[first].tolist()):
                sequence, position = pairs[row].tolist()  # type: ignore[misc]
                start = position - int(batch.slot[first[window]])
                views[sequence, start + int(batch.lengths[window])] += 1
        assert set(views.values()) == {2}
        masks.add(tuple(sorted(row for rows in rows_of(batches) for row in rows)))
    assert len(masks) == len(EPOCHS)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_random_access_is_iteration_and_the_order_follows_from_seed_and_epoch(kind: Kind, shuffle: bool) -> None:
    dataset = random_dataset(5)
    batches, again = (batches_of(dataset, kind, shuffle) for _ in range(2))
    orders = []
    for epoch in EPOCHS:
        batches.set_epoch(epoch)
        listed = list(batches)
        again.set_epoch(epoch)
        for index in np.random.default_rng(epoch).permutation(len(listed)).tolist():
            assert same(again[index], listed[index])
        with pytest.raises(IndexError, match=f"batch index must be in \\[0, {len(listed)}\\)"):
            again[len(listed)]
        orders.append(tuple(rows_of(batches)))
    shuffles = shuffle or kind == "cloze"
    assert len(set(orders)) == (len(EPOCHS) if shuffles else 1)
    other = batches_of(dataset, kind, shuffle, seed=4)
    other.set_epoch(EPOCHS[-1])
    assert (tuple(rows_of(other)) != orders[-1]) == shuffles


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_shares_of_processes_are_the_batch(kind: Kind, processes: int) -> None:
    dataset = random_dataset(6)
    whole = batches_of(dataset, kind)
    ranks = [
        SharedBatches(batches_of(dataset, kind), Processes(rank, processes), slot_work=0.2) for rank in range(processes)
    ]
    for epoch in EPOCHS:
        for batches in (whole, *ranks):
            batches.set_epoch(epoch)
        assert {len(batches) for batches in ranks} == {len(whole)}
        for batch, *shares in zip(whole, *ranks, strict=True):
            of_all: list[int] = []
            for share in shares:
                assert share.part is not None and share.row is not None and share.items.shape[1] == batch.items.shape[1]
                of_all += share.row[: share.part.counted].tolist()
            assert batch.row is not None and of_all == batch.row.tolist()


def test_items_left_out_are_the_same_for_every_share_and_differ_between_pools() -> None:
    dataset = random_dataset(7)
    batches = PairBatches(dataset, "train", batch_rows=16, max_len=12, shuffle=True, seed=1, item_dropout=0.4)
    for index in range(len(batches)):
        whole, windows = batches[index], batches.windows(index)
        halves = [batches.part(windows, 0, 1), batches.part(windows, 1, len(windows))] if len(windows) > 1 else [whole]
        assert torch.cat([half.items for half in halves]).equal(whole.items)
    firsts = [int(batches.windows(index)[0]) for index in range(len(batches))]
    assert len(set(firsts)) == len(firsts)


def test_batches_mix_windows_of_several_blocks_and_pools_differ_between_epochs() -> None:
    dataset = random_dataset(8, count=300)
    batches = batches_of(dataset, "shared")
    begins = np.array([begin for begin, _ in batches._blocks])
    pools = set()
    mixed = total = 0
    for epoch in EPOCHS:
        batches.set_epoch(epoch)
        pools.add(tuple(tuple(pool.tolist()) for pool in batches._pools()))
        for rows in rows_of(batches):
            blocks = set((np.searchsorted(begins, rows, side="right") - 1).tolist())
            total, mixed = total + 1, mixed + (len(blocks) > 1)
            assert len(blocks) <= 3
    assert len(pools) == len(EPOCHS) and mixed > total / 2


def test_blocks_are_whole_sequences() -> None:
    pairs = random_dataset(9).rows("train")
    blocks = window_batches._blocks(pairs)
    assert blocks[0][0] == 0 and blocks[-1][1] == len(pairs)
    for (begin, end), (following, _) in pairwise(blocks):
        assert begin < end == following and pairs[end - 1, 0] != pairs[end, 0]
    longest = max(Counter(pairs[:, 0].tolist()).values())
    assert max(end - begin for begin, end in blocks) < 2 * 40 + longest
    assert window_batches._blocks(pairs[:0]) == []


def test_up_to_a_pool_of_rows_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = random_dataset(10)
    monkeypatch.setattr(window_batches, "BLOCK_ROWS", 10**6)
    whole = [list(batches_of(dataset, kind)) for kind in KINDS]
    monkeypatch.setattr(window_batches, "BLOCK_ROWS", 40)
    monkeypatch.setattr(window_batches, "POOL_BLOCKS", 1000)
    for kind, expected in zip(KINDS, whole, strict=True):
        batches = batches_of(dataset, kind)
        assert len(batches._blocks) > 2
        for one, other in zip(batches, expected, strict=True):
            assert same(one, other)


def large_dataset(sequences: int, length: int = 20) -> SequenceDataset:
    train = np.stack(
        [np.repeat(np.arange(sequences), length - 1), np.tile(np.arange(1, length), sequences)], axis=1, dtype=np.int32
    )
    none = np.empty((0, 2), dtype=np.int32)
    return SequenceDataset(
        items=np.zeros(sequences * length, dtype=np.int32),
        offsets=np.arange(sequences + 1) * length,
        sequence_user=np.arange(sequences, dtype=np.int32),
        split_rows={"train": train, "valid": none, "test": none},
        item_ids=["a"],
        user_ids=[str(user) for user in range(sequences)],
        statistics={},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_that_of_a_pool_however_many_rows_there_are(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_batches, "BLOCK_ROWS", 2000)

    def peak(sequences: int) -> int:
        dataset = large_dataset(sequences)
        tracemalloc.start()
        batches = batches_of(dataset, kind)
        for epoch in range(2):
            batches.set_epoch(epoch)
            assert len(batches) > 10
            for index in range(0, len(batches), 97):
                batches[index]
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(600)  # what is imported or remembered at first
    small, large = peak(600), peak(4800)
    assert large < 1.1 * small + 20_000
