"""`FittedModel` and `rearec.load`: users, metrics, saving, where the dataset is, how it is shown."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rearec
from rearec import FittedModel, Recommender, UserError
from rearec.data import SequenceDataset, load_dataset, save_dataset
from rearec.evaluation import evaluate
from rearec.facade import device_of
from rearec.facade.users import UserHistories
from rearec.report.floors import floors_of


@pytest.fixture(scope="module")
def model(run_folder: Path) -> FittedModel:
    return rearec.load(run_folder)


@pytest.fixture
def run(run_folder: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(run_folder, tmp_path / "run")


def test_users_are_answered_by_all_that_is_known_of_them(model: FittedModel, prepared: Path) -> None:
    dataset = load_dataset(prepared)
    ids = np.array(dataset.item_ids)
    histories = [ids[dataset.sequence(user)].tolist() for user in range(dataset.num_users)]
    everybody = model.recommend(users="all", k=4)
    assert everybody == model.recommend(histories, k=4) == Recommender(model.run).recommend(histories, k=4)
    two = model.recommend(users=["user-7", "user-3"], k=4)
    assert [answer.items for answer in two] == [everybody[7].items, everybody[3].items]
    assert model.known_history("user-7") == histories[7]
    frame = model.recommend(users=["user-7", "user-3"], k=4, exclude_seen=True, frame=True)
    assert frame["user"].to_list() == ["user-7"] * 4 + ["user-3"] * 4
    assert not set(frame.filter(user="user-7")["item"]) & set(histories[7])


def test_of_several_sequences_of_a_user_the_longest_one_counts() -> None:
    none = np.empty((0, 2), dtype=np.int32)
    dataset = SequenceDataset(
        items=np.array([0, 1, 2, 2, 1, 0, 1, 0], dtype=np.int32),
        offsets=np.array([0, 2, 5, 6, 8]),
        sequence_user=np.array([0, 0, 1, 1], dtype=np.int32),
        split_rows={"train": none, "valid": none, "test": none},
        item_ids=["10", "11", "12"],
        user_ids=["1", "2"],
        statistics={},
    )
    histories = UserHistories(dataset)
    assert histories.users("all") == histories.users([1, "2"]) == ["1", "2"]
    assert histories.of(1) == ["12", "12", "11"] and histories.of("2") == ["11", "10"]
    with pytest.raises(UserError, match="user '3' is not in the dataset"):
        histories.of(3)
    for wrong in ("1", "everybody"):
        with pytest.raises(TypeError, match='expected "all" or a list of ids'):
            histories.users(wrong)
    equal = replace(dataset, items=dataset.items[:6], offsets=np.array([0, 2, 4, 5, 6]))
    assert UserHistories(equal).of("1") == ["10", "11"]


def test_histories_or_users(model: FittedModel) -> None:
    for wrong in ({}, {"histories": [["item-001"]], "users": "all"}):
        with pytest.raises(ValueError, match="give histories or users, and not both"):
            model.recommend(**wrong)


def test_seen_items_are_left_out_as_the_run_was_trained(model: FittedModel, run: Path) -> None:
    options = json.loads((run / "options.json").read_text())
    options["training"]["exclude_seen"] = not model.excludes_seen
    (run / "options.json").write_text(json.dumps(options))
    other = rearec.load(run)
    assert other.excludes_seen is not model.excludes_seen
    history = [model.recommend([["item-001"]], exclude_seen=False)[0].items[:3]]
    for each in (model, other):
        as_trained = {"exclude_seen": each.excludes_seen}
        assert each.recommend(history) == each.recommend(history, **as_trained)
        assert each.explain(history[0]) == each.explain(history[0], **as_trained)
        assert each.evaluate() == each.evaluate(**as_trained)
    assert model.recommend(history) != other.recommend(history) and model.evaluate() != other.evaluate()


def test_metrics_are_those_of_evaluation(model: FittedModel, prepared: Path) -> None:
    dataset = load_dataset(prepared)
    expected = evaluate(model.model, dataset, "valid", metrics=["hit@3"], exclude_seen=True, users_by="length")
    assert model.evaluate("valid", ["hit@3"], exclude_seen=True, users_by="length") == expected
    test = model.evaluate()
    assert {name: model.result["test"][name] for name in ("ndcg@20", "mrr", "popularity")} == {
        name: pytest.approx(test[name], rel=1e-5) for name in ("ndcg@20", "mrr", "popularity")
    }


def test_a_saved_model_is_loaded_and_answers_alike(model: FittedModel, tmp_path: Path, prepared: Path) -> None:
    saved = model.save(tmp_path / "deep" / "saved")
    again = rearec.load(saved)
    assert again.recommend(users="all") == model.recommend(users="all") and again.result == model.result
    assert sorted(p.name for p in saved.parent.iterdir()) == ["saved"]
    with pytest.raises(UserError, match="training; force=True replaces it"):
        model.save(saved)
    (saved / "result.json").unlink()
    model.save(saved, force=True)
    assert rearec.load(saved).result == model.result
    assert again.save(saved) == saved
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a RUN folder"):
        model.save(tmp_path / "other", force=True)
    assert (tmp_path / "other" / "mine.txt").read_text() == "mine"


def test_the_dataset_is_opened_when_it_is_needed(run: Path, prepared: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(prepared, tmp_path / "moved")
    options = json.loads((run / "options.json").read_text())
    for path, message in ((str(tmp_path / "gone"), "is gone"), (None, "it does not say which")):
        options["dataset"]["path"] = path
        (run / "options.json").write_text(json.dumps(options))
        model = rearec.load(run)
        assert len(model.recommend([["item-001"]])[0].items) == 10
        for ask in (model.evaluate, lambda model=model: model.recommend(users="all")):
            with pytest.raises(UserError, match=rf"{message}.*with rearec\.load\(run, data=\.\.\.\)"):
                ask()
    for data in (moved, str(moved), load_dataset(moved)):
        assert len(rearec.load(run, data).recommend(users="all")) == 150


def test_another_dataset_is_refused(run_folder: Path, prepared: Path, tmp_path: Path) -> None:
    dataset = load_dataset(prepared)
    other = replace(dataset, item_ids=[*dataset.item_ids[:-1], "other"])
    with pytest.raises(UserError, match="data: not the dataset of"):
        rearec.load(run_folder, other)
    save_dataset(other, tmp_path / "other")
    with pytest.raises(UserError, match="other: not the dataset of"):
        rearec.load(run_folder, tmp_path / "other").evaluate()


def test_a_run_from_before_there_were_titles_has_those_of_its_dataset(
    run: Path, prepared: Path, tmp_path: Path
) -> None:
    titles = [f"Title {number}" for number in range(40)]
    titled = replace(load_dataset(prepared), item_titles=titles)
    catalog = json.loads((run / "catalog.json").read_text())
    assert rearec.load(run, titled).catalog.titles is None  # the run says that there were none
    del catalog["titles"]
    (run / "catalog.json").write_text(json.dumps(catalog))
    assert rearec.load(run, titled).catalog.titles == titles
    assert rearec.load(run).catalog.titles is None
    options = json.loads((run / "options.json").read_text())
    options["dataset"]["path"] = str(tmp_path / "gone")
    (run / "options.json").write_text(json.dumps(options))
    assert rearec.load(run).catalog.titles is None


def test_a_model_is_shown_in_a_few_lines(model: FittedModel) -> None:
    lines = repr(model).splitlines()
    assert lines[0] == f"FittedModel(prl on sasrec, 2 steps, dim 16, 40 items; {model.run})"
    result = model.result
    assert lines[1].startswith(f"  best epoch {result['best_epoch']} of 4") and len(lines) == 5
    assert f"NDCG@20 {result['test']['ndcg@20']:.4f}" in lines[3]
    assert f"markov {result['test']['markov']['ndcg@20']:.4f}" in lines[3]
    html = model._repr_html_()
    # the headings, the model on validation and test rows, the floors on test rows
    assert (
        html.count("<tr>") == 3 + len(floors_of(result["test"]))
        and f"{result['test']['mrr']:.4f}" in html
        and "Recall@10" in html
    )


def test_an_unfinished_training_is_no_model(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        rearec.load(tmp_path / "nowhere")
    (run / "result.json").unlink()
    with pytest.raises(UserError, match="the training did not finish"):
        rearec.load(run)


def test_devices_by_name() -> None:
    assert device_of("cpu").type == "cpu" and device_of() == device_of("auto")
    for wrong in ("tpu", "meta", "cuda:99", "no device"):
        with pytest.raises(UserError, match="device: "):
            device_of(wrong)


def test_a_model_outlives_its_folder(model: FittedModel, tmp_path: Path) -> None:
    gone = rearec.load(model.save(tmp_path / "gone"), data=model.dataset)
    shown = repr(gone), gone._repr_html_(), gone.result, gone.history, gone.advice
    shutil.rmtree(gone.run)
    assert (repr(gone), gone._repr_html_(), gone.result, gone.history, gone.advice) == shown
    with pytest.raises(UserError, match="RUN folder is gone"):
        gone.save(tmp_path / "saved")
    gone.result["test"]["ndcg@20"] = 2.0
    assert gone.result == shown[2]


def test_a_run_is_not_saved_into_itself(model: FittedModel) -> None:
    for inside in (model.run / "copy", model.run.parent):
        with pytest.raises(UserError, match="is inside of"):
            model.save(inside, force=True)
    assert not (model.run / "copy").exists()


def test_wrong_arguments_are_told(model: FittedModel) -> None:
    for call in (
        lambda k: model.recommend([["item-001"]], k=k),
        lambda k: model.similar(["item-001"], k=k),
        lambda k: model.explain(["item-001"], k=k),
    ):
        for wrong in (2.5, "3", None, True):
            with pytest.raises(TypeError, match=f"k: got {wrong!r}, expected an integer"):
                call(wrong)
        with pytest.raises(ValueError, match="k: got 0, expected 1 or more"):
            call(0)
    with pytest.raises(TypeError, match=r"steps: got 1\.5, expected an integer"):
        model.encode([["item-001"]], steps=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="users: expected a sequence of user ids"):
        model.recommend(users=3)
    with pytest.raises(TypeError, match="data: got a dict"):
        rearec.load(model.run, data={})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="metrics: got the text 'hit@5'"):
        model.evaluate(metrics="hit@5")
    keys = dict.fromkeys(["item-001", "item-002"]).keys()
    assert set(model.recommend([["item-003"]], allow=keys)[0].items) == set(keys)
