"""Several processes train, measure and resume as one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import group_cases
import numpy as np
import polars as pl
import pytest
import torch
from groups import Answer, log_of, run_group

from rearec_kernels import available_backends

# By name: the model, the training, and more. prl with noise and the contrastive term from the start.
PRL = {"method": "prl", "steps": 2, "cl_weight": 0.5, "warmup": 0, "noise": 0.1}
TRAININGS: dict[str, dict[str, Any]] = {
    "base": {"model": {"method": "base"}, "options": {}},
    "erl": {"model": {"method": "erl", "steps": 2}, "options": {"clip": 0.5, "schedule": "cosine"}},
    "prl": {"model": PRL, "options": {}},
    "prl, own prefix": {"model": {**PRL, "noised_prefix": "own"}, "options": {}},
    "sampled": {"model": PRL, "options": {"negatives": 5}},
    "teacher": {"model": {"method": "erl", "steps": 1, "teacher": "graph"}, "options": {"negatives": 5}},
    "items left out": {"model": {"method": "base"}, "options": {"item_dropout": 0.3}},
    "cloze": {
        "model": {"backbone": "bert4rec", "method": "base", "training_task": "cloze"}, "options": {"batch_rows": 24},
    },
    "separate windows": {"model": PRL, "options": {"pairing": "separate"}},
    "large windows": {"model": PRL, "options": {"batch_rows": 6}, "users": 12},
}  # fmt: skip
LEAST_STEPS = 20
# Three processes train these; two train them all.
BY_THREE = ("prl", "sampled", "cloze", "large windows")
# In float32, which our kernels compute in: with dropout, the same masks.
DROPOUT = {**PRL, "noised_prefix": "own", "dropout": 0.2, "input_dropout": 0.1}
SINGLE: dict[str, dict[str, Any]] = {
    "prl": {"model": PRL, "options": {}},
    "dropout": {"model": DROPOUT, "options": {"item_dropout": 0.2}},
    "cloze with dropout": {"model": {**DROPOUT, "backbone": "bert4rec", "training_task": "cloze"}, "options": {}},
}
EVALUATIONS: dict[str, dict[str, Any]] = {
    "test": {"split": "test", "batch_rows": 7, "exclude_seen": True},
    "steps and groups": {
        "split": "valid", "batch_rows": 16, "per_step": True, "users_by": "length", "items_by": "popularity",
        "metrics": ["ndcg@5", "coverage@5", "novelty@5"],
    },
    "one batch": {"split": "test", "batch_rows": 4096, "floors": False},
}  # fmt: skip
ROWS = [3, 0, 2]


Cases = dict[tuple[str, ...], Any]


def cases(size: int, folder: Path) -> Cases:
    """All that one group does; errors that all processes have agreed upon leave it whole."""
    run, two = str(folder / "run"), [1, 2, 2][:size]
    trainings = TRAININGS if size == 2 else {name: TRAININGS[name] for name in BY_THREE}
    return {
        **{("double", name): ("training", {**kwargs, "double": True}) for name, kwargs in trainings.items()},
        **{("single", name): ("training", kwargs) for name, kwargs in SINGLE.items()},
        **{("evaluation", name): ("evaluation", kwargs) for name, kwargs in EVALUATIONS.items()},
        ("gathered",): ("gathered", {"rows": ROWS[:size]}),
        ("ready",): ("agreement", {"values": [1] * size, "failing": None}),
        ("differing",): ("agreement", {"values": two, "failing": None}),
        ("failing",): ("agreement", {"values": [1] * size, "failing": size - 1}),
        ("counted",): ("first_alone", {"fails": False}),
        ("uncounted",): ("first_alone", {"fails": True}),
        ("run",): ("training", {"model": PRL, "options": {"epochs": 2}, "run": run, "double": True}),
        ("refit",): ("refitted", {"run": run, "out": str(folder / "refit")}),
        ("bulk",): ("bulk", {"run": run, "source": str(folder / "histories"), "output": str(folder / "answers")}),
    }


@pytest.fixture(scope="module", params=[2, 3])
def group(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Cases, Path]:
    """Of 2 and of 3 processes: how many, their answers to all cases, and the folder."""
    folder = tmp_path_factory.mktemp("group")
    group_cases.histories(folder / "histories")
    asked = cases(request.param, folder)
    answers, codes = run_group(request.param, [*asked.values()], folder)
    assert codes == [0] * request.param, log_of(folder, 0) + log_of(folder, 1)
    return request.param, dict(zip(asked, answers, strict=True)), folder


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """One process's trainings, each made once."""
    return {}


