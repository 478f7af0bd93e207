"""Processes that hold the item table together train, measure, save and resume as one that has all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import group_cases
import numpy as np
import pytest
import torch
from groups import Answer, log_of, run_group

import rearec
from rearec.errors import UserError
from rearec.models import weight_files

SPLIT = {"shard_catalog": True}
PRL = {"method": "prl", "steps": 2, "cl_weight": 0.5, "warmup": 0, "noise": 0.1}
# By name: the model and the training.
TRAININGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "base": ({"method": "base"}, {"weight_decay": 0.01}),
    "erl": ({"method": "erl", "steps": 2}, {"clip": 0.5, "schedule": "cosine", "weight_decay": 0.01}),
    "prl": (PRL, {"clip": 0.5}),
    "teacher": ({"method": "erl", "steps": 1, "teacher": "graph"}, {}),
    "empty shares": ({**PRL, "steps": 1}, {"batch_rows": 6}),
    "cloze": ({"backbone": "bert4rec", "method": "rpe", "steps": 1, "training_task": "cloze"}, {"batch_rows": 24}),
}
# How many users the data has, where that is not as usual: too few for a window for each process.
USERS = {"empty shares": 12}
# Where rows are contrasted with those of one process, as many processes that have the whole table are the measure.
OWN_CONTRAST = {"model": {**PRL, "noised_prefix": "own"}, "double": True}
# What two processes do, and three do not.
BY_TWO = ("base", "prl", "teacher", "cloze", "own contrast", "gone on", "steps and lists")
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "prior": ({}, {"prior": "graph"}, "--prior graph, the usual choice, is fitted by a process that has the whole"),
    "negatives": ({}, {"negatives": 5}, "--negatives 5 reads rows of the whole table; leave it out"),
    "method": ({"method": "group_cases:objective_of_mine"}, {}, "an objective of one's own reads the table as a whole"),
    "backbone": ({"backbone": "backbones_of_mine:make"}, {}, "backbones_of_mine:make has no table of item embeddings"),
}
LISTS = ["ndcg@5", "coverage@5", "novelty@5"]
EVALUATIONS: dict[str, dict[str, Any]] = {
    "test": {"split": "test", "batch_rows": 7, "exclude_seen": True},
    "steps and lists": {"split": "valid", "batch_rows": 50, "per_step": True, "metrics": LISTS, "exclude_seen": False},
    "one batch": {"split": "test", "batch_rows": 4096, "floors": False},
}  # fmt: skip
ITEMS = [[3, 1, 3, 9], [], [9, 0, 9, 9, 2]]
TOTAL, WIDTH = 10, 3
# Of a model of 50 items and width 8: its item table has 1,600 bytes.
PART_BYTES = 4000

Cases = dict[tuple[str, ...], Any]


def training_of(name: str) -> tuple[str, dict[str, Any]]:
    """The name, and what is asked of one process that has the whole table."""
    model, options = TRAININGS[name]
    users = USERS.get(name, group_cases.USERS)
    return name, {"model": model, "options": options, "users": users, "double": True}


def cases(size: int, folder: Path) -> Cases:
    """All that one group does."""
    run = {"model": PRL, "double": True}
    found: Cases = {
        **{
            ("training", name): ("training", {**asked, "options": {**asked["options"], **SPLIT}})
            for name, asked in map(training_of, TRAININGS)
        },
        **{("evaluation", name): ("evaluation", {**asked, "is_split": True}) for name, asked in EVALUATIONS.items()},
        ("own contrast", "split"): ("training", {**OWN_CONTRAST, "options": {"contrast": "own", **SPLIT}}),
        ("own contrast", "whole"): ("training", {**OWN_CONTRAST, "options": {"contrast": "own"}}),
        ("looked up",): ("looked_up", {"items": ITEMS[:size], "num_items": TOTAL, "dim": WIDTH}),
        ("largest",): ("largest", {"model": {"method": "base"}, "options": SPLIT}),
        **{
            ("refused", name): (
                "refused", {"model": model, "options": {**options, **SPLIT}, "out": str(folder / "refused")},
            )
            for name, (model, options, _) in REFUSED.items()
        },
        ("parts",): ("saved_in_parts", {"folder": str(folder / "parts"), "most_bytes": PART_BYTES}),
        ("unwritable",): ("cannot_save", {"folder": str(folder / "file" / "below")}),
        ("begun",): ("training", {**run, "options": {"epochs": 1, **SPLIT}, "run": str(folder / "begun")}),
        ("gone on",): (
            "training", {**run, "options": {"epochs": 2, **SPLIT}, "run": str(folder / "whole"), "resume": True},
        ),
    }  # fmt: skip
    if size == 3:
        found = {case: asked for case, asked in found.items() if case[0] not in BY_TWO and case[-1] not in BY_TWO}
    return found


@pytest.fixture(scope="module", params=[2, 3])
def group(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Cases, Path]:
    """Of 2 and of 3 processes: how many, their answers to all cases, and the folder, with what one process began."""
    folder = tmp_path_factory.mktemp("split")
    (folder / "file").write_text("no folder")
    if request.param == 2:
        group_cases.training(PRL, {"epochs": 1}, run=str(folder / "whole"), double=True)
    asked = cases(request.param, folder)
    answers, codes = run_group(request.param, [*asked.values()], folder)
    assert codes == [0] * request.param, log_of(folder, 0) + log_of(folder, 1)
    return request.param, dict(zip(asked, answers, strict=True)), folder


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """One process's trainings, each made once."""
    return {}


