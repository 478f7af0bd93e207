"""Dropout of a share of a batch: what a pass over the whole batch makes of the share's rows, however it is cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from rearec.data import PairBatches, SequenceDataset
from rearec.data.batch import IGNORE_INDEX, Batch
from rearec.data.cloze import ClozeBatches
from rearec.data.synthetic import Planted, generate
from rearec.data.window_batches import WindowBatches
from rearec.distributed import Processes, SharedBatches
from rearec.models import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec_kernels import MaskRows, available_backends

MAX_LEN = 12
PRL = {"method": "prl", "steps": 2}
# By name: the settings of the model, and how its rows get their windows.
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "base": ({"method": "base"}, "shared"),
    "erl": ({"method": "erl", "steps": 2}, "shared"),
    "prl": (PRL, "shared"),
    "prl, own prefix": ({**PRL, "noised_prefix": "own"}, "shared"),
    "prl, separate windows": (PRL, "separate"),
    "no shared windows": ({**PRL, "backbone": "bert4rec"}, "shared"),
    "no shared windows, own prefix": ({**PRL, "backbone": "bert4rec", "noised_prefix": "own"}, "shared"),
    "cloze": ({**PRL, "backbone": "bert4rec", "training_task": "cloze"}, "cloze"),
    "cloze, own prefix": ({**PRL, "backbone": "bert4rec", "training_task": "cloze", "noised_prefix": "own"}, "cloze"),
}
# Batches of many windows, and of one, so that all shares but one are empty.
BATCH_ROWS = [64, 1]


@pytest.fixture(scope="module")
def dataset() -> SequenceDataset:
    return generate(0, planted=Planted(users=20))


def batches_of(dataset: SequenceDataset, windows: Any, batch_rows: int, **options: Any) -> WindowBatches:
    if windows == "cloze":
        return ClozeBatches(dataset, batch_rows=batch_rows, max_len=MAX_LEN, mask_share=0.3)
    return PairBatches(
        dataset, "train", batch_rows=batch_rows, max_len=MAX_LEN, pairing=windows, shuffle=True, **options
    )


def shares_of(batches: WindowBatches, size: int, most: int = 8) -> Iterator[tuple[Batch, list[Batch]]]:
    """The first batches, each with its shares."""
    shared = [SharedBatches(batches, Processes(rank, size), slot_work=0.1) for rank in range(size)]
    for index in range(min(most, len(batches))):
        yield batches[index], [of_rank[index] for of_rank in shared]


@pytest.mark.parametrize(
    ("windows", "options"),
    [("shared", {}), ("separate", {}), ("cloze", {}), ("shared", {"item_dropout": 0.4})],
)
@pytest.mark.parametrize("batch_rows", [*BATCH_ROWS, 7])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_are_the_batch_in_pieces(
    dataset: SequenceDataset, windows: str, batch_rows: int, size: int, options: dict[str, float]
) -> None:
    for whole, shares in shares_of(batches_of(dataset, windows, batch_rows, **options), size):
        filled = [share for share in shares if share.part is not None and share.part.counted]
        assert batch_rows > 1 or len(filled) == 1
        for name in ("items", "lengths", "end", "target", "group", "row", *(["slot"] if windows == "cloze" else [])):
            assert torch.equal(torch.cat([getattr(share, name) for share in filled]), getattr(whole, name)), name
        row = window = 0
        for share in filled:
            assert share.part is not None and share.part.counted == share.num_rows
            assert share.part.rows == MaskRows(row, share.num_rows, whole.num_rows)
            assert share.part.windows == MaskRows(window, share.num_windows, whole.num_windows)
            assert torch.equal(share.row_prefix, whole.row_prefix[row : row + share.num_rows] - window)
            row, window = row + share.num_rows, window + share.num_windows
        for share in shares:
            if share not in filled:
                assert (share.target == IGNORE_INDEX).all() and share.items.shape[1] == whole.items.shape[1]


def states_of(model: ReaRec, batch: Batch) -> tuple[list[Tensor], Tensor]:
    """The states, clean and noised, of a pass in training mode; and where the generator is after it."""
    torch.manual_seed(3)
    has_noise = model.config.method == "prl"
    rollout = model(batch, noise=0.2 if has_noise else 0.0, return_noised=has_noise)
    states = [rollout.states, *([] if rollout.noised is None else [rollout.noised])]
    return [x.detach() for x in states], torch.get_rng_state()


@pytest.mark.skipif(
    "cpu" not in available_backends("cpu"), reason="torch's own attention drops by places in the tensors that it gets"
)
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("batch_rows", BATCH_ROWS)
@pytest.mark.parametrize("name", MODELS)
def test_a_share_drops_what_the_whole_batch_drops(
    dataset: SequenceDataset, name: str, batch_rows: int, size: int
) -> None:
    settings, windows = MODELS[name]
    torch.manual_seed(0)
    sizes = {"dim": 24, "ffn": 20, "layers": 2, "heads": 2, "max_len": MAX_LEN, "dropout": 0.3, "input_dropout": 0.2}
    model = ReaRec(ReaRecConfig(dataset.num_items, **{**sizes, **settings})).train()
    for whole, shares in shares_of(batches_of(dataset, windows, batch_rows), size, most=2):
        expected, generator = states_of(model, whole)
        for share in shares:
            got, after = states_of(model, share)
            assert torch.equal(after, generator)  # an empty share draws as many seeds, and as much noise
            assert share.part is not None
            first, rows, _ = share.part.rows
            for a, b in zip(got, expected, strict=True):
                assert a.shape == (rows, *b.shape[1:])
                assert not share.part.counted or (a - b[first : first + rows]).abs().max() < 1e-6
        without, _ = states_of(model.eval(), whole)
        assert (without[0] - expected[0]).abs().max() > 0.1  # something is dropped
        model.train()


def test_a_window_per_row_is_numbered_as_its_row(dataset: SequenceDataset) -> None:
    share = SharedBatches(batches_of(dataset, "shared", 64), Processes(1, 2))[0]
    assert share.part is not None
    alone = share.one_window_per_row()
    assert alone.part is not None and alone.part.windows == alone.part.rows == share.part.rows
    assert alone.part.slots(5) == MaskRows(*(5 * n for n in share.part.rows))


def test_some_windows_are_those_with_their_rows(dataset: SequenceDataset) -> None:
    batch = batches_of(dataset, "shared", 64)[0]
    some = batch.some_windows(1, 3)
    rows = [row for row in range(batch.num_rows) if 1 <= int(batch.row_prefix[row]) < 3]
    assert torch.equal(some.items, batch.items[1:3]) and torch.equal(some.lengths, batch.lengths[1:3])
    assert torch.equal(some.row_prefix, batch.row_prefix[rows] - 1) and some.row_prefix.dtype == torch.int32
    assert all(torch.equal(getattr(some, n), getattr(batch, n)[rows]) for n in ("end", "target", "group", "row"))
