"""The objective of docs/own-objective.md, as it stands there, from the command line and in Python."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import rearec
from rearec.cli.app import app
from rearec.errors import UserError
from rearec.evaluation import evaluate
from rearec.models import ReaRecConfig
from rearec.objectives import OBJECTIVES, Objective, load_objective
from rearec.reasoning import ReaRec, Rollout
from rearec.training import TrainingOptions, train

DOC = (Path(__file__).parents[1] / "docs" / "own-objective.md").read_text(encoding="utf-8")
DEFINITION, USE = re.findall(r"```python\n(.*?)```", DOC, flags=re.DOTALL)
(SHELL,) = re.findall(r"```sh\n(.*?)```", DOC, flags=re.DOTALL)
NAMES: dict[str, Any] = {}
exec(DEFINITION, NAMES)

SMALL = ["--dim", "16", "--ffn", "16", "--layers", "1", "--max-len", "8", "--device", "cpu"]


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the file of the page and its data, as the current one."""
    (tmp_path / "my_objectives.py").write_text(DEFINITION, encoding="utf-8")
    (tmp_path / "data").symlink_to(prepared)
    monkeypatch.chdir(tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """As in a process that has not imported it."""
    sys.modules.pop("my_objectives", None)


def rearec_command(*words: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(app, list(map(str, words)))
    assert (result.exit_code != 0) == fails, result.output
    return result


def test_the_loss_is_the_weighted_mean_of_the_states_cross_entropies() -> None:
    config = ReaRecConfig(30, method="own", steps=2, dim=8, temperature=0.5)
    objective: Objective = NAMES["deep_supervision"](config)
    torch.manual_seed(0)
    states = torch.randn(5, 3, 8, requires_grad=True)
    rollout, target = Rollout(states, torch.randn(30, 8)), torch.tensor([3, -100, 9, 0, 29])
    terms = objective.terms(objective.fitted(config), rollout, target, torch.arange(5))
    kept = target >= 0
    by_state = [
        torch.nn.functional.cross_entropy(states[kept, t] @ rollout.weight.T / 0.5, target[kept]) for t in range(3)
    ]
    expected = (by_state[0] + 2 * by_state[1] + 3 * by_state[2]) / 6
    torch.testing.assert_close(terms["loss"], expected)
    assert terms["loss"].requires_grad and not terms["last"].requires_grad
    torch.testing.assert_close(terms["last"], by_state[2].detach())


def test_the_commands_of_the_page_run_and_a_stored_model_needs_none_of_the_code(here: Path) -> None:
    trained, evaluated, recommended = [line.split()[1:] for line in SHELL.strip().splitlines()]
    trained[trained.index("--epochs") + 1] = "1"
    rearec_command(*trained, *SMALL)
    with (here / "run" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["train_first"]) > 0 and float(row["train_last"]) > 0
    stored = json.loads((here / "run" / "config.json").read_text())
    assert (stored["method"], stored["readout"], stored["positions"]) == (
        "my_objectives:deep_supervision",
        "mean",
        True,
    )
    code = json.loads((here / "run" / "options.json").read_text())["code"]["method"]
    assert code["file"] == str(here / "my_objectives.py") and len(code["digest"]) == 32

    forget()
    (here / "my_objectives.py").unlink()
    measured = json.loads(rearec_command(*evaluated, "--json", "--device", "cpu").stdout)
    result = json.loads((here / "run" / "result.json").read_text())
    assert measured["ndcg@20"] == pytest.approx(result["test"]["ndcg@20"], rel=1e-12)
    words = ["item-001" if word.startswith("B0") else word for word in recommended]
    answer = json.loads(rearec_command(*words, "--json", "--device", "cpu").stdout)
    assert answer["source"] == "model" and len(answer["items"]) == 10
    page = ("analyze", "run", "similarity", "--out", "pages", "--rows", "20", "--device", "cpu")
    rearec_command(*page)
    assert "my_objectives" not in sys.modules

    model = ReaRec.from_pretrained("run")
    states = torch.randn(2, 3, 16)
    assert torch.equal(model.final_state(states), states.mean(dim=1))
    assert model.reasoning_position_embedding is not None


class _Stop(Exception):
    pass


def killed_run(config: ReaRecConfig, run: str, epochs: int = 2, **own: Any) -> None:
    """A training that was killed after its first epoch."""

    def stop(row: dict[str, Any]) -> None:
        raise _Stop

    with pytest.raises(_Stop):
        train("data", run, config, TrainingOptions(epochs=epochs, batch_rows=512), on_epoch=stop, **own)


def test_resuming_wants_the_code_to_be_named_or_trusted_and_tells_where_it_has_changed(here: Path) -> None:
    items = rearec.load_dataset("data").num_items
    config = ReaRecConfig(items, method="my_objectives:deep_supervision", dim=16, ffn=16, layers=1, max_len=8)
    killed_run(config, "run")
    refused = rearec_command("train", "data", "--out", "run", "--resume", "--device", "cpu", fails=True)
    assert "its method is code of somebody's own, my_objectives:deep_supervision; --trust-code or" in refused.output

    forget()
    (here / "my_objectives.py").write_text(DEFINITION + "\n# another\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="the code of its method, my_objectives:deep_supervision, is not as it was"):
        rearec_command("train", "data", "--out", "run", "--resume", "--trust-code", "--device", "cpu")
    with (here / "run" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    # what was said once by its option needs no trust
    rearec_command("train", "data", "--out", "run", "--resume", "--method", config.method, "--device", "cpu")


def test_the_example_in_python_runs(here: Path) -> None:
    names = dict(NAMES)
    code = USE.replace("epochs=20", "epochs=1").replace("B07J3GH1W1", "item-001").replace("B07W397QG4", "item-002")
    exec(code, names)
    (answer,) = names["recommender"].recommend([["item-001", "item-002"]], k=10)
    assert (answer.source, len(answer.items)) == ("model", 10)
    model, dataset = ReaRec.from_pretrained("notebook-run"), rearec.load_dataset("data")
    assert model.config.method == "own" and model.config.readout == "mean"
    assert (
        evaluate(model, dataset)["ndcg@20"]
        == json.loads(Path("notebook-run/result.json").read_text())["test"]["ndcg@20"]
    )


def returning(value: Any) -> Objective:
    return Objective(loss=lambda *_, **__: value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(()), "its loss returned Tensor, expected scalar tensors by name, 'loss' among them"),
        ({"total": torch.zeros(())}, "its loss returned the terms total, expected scalar"),
        ({"loss": torch.zeros(3)}, r"its loss returned a tensor of shape \[3\] as 'loss'"),
        ({"loss": torch.zeros(()), "size": 1.5}, "its loss returned float as 'size'"),
    ],
)
def test_a_loss_that_returns_something_else_is_told(value: Any, message: str) -> None:
    config = ReaRecConfig(9, method="own", dim=4, readout="last", positions=False)
    rollout = Rollout(torch.zeros(2, 3, 4), torch.zeros(9, 4))
    with pytest.raises(UserError, match=f"method own: {message}"):
        returning(value).terms(config, rollout, torch.arange(2), torch.arange(2))


def test_terms_that_come_and_go_are_told(here: Path) -> None:
    dataset, calls = rearec.load_dataset("data"), []

    def loss(config: Any, rollout: Rollout, target: Any, group: Any, *, precision: str) -> dict[str, Any]:
        calls.append(precision)
        size = rollout.states.square().mean()
        return {"loss": size} if len(calls) < 3 else {"loss": size, "more": size}

    config = ReaRecConfig(dataset.num_items, method="own", dim=8, ffn=8, layers=1, max_len=8)
    with pytest.raises(UserError, match="its loss returned the terms loss, more, but loss before"):
        train(dataset, "run", config, TrainingOptions(epochs=2, batch_rows=256), objective=Objective(loss=loss))
    assert calls == ["fp32"] * 3


def test_the_noised_branch_is_there_when_the_objective_asks_for_it(here: Path) -> None:
    dataset, seen = rearec.load_dataset("data"), []

    def loss(config: Any, rollout: Rollout, target: Any, group: Any, *, precision: str) -> dict[str, Any]:
        seen.append(rollout.noised is not None)
        return {"loss": rollout.states.square().mean()}

    config = ReaRecConfig(dataset.num_items, method="own", dim=8, ffn=8, layers=1, max_len=8)
    objective = Objective(loss=loss, noised=lambda config, epoch: epoch == 1)
    train(dataset, "run", config, TrainingOptions(epochs=2, batch_rows=4096), objective=objective)
    assert seen == [False, True]


def test_an_objective_and_a_method_that_do_not_fit_are_refused() -> None:
    own = ReaRecConfig(9, method="own", dim=4)
    with pytest.raises(ValueError, match="objective: missing for the method 'own'"):
        load_objective(own)
    with pytest.raises(ValueError, match="objective: got one beside the method 'prl'; 'own' is the one"):
        load_objective(replace(own, method="prl"), OBJECTIVES["erl"])
    with pytest.raises(ValueError, match="method: 'own' is an objective of one's own, expected readout and positions"):
        ReaRec(own)
    with pytest.raises(ValueError, match="readout: got 'mean', expected none: prl says it"):
        ReaRecConfig(9, readout="mean", positions=True)
    with pytest.raises(ValueError, match="readout, positions: got one of them, expected both or none"):
        replace(own, readout="mean")
