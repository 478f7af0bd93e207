"""`rearec.fit` with and without a graph prior: answers, metrics, what is shown, what is kept."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

import rearec
from rearec import FittedModel
from rearec.data import SequenceDataset, load_dataset
from rearec.facade.shown import result_html, result_lines

SETTINGS = {"epochs": 1, "dim": 8, "ffn": 8, "layers": 1, "max_len": 8, "lr": 1e-3}


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> SequenceDataset:
    return load_dataset(prepared)


@pytest.fixture(scope="module")
def model(dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory) -> FittedModel:
    """Hardly trained, so that the graph is better."""
    out = tmp_path_factory.mktemp("prior") / "run"
    return rearec.fit(dataset, out=out, prior="graph", progress=False, **SETTINGS)


def test_a_prior_is_fitted_kept_and_shown(model: FittedModel, dataset: SequenceDataset) -> None:
    assert model.model.prior is not None
    answers = model.recommend(users="all", k=5)
    assert all(answer.prior for answer in answers)
    assert rearec.load(model.run, data=dataset).recommend(users="all", k=5) == answers
    test = model.result["test"]
    assert test["ndcg@20"] != test["without_prior"]["ndcg@20"]
    without = f"without the graph {test['without_prior']['ndcg@20']:.4f}"
    assert without in repr(model) and without not in repr(model).splitlines()[2]
    assert "without the graph</td>" in model._repr_html_()
    evaluated = model.evaluate()
    assert evaluated["ndcg@20"] == pytest.approx(test["ndcg@20"])
    assert evaluated["without_prior"]["ndcg@20"] == pytest.approx(test["without_prior"]["ndcg@20"])
    answer = model.recommend(users=[dataset.user_ids[0]], k=3)[0]
    why = model.explain(model.known_history(dataset.user_ids[0]), k=3)
    assert (why.steps[-1].name, why.steps[-1].items) == ("with the item graph", answer.items)


def test_a_refit_answers_with_a_prior(model: FittedModel, dataset: SequenceDataset) -> None:
    final = rearec.refit(model, progress=False)
    assert final.model.prior is not None and final.result["test"] is None
    assert all(answer.prior for answer in final.recommend(users="all", k=2))
    assert "without the graph" not in repr(final)


def test_a_copy_without_its_prior(model: FittedModel) -> None:
    other = copy.deepcopy(model)
    other.model.prior = None
    other.refresh()
    assert not any(answer.prior for answer in other.recommend(users="all", k=5))
    assert all(answer.prior for answer in model.recommend(users="all", k=5))
    assert "without_prior" not in other.evaluate()


def test_without_a_prior_nothing_is_said_of_it(dataset: SequenceDataset, capsys: pytest.CaptureFixture[str]) -> None:
    model = rearec.fit(dataset, prior="none", **SETTINGS)
    assert model.model.prior is None and "graph" not in repr(model) + model._repr_html_()
    assert "the graph prior" not in capsys.readouterr().err
    assert not any(answer.prior for answer in model.recommend(users="all", k=2))


def test_what_a_prior_brought_is_said(dataset: SequenceDataset, capsys: pytest.CaptureFixture[str]) -> None:
    model = rearec.fit(dataset, prior="graph", **SETTINGS)
    valid = model.result["valid"]
    assert valid["ndcg@20"] > valid["without_prior"]["ndcg@20"]
    assert "the graph prior: NDCG@20 on validation" in capsys.readouterr().err


def test_results_of_before_there_were_priors(run_folder: Path) -> None:
    result = rearec.load(run_folder).result
    for split in ("valid", "test"):
        result[split].pop("without_prior", None)
    assert "without the graph" not in "\n".join(result_lines(result)) + result_html("", "prl", result)