def values_of(answers: list[Answer]) -> list[Any]:
    """The answers, none of which is an error."""
    assert [answer.error for answer in answers] == [None] * len(answers)
    return [answer.value for answer in answers]


def whole_gradient(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The gradients of all processes, those of the table one after the other."""
    name = "model.backbone.item_embedding.weight"
    return {**parts[0], name: torch.cat([part[name] for part in parts])}


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """All but the biases of keys: attention does not depend on them, and Adam divides rounding by itself."""
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        if not name.endswith("key.bias"):
            assert float((found[name] - x).abs().max()) <= tolerance, name


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_that_of_one_process(group: tuple[int, Cases, Path], alone: dict[str, Any], name: str) -> None:
    """Losses and metrics of each process, gradients of all together before they are clipped, and the saved weights."""
    size, answers, _ = group
    if size == 3 and name in BY_TWO:
        return
    found = values_of(answers["training", name])
    assert len(found[0]["losses"]) >= 20
    if name not in alone:
        alone[name] = group_cases.training(**training_of(name)[1])
    expected = alone[name]
    assert_near(whole_gradient([one["gradients"][0] for one in found]), expected["gradients"][0], 1e-9)
    for one in found:
        np.testing.assert_allclose(one["losses"], expected["losses"], rtol=1e-9)
        assert_near(one["weights"], expected["weights"], 1e-7)
        for split in ("valid", "test"):
            for metric in ("ndcg@20", "mrr"):
                assert one["result"][split][metric] == pytest.approx(expected["result"][split][metric], rel=1e-9)


def test_contrast_within_a_process_is_that_of_as_many_with_the_whole_table(group: tuple[int, Cases, Path]) -> None:
    size, answers, _ = group
    if size == 3:
        return
    for found, expected in zip(*(values_of(answers["own contrast", how]) for how in ("split", "whole")), strict=True):
        assert_near(found["weights"], expected["weights"], 1e-7)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_metrics_are_those_of_one_process(group: tuple[int, Cases, Path], name: str) -> None:
    """Also where a process has no batch."""
    size, answers, _ = group
    if size == 3 and name in BY_TWO:
        return
    expected = group_cases.evaluation(**EVALUATIONS[name])
    for found in values_of(answers["evaluation", name]):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value)


def test_vectors_come_from_those_who_have_them_and_gradients_go_back(group: tuple[int, Cases, Path]) -> None:
    """Each row once for each process, whatever number of times it is asked for; a process may ask for none."""
    size, answers, _ = group
    found = values_of(answers[("looked up",)])
    table = torch.arange(float(TOTAL * WIDTH)).view(TOTAL, WIDTH)
    gradient = torch.ones(TOTAL, WIDTH)
    for rank, items in enumerate(ITEMS[:size]):
        assert torch.equal(found[rank]["vectors"], table[items])
        for item in items:
            gradient[item] += (1 + rank) * table[item]
    assert torch.equal(torch.cat([one["gradient"] for one in found]), gradient)


def test_nobody_holds_the_table(group: tuple[int, Cases, Path]) -> None:
    """Of weights, gradients and moments the largest tensor is a process's part; the result counts all."""
    size, answers, _ = group
    numbers = group_cases.dataset().num_items * 8
    for found in values_of(answers[("largest",)]):
        assert found["parameters"] > numbers
        for kind in ("weight", "gradient", "moment"):
            assert 0 < found[kind] <= max(numbers // size + 8, 10 * 8), kind


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_with_it_is_refused_in_one_line(group: tuple[int, Cases, Path], name: str) -> None:
    """Before anything is written; the first process tells it."""
    _, answers, folder = group
    first, *others = answers["refused", name]
    assert first.error[0] == "UserError" and first.error[1].startswith(f"--shard-catalog: {REFUSED[name][2]}")
    assert "\n" not in first.error[1]
    assert [answer.error[0] for answer in others] == ["ToldElsewhereError"] * len(others)
    assert not (folder / "refused").exists()


def test_weights_in_parts_are_those_of_one_file(group: tuple[int, Cases, Path], tmp_path: Path) -> None:
    """As the Hub has them: parts and an index; and a part that is missing or damaged is one line."""
    _, answers, folder = group
    files = values_of(answers[("parts",)])[0]
    parts = [name for name in files if name.startswith("model-")]
    assert len(parts) > 2 and "model.safetensors" not in files and "model.safetensors.index.json" in files
    index = json.loads((folder / "parts" / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == parts
    torch.manual_seed(1)
    expected = rearec.ReaRec(rearec.models.ReaRecConfig(50, method="erl", dim=8, max_len=20)).state_dict()
    found = rearec.ReaRec.from_pretrained(folder / "parts").state_dict()
    assert found.keys() == expected.keys() == index["weight_map"].keys()
    assert all(torch.equal(found[name], x) for name, x in expected.items())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in expected.values())


def test_a_checkpoint_is_resumed_with_or_without(group: tuple[int, Cases, Path], alone: dict[str, Any]) -> None:
    """An epoch by processes that hold it together, then one by one that has all of it, and the other way round."""
    _, answers, folder = group
    values_of(answers[("begun",)])
    left = sorted(path.name for path in (folder / "begun" / "checkpoints").glob("*.safetensors"))
    assert left == ["items-1.safetensors", "moments-1.safetensors"]
    if "two" not in alone:
        alone["two"] = group_cases.training(PRL, {"epochs": 2}, double=True)
    expected = alone["two"]
    whole = group_cases.training(PRL, {"epochs": 2}, run=str(folder / "begun"), double=True, resume=True)
    for found in (whole, *values_of(answers.get(("gone on",), []))):
        again = len(found["losses"])
        assert 0 < again < len(expected["losses"])
        np.testing.assert_allclose(found["losses"], expected["losses"][-again:], rtol=1e-9)
        assert_near(found["weights"], expected["weights"], 1e-7)
        assert found["result"]["epochs"] == 2
    kept = list((folder / "begun" / "checkpoints").glob("moments-*"))
    assert kept == []  # what the resumed training did not need any more


def test_a_checkpoint_without_its_table_is_one_line(tmp_path: Path) -> None:
    """Missing, or damaged."""
    from rearec.training.recorder import load_checkpoint

    reference = {"epoch": 3, "name": "model.weight", "place": 0}
    torch.save({"state_dict": {}, "item_table": reference}, tmp_path / "last.ckpt")
    for text in (None, b"nothing"):
        if text is not None:
            (tmp_path / "items-3.safetensors").write_bytes(text)
        with pytest.raises(UserError) as caught:
            load_checkpoint(tmp_path / "last.ckpt")
        message = str(caught.value)
        assert message.startswith(f"{tmp_path}/items-3.safetensors: not a readable safetensors file (")
        assert message.endswith("; train anew with --force") and "\n" not in message


def test_who_cannot_write_says_so_and_nobody_waits(group: tuple[int, Cases, Path]) -> None:
    """The rows of the others are taken and forgotten."""
    _, answers, _ = group
    first, *others = answers[("unwritable",)]
    assert "Not a directory" in first.error[1]
    assert [answer.error[0] for answer in others] == ["ToldElsewhereError"] * len(others)


@pytest.mark.parametrize("damage", ["missing", "damaged", "index"])
def test_a_model_in_parts_that_is_not_whole_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Of one process, whose parts the library writes; saved again as one file, nothing of the parts is left."""
    model = rearec.ReaRec(rearec.models.ReaRecConfig(50, method="erl", dim=8, max_len=20))
    with monkeypatch.context() as patched:
        patched.setattr(weight_files, "MOST_BYTES", PART_BYTES)
        model.save_pretrained(tmp_path)
    part, *_, last = sorted(tmp_path.glob("model-*.safetensors"))
    loaded = rearec.ReaRec.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], x) for name, x in model.state_dict().items())
    where = part if damage != "index" else tmp_path / "model.safetensors.index.json"
    if damage == "missing":
        part.unlink()
    else:
        where.write_text("{}")
    with pytest.raises(UserError) as caught:
        rearec.ReaRec.from_pretrained(tmp_path)
    assert str(caught.value).startswith(f"{where}: ") and "\n" not in str(caught.value)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert not last.exists()
    rearec.ReaRec.from_pretrained(tmp_path)
