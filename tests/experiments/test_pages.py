"""The pages of all tables and figures, made of runs that were written without being trained."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rearec.data import load_dataset
from rearec.data.dataset import SequenceDataset
from rearec.data.features.storage import save_features
from rearec.data.storage import save_dataset
from rearec.data.synthetic import Planted, generate
from rearec.errors import UserError
from rearec.evaluation import evaluate, rank_rows
from rearec.evaluation.floors import FLOORS
from rearec.evaluation.metrics import rank_metrics, row_metrics
from rearec.experiments import ARTEFACTS, reproduce
from rearec.experiments.plan import Plan, settings_of
from rearec.experiments.pool import Outcome
from rearec.experiments.runs import Run
from rearec.files import write_json
from rearec.models.config import ID_BACKBONES, TEXT_BACKBONES
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog
from rearec.training import presets

pytestmark = pytest.mark.usefixtures("quick_figures")

SETTINGS = {"dim": 8, "ffn": 8, "layers": 1, "heads": 1, "max_len": 8, "epochs": 2}
Make = Callable[..., dict[str, Any]]


def finish(dataset: SequenceDataset, data: Path, run: Run, folder: Path) -> None:
    """What a training leaves, with the weights it starts from; these depend on all settings of the run."""
    place = run.folder(folder)
    description = {"path": str(data), "fingerprint": dataset.fingerprint}
    record = {"dataset": description, "model": dataclasses.asdict(run.config), "training": {}}
    place.start(record, Catalog(dataset.item_ids, dataset.train_item_counts().tolist()))
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(run.name.encode()))
        features = torch.from_numpy(np.array(dataset.features)) if run.config.reads_features else None
        model = ReaRec(run.config, features).eval()
    model.save_pretrained(place.path)
    place.metrics_file.write_text("epoch,train_seconds,valid_seconds\n1,50,10\n2,20,10\n")
    result = {"best_epoch": 1, "epochs": 2, "stopped_early": False, "parameters": 1}
    for split in ("valid", "test"):
        exclude = run.options.exclude_seen
        result[split] = evaluate(model, dataset, split, exclude_seen=exclude, floors=split == "test")  # type: ignore[arg-type]
    write_json(place.result_file, result)


@pytest.fixture(autouse=True)
def no_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages here do not depend on what a search has found."""
    monkeypatch.setattr(presets, "BY_BACKBONE", {})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pages") / "small"
    dataset = generate(0, planted=Planted(users=40, themes=3, items_per_theme=5), out=out)
    features = np.random.default_rng(0).normal(size=(dataset.num_items, 6)).astype(np.float32)
    save_features(out, features, dataset.fingerprint, {})
    return out