def trained_alone(alone: dict[str, Any], name: str, double: bool) -> dict[str, Any]:
    """What one process gets."""
    if (name, double) not in alone:
        alone[name, double] = group_cases.training(**(TRAININGS if double else SINGLE)[name], double=double)
    return alone[name, double]  # type: ignore[no-any-return]


def values_of(answers: list[Answer]) -> list[Any]:
    """The answers, none of which is an error."""
    assert [answer.error for answer in answers] == [None] * len(answers)
    return [answer.value for answer in answers]


def assert_same_training(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    """Losses of all steps, gradients of the first, weights of the best epoch and its metrics."""
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=tolerance)
    for one, other in zip(found["gradients"], expected["gradients"], strict=True):
        assert one.keys() == other.keys()
        largest = max(float(x.abs().max()) for x in other.values())
        for name, x in other.items():
            assert float((one[name] - x).abs().max()) <= tolerance * largest, name
    for name, x in expected["weights"].items():
        assert float((found["weights"][name].double() - x.double()).abs().max()) <= 10 * tolerance, name


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_in_float64_is_that_of_one_process(
    group: tuple[int, Cases, Path], alone: dict[str, Any], name: str
) -> None:
    """Losses, gradients, weights and metrics, to what rounding leaves of the order of sums."""
    size, answers, _ = group
    if size == 3 and name not in BY_THREE:
        return
    expected = trained_alone(alone, name, double=True)
    assert len(expected["losses"]) >= LEAST_STEPS
    for found in values_of(answers["double", name]):
        assert_same_training(found, expected, 1e-7)
        for split in ("valid", "test"):
            np.testing.assert_allclose(
                [found["result"][split][x] for x in ("ndcg@20", "mrr")],
                [expected["result"][split][x] for x in ("ndcg@20", "mrr")],
                rtol=1e-9,
            )


@pytest.mark.parametrize("name", SINGLE)
def test_a_training_in_float32_is_that_of_one_process(
    group: tuple[int, Cases, Path], alone: dict[str, Any], name: str
) -> None:
    """The same as far as float32 goes, but for biases of keys: attention does not depend on them, and Adam divides
    gradients that are zero but for rounding by themselves."""
    if "dropout" in name and "cpu" not in available_backends("cpu"):
        pytest.skip("torch's own attention drops by places in the tensors that it gets")
    _, answers, _ = group
    expected = trained_alone(alone, name, double=False)
    weights = {key: x for key, x in expected["weights"].items() if not key.endswith("key.bias")}
    for found in values_of(answers["single", name]):
        assert_same_training(found, {**expected, "weights": weights}, 2e-6)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_metrics_are_those_of_one_process_to_the_bit(group: tuple[int, Cases, Path], name: str) -> None:
    """Also where a process has no batch; every process has all of them."""
    _, answers, _ = group
    expected = group_cases.evaluation(**EVALUATIONS[name])
    for found in values_of(answers["evaluation", name]):
        assert found == expected


def test_rows_of_all_processes_and_their_gradients(group: tuple[int, Cases, Path]) -> None:
    """A process may have none; what comes back is the sum over processes."""
    size, answers, _ = group
    found = values_of(answers[("gathered",)])
    rows = ROWS[:size]
    whole = torch.cat([torch.arange(float(count)).add(100 * rank) for rank, count in enumerate(rows)])
    weights = torch.arange(1.0, len(whole) + 1) * sum(range(1, size + 1))
    for rank, answer in enumerate(found):
        first = sum(rows[:rank])
        assert answer["first"] == first
        assert answer["rows"][:, 1].tolist() == whole.tolist()
        assert answer["gradient"][:, 0].tolist() == weights[first : first + rows[rank]].tolist()


