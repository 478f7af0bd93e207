"""The plain PyTorch algorithms that the end-to-end benchmarks time compute what our model computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from contenders.careful_model import CarefulModel
from contenders.official import OfficialModel
from contenders.plain_model import PlainModel, padded
from contenders.training_steps import CAREFUL, FIXED, PUBLISHED, Plain, Rows, careful_arguments, losses, training_steps

from rearec.data import PairBatches, SequenceDataset, collate_histories, load_dataset
from rearec.data.synthetic import paper_shaped
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec

HISTORIES = [[3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [5, 5, 0, 2], [7, 1, 1]]


@pytest.fixture(scope="module")
def dataset() -> SequenceDataset:
    return paper_shaped(60, 80, 12.0)


def small_config(items: int, method: str, steps: int = 2) -> ReaRecConfig:
    return ReaRecConfig(items, method=method, steps=steps, dim=16, ffn=20, max_len=8, alpha=1.5, warmup=0)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("method", ["prl", "erl", "naive"])
def test_states_agree(method: str, steps: int) -> None:
    torch.manual_seed(0)
    model = ReaRec(small_config(20, method, steps)).eval()
    batch = collate_histories(HISTORIES, model.config.max_len)
    expected = model(batch).states

    def load(plain: PlainModel) -> PlainModel:
        plain.load(model.state_dict())
        return plain.eval()

    for fixed in (False, True):
        states, _ = load(OfficialModel(model.config, mask_fixed=fixed))(*padded(HISTORIES, 8, left=True))
        torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    careful = load(CarefulModel(model.config))
    items, lengths = padded(HISTORIES, 8, left=False)
    states, _ = careful(items, torch.arange(len(lengths)), lengths)
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(careful.final_states(items, lengths), model.final_state(expected), rtol=1e-4, atol=1e-5)


def test_only_the_published_step_computes_all_rows() -> None:
    config = small_config(20, "prl", steps=1)
    widths: dict[bool, list[int]] = {}
    for fixed in (False, True):
        model, seen = OfficialModel(config, mask_fixed=fixed).eval(), widths.setdefault(fixed, [])
        for layer in model.layers:
            layer.inner.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0].shape[1]))
        model(*padded(HISTORIES, 8, left=True))
    assert widths == {False: [8, 8, 9, 9], True: [8, 8, 1, 1]}


@pytest.mark.parametrize("method", ["prl", "erl"])
def test_losses_agree(dataset: SequenceDataset, method: str) -> None:
    found = losses(dataset, small_config(dataset.num_items, method), batch_rows=32)
    assert set(found) == {"ours", CAREFUL, PUBLISHED, FIXED}
    assert found["ours"] > 1
    for loss in found.values():
        assert loss == pytest.approx(found["ours"], rel=1e-4)


def test_noise_of_the_branches_agrees(dataset: SequenceDataset) -> None:
    """With the same draws the noised branch is the same; it is not the clean one."""
    config = small_config(dataset.num_items, "prl")
    torch.manual_seed(0)
    model = ReaRec(config).eval()
    batch = collate_histories(HISTORIES, 8)
    official = OfficialModel(config, mask_fixed=False).eval()
    official.load(model.state_dict())
    torch.manual_seed(1)
    expected = model(batch, noise=0.5, return_noised=True)
    torch.manual_seed(1)
    states, noised = official(*padded(HISTORIES, 8, left=True), noise=0.5, return_noised=True)
    assert expected.noised is not None and noised is not None
    torch.testing.assert_close(noised, expected.noised, rtol=1e-4, atol=1e-5)
    assert (noised - states[:, 1:]).abs().max() > 0.01


@pytest.mark.parametrize("method", ["prl", "erl"])
def test_every_step_trains_on_all_its_rows(dataset: SequenceDataset, method: str) -> None:
    steps, absent = training_steps(
        dataset, small_config(dataset.num_items, method), batch_rows=16, sampled=2, precisions=("fp3",)
    )
    assert list(absent) == ["ours, fp3"] and "precision" in absent["ours, fp3"]
    assert set(steps) == {"ours", CAREFUL, PUBLISHED, FIXED}
    rows = {who: step() for who, step in steps.items()}
    assert rows["ours"] == rows[CAREFUL] and 16 < rows["ours"] <= 32
    assert rows[PUBLISHED] == rows[FIXED] and 0 < rows[FIXED] <= 16


def test_padding() -> None:
    items, lengths = padded([[1, 2, 3], [4]], 2, left=True)
    assert items.tolist() == [[2, 3], [0, 4]] and lengths.tolist() == [2, 1]
    items, _ = padded([[1], [4]], 5, left=False)
    assert items.tolist() == [[1], [4]]


def test_prepared_data_trains_too(prepared: Path) -> None:
    loaded = load_dataset(prepared)
    found = losses(loaded, small_config(loaded.num_items, "prl"), batch_rows=32)
    assert found[PUBLISHED] == pytest.approx(found["ours"], rel=1e-4)


@pytest.mark.parametrize(("method", "fixed"), [("prl", False), ("prl", True), ("prl", None), ("erl", None)])
def test_plain_models_train_on_any_device(dataset: SequenceDataset, method: str, fixed: bool | None) -> None:
    """With tensors without data, which take no part in a sum with one of the CPU; fixed: None for the careful model."""
    config = small_config(dataset.num_items, method)
    model = CarefulModel(config) if fixed is None else OfficialModel(config, mask_fixed=fixed)
    plain = Plain(model, ReaRec(config).state_dict(), contrastive=method == "prl", device="meta")
    loader = PairBatches(dataset, "train", batch_rows=16, max_len=config.max_len)
    batch = loader[0]
    arguments = careful_arguments(batch) if fixed is None else Rows(dataset, loader, [0]).left_padded(0, config.max_len)
    loss = plain.loss(arguments)
    loss.backward()
    assert loss.device.type == "meta" and model.item_embedding.weight.grad is not None
