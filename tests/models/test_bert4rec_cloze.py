"""BERT4Rec at masked items: equal to recomputing all; masks hide their items; inference asks as training does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from bert4rec_models import cloze_batch, model_of, training_dataset
from recomputed import all_recomputed, history_of
from rollouts import MAX_LEN, NUM_ITEMS, batch_of

from rearec.data.batch import MASK_ID, Batch
from rearec.data.batches import collate_histories
from rearec.data.cloze import ClozeBatches
from rearec.models import ReaRecConfig
from rearec.models.bert4rec import BERT4Rec
from rearec.models.config import METHODS
from rearec.reasoning import ReaRec

pytestmark = pytest.mark.filterwarnings("ignore:.*does not serve torch.float64")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", range(6))
def test_masked_items_among_others_equal_recomputing_everything(method: str, steps: int) -> None:
    model, batch = model_of(method, steps, training_task="cloze"), cloze_batch()
    torch.testing.assert_close(model(batch).states, all_recomputed(model, batch), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layers", [1, 2])
def test_masked_items_are_the_same_in_float32_with_and_without_gradients(layers: int) -> None:
    model, batch = model_of("erl", 3, torch.float32, layers=layers, training_task="cloze"), cloze_batch()
    states, expected = model(batch).states, all_recomputed(model, batch)
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model(batch).states, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "slots", [[2, 1, 2, 2], [0, 5, 2, 3], [0, 4, 2], [0, -1, 2, 3]], ids=["no mask", "behind", "too few", "negative"]
)
def test_rows_that_stand_at_no_mask_that_they_see_are_refused(slots: list[int]) -> None:
    rows = torch.tensor([0, 0, 1, 1], dtype=torch.int32)
    items = torch.tensor([[MASK_ID, MASK_ID, 7, 3, 2, MASK_ID], [4, 6, MASK_ID, MASK_ID, MASK_ID, 0]])
    end = torch.tensor([4, 4, 4, 4], dtype=torch.int32)
    batch = Batch(items, end[:2], rows, end, rows.long(), rows.long(), slot=torch.tensor([0, 1, 2, 3]).int())
    model = model_of(training_task="cloze")
    torch.testing.assert_close(model(batch).states, all_recomputed(model, batch), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match=r"^slot: expected for every row a slot that it sees and that holds the mask"):
        model(dataclasses.replace(batch, slot=torch.tensor(slots).int()))


def test_masked_items_are_refused_by_models_that_were_not_trained_on_them() -> None:
    for model in (model_of(), ReaRec(ReaRecConfig(NUM_ITEMS, dim=8, max_len=MAX_LEN + 1))):
        with pytest.raises(ValueError, match=r"^slot: got a batch with masked items, expected one without"):
            model(cloze_batch())


def test_a_history_of_max_len_items_and_its_mask_fit_and_no_longer_one() -> None:
    model = model_of(training_task="cloze")
    assert model(batch_of([MAX_LEN])).states.shape == (1, 3, 8)
    with pytest.raises(ValueError, match=r"^items: got shape \(1, 22\), expected \[windows, 1..21 slots\]"):
        model(collate_histories([range(MAX_LEN + 1)], MAX_LEN + 1))


def test_inference_asks_at_a_mask_behind_the_last_item_as_training_does_at_a_last_item() -> None:
    """The rows whose last item alone is masked: the same states as of the history before it."""
    model, batch = model_of(training_task="cloze"), cloze_batch()
    assert batch.slot is not None
    alone = (batch.items == MASK_ID).sum(1)[batch.row_prefix] == 1
    rows = (alone & (batch.slot == batch.end - 1)).nonzero().squeeze(1).tolist()
    assert len(rows) >= batch.num_windows / 2
    histories = [history_of(batch, row)[:-1].numpy() for row in rows]
    expected = model(collate_histories(histories, MAX_LEN)).states
    torch.testing.assert_close(model(batch).states[rows], expected, rtol=1e-12, atol=1e-12)


def test_the_items_of_a_window_see_its_masks_but_not_what_they_hide() -> None:
    """Other items where items are masked: only the targets differ. Another mask token: every state differs."""
    model, batch, dataset = model_of(training_task="cloze"), cloze_batch(), training_dataset()
    last = np.unique(dataset.rows("train")[:, 0], return_index=True)[1][1:] - 1  # a last item is masked alone once
    items = dataset.items.copy()
    position = dataset.offsets[dataset.rows("train")[last, 0]] + dataset.rows("train")[last, 1]
    items[position] = (items[position] + 1) % NUM_ITEMS
    (other,) = ClozeBatches(
        dataclasses.replace(dataset, items=items), batch_rows=10_000, max_len=MAX_LEN, mask_share=0.3
    )
    masked = np.isin(batch.row, last) & ((batch.items == MASK_ID).sum(1)[batch.row_prefix] == 1).numpy()
    assert masked.sum() >= len(last)
    states, others = model(batch).states, model(other).states
    assert torch.equal(states[masked], others[masked])
    assert torch.equal(other.target[masked], (batch.target[masked] + 1) % NUM_ITEMS)
    with torch.no_grad():
        assert isinstance(model.backbone, BERT4Rec) and model.backbone.mask_embedding is not None
        model.backbone.mask_embedding.weight.add_(0.5 * torch.randn(1, 8))
    assert (model(batch).states != states).flatten(1).any(1).all()
