"""Item dropout: what is left of a history, what stays, and that it follows from the seed and the epoch alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_rows import dataset_of

from rearec.data import Batch, PairBatches, SequenceDataset

SEQUENCES = [list(range(10 * user, 10 * user + 3 + user)) for user in range(6)]


def dataset() -> SequenceDataset:
    return dataset_of(SEQUENCES, [(s, p) for s, items in enumerate(SEQUENCES) for p in range(1, len(items))])


def histories(batch: Batch) -> list[list[int]]:
    return [batch.items[w, :e].tolist() for w, e in zip(batch.row_prefix, batch.end, strict=True)]


def training(share: float, seed: int = 0, epoch: int = 0) -> PairBatches:
    batches = PairBatches(dataset(), "train", batch_rows=7, max_len=4, shuffle=True, seed=seed, item_dropout=share)
    batches.set_epoch(epoch)
    return batches


def is_part_of(some: list[int], every: list[int]) -> bool:
    rest = iter(every)
    return all(item in rest for item in some)


@settings(max_examples=60, deadline=None)
@given(share=st.sampled_from([0.0, 0.2, 0.9, 0.999]), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_rows_and_targets_stay_and_histories_are_parts_of_what_they_were(share: float, seed: int, epoch: int) -> None:
    for whole, less in zip(training(0.0, seed, epoch), training(share, seed, epoch), strict=True):
        for name in ("row_prefix", "target", "group", "row"):
            assert torch.equal(getattr(whole, name), getattr(less, name))
        for before, after in zip(histories(whole), histories(less), strict=True):
            assert after
            assert is_part_of(after, before)
        assert less.items.shape[1] == int(less.lengths.max())
        beyond = torch.arange(less.items.shape[1]) >= less.lengths[:, None]
        assert (less.items[beyond] == 0).all()
        if share == 0:
            assert histories(whole) == histories(less)


def test_rows_of_a_window_lose_the_same_items() -> None:
    batch = next(iter(PairBatches(dataset(), "train", batch_rows=50, max_len=8, item_dropout=0.4)))
    for window in range(batch.num_windows):
        rows = [h for h, w in zip(histories(batch), batch.row_prefix.tolist(), strict=True) if w == window]
        assert all(longer[: len(shorter)] == shorter for shorter, longer in itertools.pairwise(rows))


def test_the_share_is_what_is_left_out() -> None:
    items = torch.arange(50).repeat(400, 1)
    full = torch.full((400,), 50, dtype=torch.int32)
    batch = Batch(items, full, torch.arange(400, dtype=torch.int32), full, torch.zeros(400, dtype=torch.int64), full)
    left = batch.without_items(0.15, np.random.default_rng(3).random(batch.items.shape)).lengths.sum() / (400 * 50)
    assert abs(float(left) - 0.85) < 4 * (0.15 * 0.85 / 20_000) ** 0.5


def test_an_epoch_is_the_same_again_and_another_one_is_not() -> None:
    first, again, other = ([histories(b) for b in training(0.4, 1, epoch)] for epoch in (2, 2, 3))
    assert first == again != other
    batches = training(0.4, 1, 2)
    assert [histories(batches[i]) for i in range(len(batches))] == first


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="item_dropout must be at least 0 and below 1"):
        training(share)