@pytest.fixture
def make(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`reproduce` with runs that are written instead of trained, all but those that ``lost`` names a reason for."""
    dataset, written = load_dataset(data), data.parent / "written"

    def call(*artefacts: str, lost: Callable[[Run], str | None] = lambda run: None, **options: Any) -> dict[str, Any]:
        def write(data: Path, runs: Sequence[Run], folder: Path, **_: Any) -> Outcome:
            outcome = Outcome()
            for run in runs:
                reason = lost(run)
                if reason == "budget":
                    outcome.unfinished.append(run)
                elif reason is not None:
                    outcome.failed[run] = reason
                elif not run.folder(folder).finished:
                    # the tests share what they write; whatever happens to a run happens to its copy
                    if not run.folder(written).finished:
                        finish(dataset, data, run, written)
                    shutil.copytree(run.folder(written).path, run.folder(folder).path)
            return outcome

        monkeypatch.setattr("rearec.experiments.reproduce.train_all", write)
        settings = SETTINGS | options.pop("settings", {})
        return reproduce.reproduce(artefacts, data, tmp_path / "out", settings=settings, **options)

    return call


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_metrics_of_the_tables_are_chosen(make: Make, data: Path, tmp_path: Path) -> None:
    make("table2", backbones=["sasrec"], methods=["base", "prl"], metrics=["HR@3", "ndcg@20", "mrr"])
    out = tmp_path / "out"
    first, second = read_csv(out / "table2.csv")
    assert [name for name in first if "@" in name or "mrr" in name] == [
        *("hit@3", "hit@3_se", "ndcg@20", "ndcg@20_se", "mrr", "mrr_se")
    ]
    dataset = load_dataset(data)
    for line in (first, second):
        (run,) = (out / "runs").glob(f"sasrec-{line['method']}-*")
        measured = evaluate(ReaRec.from_pretrained(run), dataset, exclude_seen=False, metrics=["hit@3"])
        assert float(line["hit@3"]) == pytest.approx(measured["hit@3"], rel=1e-6)
        assert float(line["hit@3_se"]) == pytest.approx(measured["hit@3_se"], rel=1e-4)
    gains = {line["metric"] for line in read_csv(out / "table2-gains.csv")}
    assert gains <= {"hit@3", "ndcg@20", "mrr"} and "hit@3" in gains
    assert "--metrics hit@3,ndcg@20,mrr" in (out / "table2.md").read_text()
    with pytest.raises(UserError, match="coverage@3 is about lists of items, the targets' ranks do not tell it"):
        make("table2", metrics=["coverage@3"])


def test_every_table_and_figure_has_its_page_with_all_it_refers_to(make: Make, tmp_path: Path) -> None:
    result = make("all", search_settings=3)
    out = tmp_path / "out"
    assert list(result["pages"]) == list(ARTEFACTS) and result["left_out"] == {} and result["missing"] == {}
    assert result["finished"] == result["runs"] == len(list((out / "runs").glob("*/result.json")))
    for name in ARTEFACTS:
        page = Path(result["pages"][name])
        text = page.read_text()
        assert page == out / f"{name}.md"
        links = re.findall(r"\]\(([^)]+)\)", text)
        assert all((out / link).stat().st_size > 0 for link in links)
        assert any(link.endswith(".csv") for link in links)
        if name not in ("table1", "search"):
            assert any(link.endswith(".png") for link in links)
        assert str(tmp_path) not in text and "/small" not in text
        assert f"rearec reproduce {name} small --out out" in text
        for words in ("fingerprint", "torch", "written 20"):
            assert words in text
        assert f"seen items {result['seen']}" in text
        assert ("trainings are finished" in text) == (name not in ("table1", "table4"))
        assert "Missing" not in text
    # nothing is left over that no page refers to
    pages = "".join(page.read_text() for page in out.glob("*.md"))
    assert all(f"({path.name})" in pages for path in out.iterdir() if path.suffix in (".csv", ".png"))
    # whatever ranks says among what
    unranked = re.compile("table1|table4-sasrec|fig9-sasrec")
    for path in out.glob("*.csv"):
        rows = read_csv(path)
        assert {row.get("seen") for row in rows} == {None if unranked.fullmatch(path.stem) else result["seen"]}, path


def test_figures_are_written_in_the_formats_that_are_asked_for(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="format of figures: got 'gif', expected some of png, svg, pdf"):
        make("fig4", formats=["gif"])
    assert not (tmp_path / "out").exists()
    make("fig4", "table2", backbones=["sasrec"], formats=["svg", "pdf"])
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir() if path.suffix in (".png", ".svg", ".pdf")} == {
        f"{name}.{kind}" for name in ("fig4-sasrec", "table2") for kind in ("svg", "pdf")
    }
    text = (out / "fig4.md").read_text()
    assert "![fig4-sasrec](fig4-sasrec.svg)" in text and "[fig4-sasrec.pdf](fig4-sasrec.pdf)" in text
    # the floors stand in the bars' legend
    drawn = (out / "table2.svg").read_text()
    assert all(f"<!-- {floor} (floor) -->" in drawn for floor in FLOORS)


def test_runs_are_shared_between_tables_and_figures(data: Path) -> None:
    plan = Plan(load_dataset(data))
    runs = {name: set(reproduce._KNOWN[name].runs(plan)) for name in ARTEFACTS}
    assert set(reproduce._KNOWN) == set(ARTEFACTS)
    assert {(run.config.backbone, run.config.method) for run in runs["table2"]} == {
        (backbone, method) for backbone in ID_BACKBONES for method in ("base", "erl", "prl")
    }
    assert {(run.config.backbone, run.config.method) for run in runs["table3"]} == {
        (backbone, method) for backbone in TEXT_BACKBONES for method in ("base", "erl", "prl")
    }
    assert runs["fig4"] | runs["fig11"] <= runs["table2"]
    assert runs["fig8"] == runs["fig9"] <= runs["fig5"]
    assert {(run.config.method, run.config.steps) for run in runs["fig5"]} == {("base", 0)} | {
        (method, steps) for method in ("naive", "rpe", "erl", "prl") for steps in (1, 2, 3, 4, 5)
    }
    # The ceiling of K + 1 states has K + 1 base models for its control.
    assert [run.options.seed for run in sorted(runs["fig2"], key=lambda run: run.name) if not run.config.steps] == [
        0,
        1,
        2,
    ]
    swept = {
        (run.config.method, run.config.temperature) for run in runs["fig6"] if run.config.kl_weight in (0.01, 0.05)
    }
    assert {("erl", tau) for tau in (0.05, 0.1, 0.5, 1.0, 2.0, 5.0)} <= swept
    assert {1.0, 1.2, 1.5, 2.0, 5.0, 10.0} <= {run.config.alpha for run in runs["fig6"] if run.config.method == "prl"}
    assert {0.001, 0.005, 0.01, 0.05, 0.1} <= {
        run.config.kl_weight for run in runs["fig6"] if run.config.method == "erl"
    }
    terms = {(run.config.method, run.config.kl_weight == 0, run.config.cl_weight == 0) for run in runs["fig7"]}
    assert {("erl", True, False), ("erl", False, False), ("prl", False, True), ("prl", False, False)} <= terms


@pytest.mark.parametrize("exclude", [False, True], ids=["kept", "excluded"])
def test_table_2_has_means_deviations_and_paired_gains_over_seeds(
    make: Make, data: Path, tmp_path: Path, exclude: bool
) -> None:
    settings = {"exclude_seen": exclude}
    report = make("table2", backbones=["sasrec"], methods=["prl"], seeds=2, settings=settings)
    assert report["seen"] == ("excluded" if exclude else "kept")
    out, dataset = tmp_path / "out", load_dataset(data)
    plan = Plan(dataset, seeds=2, settings=SETTINGS | settings)
    ranks = {
        method: [
            rank_rows(
                ReaRec.from_pretrained(run.folder(out / "runs").path), dataset, "test", exclude_seen=exclude
            ).final
            for run in plan.over_seeds(method)
        ]
        for method in ("base", "prl")
    }
    rows = {row["method"]: row for row in read_csv(out / "table2.csv")}
    assert list(rows) == ["base", "prl"]
    for method, row in rows.items():
        values = [rank_metrics(each)["ndcg@20"] for each in ranks[method]]
        assert float(row["ndcg@20"]) == pytest.approx(sum(values) / 2)
        assert float(row["ndcg@20_std"]) == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
        assert row["seeds"] == "2"
    base, prl = (np.stack([row_metrics(each)["recall@20"] for each in ranks[m]]) for m in ("base", "prl"))
    (gain,) = (row for row in read_csv(out / "table2-gains.csv") if row["metric"] == "recall@20")
    percent = 100 * (prl.mean() / base.mean() - 1)
    assert float(gain["gain_%"]) == pytest.approx(percent)
    assert float(gain["low_%"]) < percent < float(gain["high_%"])
    # The normal approximation of the paired interval, wide enough for 40 rows.
    half = 196 * (prl - base).mean(axis=0).std(ddof=1) / 40**0.5 / base.mean()
    assert float(gain["high_%"]) - float(gain["low_%"]) == pytest.approx(2 * half, rel=0.15)
    text = (out / "table2.md").read_text()
    assert f"full catalogue, seen items {report['seen']}; ± is the standard deviation over 2 seeds" in text
    assert "| sasrec | prl |" in text and f"{percent:+.1f} %" in text
    # 1.5 minutes for each of the four trainings
    assert "4 of 4 trainings are finished, 6.0 minutes in all" in text


def test_text_backbones_stand_beside_the_id_backbones_of_the_same_folder(make: Make, tmp_path: Path) -> None:
    make("table3")
    text = (tmp_path / "out" / "table3.md").read_text()
    assert "table2 with the same settings does it" in text
    make("table2", "table3")
    text = (tmp_path / "out" / "table3.md").read_text()
    assert "NDCG@20 over sasrec" in text and "table3-all-backbones.png" in text


def test_a_page_of_partial_results_says_what_is_missing(make: Make, tmp_path: Path) -> None:
    def lost(run: Run) -> str | None:
        if run.config.method == "prl":
            return "the training loss is nan"
        return "budget" if run.config.method == "erl" and run.config.kl_weight == 0 else None

    result = make("fig7", "table2", lost=lost, backbones=["sasrec"])
    text = (tmp_path / "out" / "fig7.md").read_text()
    assert "3 of 6 trainings are finished" in text and "| erl with KL" in text and "| prl" not in text
    assert len(re.findall(r"- sasrec-prl-\S+: the training loss is nan", text)) == 2
    assert re.search(r"- sasrec-erl-\S+-kl0-\S+: not trained yet: the budget was over", text)
    assert result["finished"] == 3 and len(result["missing"]) == 3 and len(result["failed"]) == 2
    table = (tmp_path / "out" / "table2.md").read_text()
    assert "| sasrec | erl |" in table and "| sasrec | prl |" not in table

    everything = make("all", lost=lambda run: "budget")
    assert everything["pages"].keys() == set(ARTEFACTS)
    for page in everything["pages"].values():
        assert "How this was made" in Path(page).read_text()

    whole = make("fig7", backbones=["sasrec"])
    assert whole["missing"] == {} and "Missing" not in (tmp_path / "out" / "fig7.md").read_text()


def test_the_search_chooses_on_validation_and_shows_the_test_split_for_the_chosen_alone(
    make: Make, data: Path, tmp_path: Path
) -> None:
    make("search", search_settings=5)
    out = tmp_path / "out"
    rows = read_csv(out / "search-sasrec.csv")
    assert [sum(row["method"] == method for row in rows) for method in ("base", "erl", "prl")] == [5, 5, 5]
    results = [json.loads(path.read_text()) for path in (out / "runs").glob("*/result.json")]
    test_of = {result["valid"]["ndcg@20"]: f"{result['test']['ndcg@20']:.4f}" for result in results}
    chosen = {row["method"]: row for row in rows if row["chosen"] == "True"}
    tested = {row["method"]: f"{float(row['ndcg@20']):.4f}" for row in read_csv(out / "search-sasrec-test.csv")}
    for method, row in chosen.items():
        values = [float(other["valid NDCG@20"]) for other in rows if other["method"] == method]
        assert float(row["valid NDCG@20"]) == max(values)
        assert tested[method] == test_of[max(values)]
    text = "".join(path.read_text() for path in out.iterdir() if path.suffix in (".md", ".csv"))
    others = {value for valid, value in test_of.items() if value not in tested.values()}
    hidden = [value for value in others if value not in {f"{valid:.4f}" for valid in test_of}]
    assert len(hidden) > 5 and not any(value in text for value in hidden)
    # The first setting of each is the best known one; turns alternate, whatever is asked for stays as it is.
    plan = Plan(load_dataset(data), settings={"dropout": 0.25}, search_settings=4)
    runs = reproduce._KNOWN["search"].runs(plan)
    assert [run.config.method for run in runs] == ["base", "erl", "prl"] * 4 and len(set(runs)) == 12
    assert runs[:3] == [plan.run(method) for method in ("base", "erl", "prl")]
    assert {settings_of(run)["dropout"] for run in runs} == {0.25}


def test_fig_2_has_no_verdict_without_the_whole_control(make: Make, tmp_path: Path) -> None:
    make("fig2", lost=lambda run: "budget" if run.options.seed == 2 else None)
    text = (tmp_path / "out" / "fig2.md").read_text()
    assert "2 of its 3 base models are trained" in text and "There is no control here" in text
    make("fig2")
    text = (tmp_path / "out" / "fig2.md").read_text()
    assert "There is no control" not in text and "the control is" in text


def test_all_leaves_out_what_the_dataset_cannot_do(make: Make, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    generate(0, planted=Planted(users=40, themes=3, items_per_theme=5), out=plain)
    chosen, left_out = reproduce._choose(["all"], Plan(load_dataset(plain)))
    assert [artefact.name for artefact in chosen] == [name for name in ARTEFACTS if name != "table3"]
    assert "rearec embed" in left_out["table3"]
    with pytest.raises(UserError, match="rearec embed"):
        reproduce.reproduce(["table3"], plain, tmp_path / "other")
    with pytest.raises(UserError, match="table2 is about the backbones sasrec"):
        make("table2", backbones=["morec"])
    with pytest.raises(UserError, match="needs a method that reasons"):
        make("fig8", methods=["base"])
    assert not (tmp_path / "other").exists() and not (tmp_path / "out").exists()


def test_a_folder_of_something_else_or_of_other_data_is_refused(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("!")
    with pytest.raises(UserError, match="exists and holds no experiments"):
        make("table1")
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").unlink()
    make("table1")
    other = tmp_path / "other"
    generate(1, planted=Planted(users=40, themes=3, items_per_theme=5), out=other)
    with pytest.raises(UserError, match="holds experiments on other data"):
        reproduce.reproduce(["table1"], other, out)


def test_table_1_compares_with_the_published_counts(data: Path, tmp_path: Path) -> None:
    dataset = load_dataset(data)
    named = dataclasses.replace(dataset, options={**dataset.options, "preset": "software"})
    save_dataset(named, tmp_path / "software")
    reproduce.reproduce(["table1"], tmp_path / "software", tmp_path / "out")
    rows = {row[""]: row for row in read_csv(tmp_path / "out" / "table1.csv")}
    assert rows["users"] == {"": "users", "here": "40", "published": "30049", "difference": str(40 - 30049)}
    statistics = dataset.statistics
    total = sum(statistics[f"{split}_rows"] for split in ("train", "valid", "test"))
    assert rows["rows"]["here"] == str(total) and rows["rows"]["published"] == "168029"
    assert rows["test rows"]["published"] == "4992" and rows["density"]["published"] == ""
