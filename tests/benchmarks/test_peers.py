"""benchmarks/peers.py as a whole, without the other libraries; the tables of its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peers
import pytest
from report import page
from report.curves import curves, plot_curves
from report.peers import section
from report.records import load

from rearec.data import SequenceDataset, load_dataset, save_dataset
from rearec.data.synthetic import paper_shaped
from rearec.training import TrainingOptions, fitting_config, train


def asked(tmp_path: Path, *more: Any) -> list[str]:
    """A command line for small data that is there, without an environment of another library."""
    folders = ["--data", tmp_path / "data", "--venvs", tmp_path / "venvs", "--out", tmp_path / "out" / "peers.json"]
    return [str(word) for word in (*folders, *more)]


def test_the_script_measures_speed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: SequenceDataset
) -> None:
    save_dataset(dataset, tmp_path / "data")
    assert peers.main(asked(tmp_path, "--only", "plain", "--rounds", 1, "--seconds", 0.01)) == 0
    record = json.loads((tmp_path / "out" / "peers.json").read_text())
    assert record["kind"] == "speed" and record["failed"] == {} and record["data"]["users"] == dataset.num_users
    assert [*record["contenders"]] == ["plain PyTorch"]
    printed = capsys.readouterr().out
    assert printed.strip() == section(record) and "| plain PyTorch |" in printed


def test_the_script_measures_quality(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: SequenceDataset
) -> None:
    """A run that was trained before takes part as it is, with and without the graph, beside the floors."""
    save_dataset(dataset, tmp_path / "data")
    config = fitting_config(dataset, method="base", dim=8, ffn=8, layers=1, max_len=8)
    options = TrainingOptions(epochs=1, batch_rows=64)
    train(load_dataset(tmp_path / "data"), tmp_path / "run", config, options, logger="none")
    given = f"base={tmp_path / 'run'}"
    assert peers.main(asked(tmp_path, "--quality", "--only", "nobody", "--ours", given, "--work", tmp_path / "w")) == 0
    text = (tmp_path / "out" / "peers.json").read_text()
    record = json.loads(text)
    assert record["failed"] == {} and [*record["contenders"]] == ["rearec base, given"]
    assert {"rearec base, given", "popularity", "markov", "itemknn", "rules"} <= {*record["quality"]}
    assert record["references"] == ["rearec base, given"] and str(tmp_path) not in text
    assert set(record["over"]["rules"]["rearec base, given"]) == {"ndcg@20", "recall@20"}
    printed = capsys.readouterr().out
    assert printed.strip() == section(record) and "ended by epochs after 1 epochs" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ours", "base"], "got 'base', expected NAME=RUN"),
        (["--ours", "base=run", "--users", "5"], "--ours: runs are of all users"),
        (["--cpu-seconds", "0"], "--cpu-seconds: got 0.0, expected more than 0"),
        (["--patience", "-1"], "--patience: got -1, expected more than 0"),
    ],
)
def test_wrong_options_are_one_line(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.parse(["--data", "data", "--venvs", "venvs", *more])
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_work_on_other_data_is_not_gone_on_with(tmp_path: Path, dataset: SequenceDataset) -> None:
    sequences = peers.sequences_of(dataset)
    assert peers._sequences_file(sequences, tmp_path) == peers._sequences_file(sequences, tmp_path)
    with pytest.raises(SystemExit, match="holds work on other data"):
        peers._sequences_file(sequences.some(5), tmp_path)


@pytest.fixture(scope="module")
def dataset() -> SequenceDataset:
    return paper_shaped(40, 50, 9.0)


def speed_record() -> dict[str, Any]:
    def round_of(targets: int, memory: int, users: int, one_user: float) -> dict[str, Any]:
        return {
            "training": {"targets": targets, "cpu_s": 2.0, "wall_s": 4.0, "peak_memory": memory * 2**20, "steps": 3},
            "answers": {"users": users, "cpu_s": 1.0, "wall_s": 1.0},
            "one_user": {"cpu_ms": one_user, "wall_ms": 1.0},
        }

    return {
        "kind": "speed",
        "date": "2026-01-02",
        "commit": "abc",
        "command": "python benchmarks/peers.py",
        "load": [0.0, 1.0],
        "sizes": {"batch_rows": 768},
        "machine": {"processor": "A CPU", "amx": False},
        "data": {"name": "data", "users": 5, "items": 6, "train_targets": 4000},
        "versions": {"another": {"another": "1.2"}},
        "contenders": {
            "rearec base": [
                round_of(2000, 500, 900, 2.0),
                round_of(4000, 600, 1000, 2.0),
                round_of(9000, 600, 999, 3.0),
            ],
            "another": [round_of(400, 1200, 250, 1.0)],
            "half": [{"training": round_of(1000, 1, 1, 1)["training"]}],
        },
        "failed": {"half": "exit status 1: no answers"},
    }


def test_the_table_of_speed() -> None:
    text = section(speed_record())
    assert "| rearec base | 2,000 | 2.0 | 1.00× (1.00×) | 600 MiB | 999 | 1.00× | 2.00 ms | 1.00× |" in text
    # where the other is ahead it says so
    assert "| another | 200 | 20.0 | 10.0× (10.0×) | 1,200 MiB | 250 | 4.00× | 1.00 ms | 0.50× |" in text
    assert "| half | 500 | 8.0 | 4.00× (4.00×) | 1 MiB | – | – | – | – |" in text
    assert "- half: failed: exit status 1: no answers" in text and "another 1.2" in text and "no AMX" in text


def quality_record() -> dict[str, Any]:
    metrics = {name: 0.25 for name in ("ndcg@10", "recall@10", "ndcg@20", "recall@20")} | {"ndcg@20_se": 0.01}
    found = {"seen_kept": metrics | {"ndcg@20": 0.125}, "seen_removed": metrics}
    curve = [{"epoch": epoch, "cpu_s": 10.0 * epoch, "valid_ndcg@20": 0.1 * epoch} for epoch in (1, 2)]
    trained = {"epochs": 2, "best_epoch": 2, "cpu_s": 20.0, "valid_ndcg@20": 0.2, "ended_by": "budget"}
    return speed_record() | {
        "kind": "quality",
        "contenders": {
            "rearec base": [{"curve": curve, "trained": trained | {"ended_by": "patience"}}],
            "RecTools SASRec, recipe": [{"curve": curve, "trained": trained}],
            "killed": [{"curve": curve[:1]}],
        },
        "recipes": {"RecTools SASRec, recipe": {"documented": "some page", "sizes": {}, "options": {}}},
        "quality": dict.fromkeys(("rearec base", "rearec base + graph", "RecTools SASRec, recipe", "rules"), found),
        "references": ["rearec base"],
        "over": {
            "rearec base": {},
            "rearec base + graph": {"rearec base": {"ndcg@20": "+1.0 % (+0.5 to +1.5)"}},
            "RecTools SASRec, recipe": {"rearec base": {"ndcg@20": "-1.0 % (-1.5 to -0.5)"}},
            "rules": {"rearec base": {"ndcg@20": "-9.0 % (-9.5 to -8.5)"}},
        },
        "failed": {"killed": "exit status -9: nothing was said"},
    }


def test_the_table_of_quality() -> None:
    text = section(quality_record())
    assert "| rearec base | 2 (2) | 20 | .2000 | .2500 | .2500 | .2500 ± .0100 | .2500 | .1250 ± .0100 | – |" in text
    # what was trained once and answers twice is one training; floors are not trained
    assert "| rearec base + graph | 2 (2) | 20 | .2000 |" in text and "| +1.0 % (+0.5 to +1.5) |" in text
    assert "| rules | – | – | – | .2500 |" in text
    assert "- RecTools SASRec, recipe: some page" in text
    assert "- RecTools SASRec, recipe: ended by budget after 2 epochs, not by patience" in text
    assert "- killed: not finished; after 1 epochs and 10 CPU-s valid NDCG@20 0.1000" in text
    assert "- rearec base: ended" not in text


def test_time_to_quality_is_a_figure(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(quality_record()))
    page.write(load([tmp_path / "a.json"]), tmp_path / "RESULTS.md")
    assert "![time to quality](plots/peers-quality-data.png)" in (tmp_path / "RESULTS.md").read_text()
    assert (tmp_path / "plots" / "peers-quality-data.png").stat().st_size > 5000
    assert curves(quality_record())["killed"] == [(10.0, 0.1)]
    without = quality_record() | {"contenders": {}}
    assert plot_curves(without, tmp_path) is None


def test_the_report_has_a_section_of_the_latest_run(tmp_path: Path) -> None:
    later = speed_record() | {"date": "2026-02-01", "failed": {}}
    for name, record in (("b", speed_record()), ("a", later)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    records = load(tmp_path.glob("*.json"))
    page.write(records, tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count("## Beside other libraries: speed") == 1 and "2026-02-01" in text and "failed" not in text