def test_one_process_tells_what_is_wrong_in_any(group: tuple[int, Cases, Path]) -> None:
    """All leave together: the first with the error, the others knowing that it is told."""
    size, answers, _ = group
    ready, differing, failing, counted, uncounted = (
        answers[(name,)] for name in ("ready", "differing", "failing", "counted", "uncounted")
    )
    assert values_of(ready) == ["ready"] * size
    message = "process 1 has another setting than process 0: 2, not 1"
    assert differing[0].error[0] == "UserError" and differing[0].error[1].startswith(message)
    assert failing[0].error == ("UserError", f"process {size - 1}: no such file")
    for answer in (*differing[1:], *failing[1:], *uncounted[1:]):
        assert answer.error[0] == "ToldElsewhereError"
    assert [answer["array"].tolist() for answer in values_of(counted)] == [[0, 1, 2]] * size
    assert uncounted[0].error == ("UserError", "nothing to count")


def test_a_refit_is_that_of_one_process(group: tuple[int, Cases, Path]) -> None:
    _, answers, folder = group
    expected = group_cases.refitted(str(folder / "run"), str(folder / "refit alone"))
    for found in values_of(answers[("refit",)]):
        assert (found["rows"], found["epochs"]) == (expected["rows"], expected["epochs"])
        for name, x in expected["weights"].items():
            assert float((found["weights"][name] - x).abs().max()) <= 1e-6, name


def test_answers_to_files_are_those_of_one_process(group: tuple[int, Cases, Path]) -> None:
    """Every part by one of them; before the run is trained further by the test behind this one."""
    size, answers, folder = group
    alone = folder / "alone"
    expected = group_cases.bulk(str(folder / "run"), str(folder / "histories"), str(alone))
    assert values_of(answers[("bulk",)]) == [expected] * size
    assert expected["histories"] == 11 and expected["parts"] == 5
    written = sorted(path.name for path in alone.iterdir())
    assert sorted(path.name for path in (folder / "answers").iterdir()) == written and "_SUCCESS" in written
    for name in written[2:]:
        assert pl.read_parquet(alone / name).equals(pl.read_parquet(folder / "answers" / name))


def test_a_checkpoint_is_resumed_by_any_number_of_processes(
    group: tuple[int, Cases, Path], alone: dict[str, Any]
) -> None:
    """Two epochs by several processes, then two by one: the numbers of four by one."""
    _, answers, folder = group
    values_of(answers[("run",)])
    if "four" not in alone:
        alone["four"] = group_cases.training(PRL, {"epochs": 4}, double=True)
    found = group_cases.training(PRL, {"epochs": 4}, run=str(folder / "run"), double=True, resume=True)
    expected = alone["four"]
    np.testing.assert_allclose(found["losses"], expected["losses"][-len(found["losses"]) :], rtol=1e-6)
    assert len(found["losses"]) * 2 == len(expected["losses"])
    for name, x in expected["weights"].items():
        assert float((found["weights"][name] - x).abs().max()) <= 1e-6, name
    assert found["result"]["epochs"] == 4


def test_a_lost_process_ends_the_others_and_the_run_goes_on(tmp_path: Path) -> None:
    """Whichever it is: the others say so soon, the folder is whole, and three processes go on where two were."""
    options = {"epochs": 3, "batch_rows": 64}
    for rank in (0, 1):
        run = str(tmp_path / f"run{rank}")
        answers, codes = run_group(
            2, [("dying", {"run": run, "rank": rank, "options": options})], tmp_path / f"group{rank}", timeout=30
        )
        assert codes[rank] == 9
        error = answers[0][1 - rank].error
        assert error == ("LostProcessError", "another process was lost, or answered no more; continue with --resume")
    case = ("resuming", {"run": str(tmp_path / "run1"), "options": options})
    answers, codes = run_group(3, [case], tmp_path / "resumed")
    assert codes == [0, 0, 0], log_of(tmp_path / "resumed", 0)
    assert [value["epochs"] for value in values_of(answers[0])] == [3, 3, 3]
