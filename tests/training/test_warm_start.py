"""Warm start: items are matched by their ids, everything else has to have the same shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rearec.data import SequenceDataset, load_dataset
from rearec.errors import UserError
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder
from rearec.training import TrainingOptions, train
from rearec.training.warm_start import warm_start

SIZES = {"dim": 16, "ffn": 16, "layers": 1, "max_len": 8}
STILL = TrainingOptions(epochs=1, batch_rows=1024, lr=1e-30)


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> SequenceDataset:
    return load_dataset(prepared)


def new_model(items: int, **settings: object) -> ReaRec:
    torch.manual_seed(5)
    return ReaRec(ReaRecConfig(items, **{**SIZES, **settings}))


def test_known_items_keep_their_vectors_and_new_ones_begin_as_new(run_folder: Path) -> None:
    old = load_file(run_folder / "model.safetensors")
    ids = RunFolder(run_folder).catalog().item_ids
    # another order, one item less, two that are new
    items = ["new-a", *reversed(ids[1:]), "new-b"]
    model, untouched = new_model(len(items)), new_model(len(items))
    report = warm_start(model, items, run_folder)
    table, name = model.state_dict()["backbone.item_embedding.weight"], "backbone.item_embedding.weight"
    assert torch.equal(table[1:-1], old[name][1:].flip(0))
    assert torch.equal(table[[0, -1]], untouched.state_dict()[name][[0, -1]])
    assert all(torch.equal(value, old[other]) for other, value in model.state_dict().items() if other != name)
    assert report["items"] == {"known": len(ids) - 1, "new": 2, "dropped": 1}
    assert (report["new"], report["dropped"], report["run"]) == ([], [], str(run_folder.resolve()))


def test_methods_differ_in_their_reasoning_positions_alone(run_folder: Path) -> None:
    ids = RunFolder(run_folder).catalog().item_ids
    base = new_model(len(ids), method="base")
    assert warm_start(base, ids, run_folder)["dropped"] == ["reasoning_position_embedding.weight"]
    prl = new_model(len(ids), method="prl", steps=3)
    assert warm_start(prl, ids, base)["new"] == ["reasoning_position_embedding.weight"]
    assert torch.equal(prl.weight, base.weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 32}, "its dim is 16, not 32: a warm start needs a model of the same shape"),
        ({"max_len": 9}, "its max_len is 8, not 9"),
        ({"heads": 4}, "its heads is 2, not 4"),
        ({"steps": 1}, "its steps is 2, not 1"),
        ({"backbone": "bert4rec"}, "its backbone is sasrec, not bert4rec"),
    ],
)
def test_another_shape_is_refused_with_the_setting_named(
    settings: dict[str, object], message: str, run_folder: Path
) -> None:
    ids = RunFolder(run_folder).catalog().item_ids
    with pytest.raises(UserError, match=message):
        warm_start(new_model(len(ids), **settings), ids, run_folder)


def test_a_model_in_memory_has_no_ids_for_other_items(run_folder: Path) -> None:
    model = ReaRec.from_pretrained(run_folder)
    with pytest.raises(UserError, match="the model has 40 items and no ids of them, expected the dataset's 41"):
        warm_start(new_model(41), [str(number) for number in range(41)], model)


def test_a_training_begins_with_the_weights_of_a_run_also_when_it_is_begun_again(
    dataset: SequenceDataset, run_folder: Path, tmp_path: Path
) -> None:
    config = RunFolder(run_folder).options()["model"]

    def interrupt(epoch: int, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", ReaRecConfig(**config), STILL, init=run_folder, on_batch=interrupt)
    # killed in its first epoch: it need not be told again
    result = train(dataset, tmp_path / "run", ReaRecConfig(**config), STILL, resume=True)
    before = RunFolder(run_folder).result()
    assert result["test"]["ndcg@20"] == pytest.approx(before["test"]["ndcg@20"], rel=1e-5)
    begun = RunFolder(tmp_path / "run").options()["init"]
    assert begun["run"] == str(run_folder.resolve()) and begun["items"]["known"] == dataset.num_items
    again = replace(STILL, epochs=2)
    with pytest.raises(UserError, match="was not started with the weights of elsewhere"):
        train(dataset, tmp_path / "run", ReaRecConfig(**config), again, resume=True, init="elsewhere")
    assert train(dataset, tmp_path / "run", ReaRecConfig(**config), again, resume=True, init=run_folder)["epochs"] == 2


def test_a_run_that_has_not_finished_is_no_start(dataset: SequenceDataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; expected the RUN folder"):
        train(dataset, tmp_path / "run", ReaRecConfig(40, **SIZES), STILL, init=tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()
