"""benchmarks/peers.py as a whole, without the other libraries; the tables of its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peers
import pytest
from report import page
from report.peers import section
from report.records import load

from rearec.data import SequenceDataset, save_dataset
from rearec.data.synthetic import paper_shaped


@pytest.mark.parametrize("kind", ["speed", "quality"])
def test_the_script(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: SequenceDataset) -> None:
    save_dataset(dataset, tmp_path / "data")
    out = tmp_path / "results" / "peers.json"
    arguments = ["--data", tmp_path / "data", "--venvs", tmp_path / "venvs", "--out", out, "--only", "plain"]
    more = ["--quality", "--epochs", 1] if kind == "quality" else ["--rounds", 1, "--seconds", 0.01]
    assert peers.main([*map(str, [*arguments, "Markov", *more])]) == 0
    record = json.loads(out.read_text())
    assert record["kind"] == kind and record["failed"] == {} and record["data"]["users"] == dataset.num_users
    assert [*record["contenders"]] == ["plain PyTorch", *["Markov"] * (kind == "quality")]
    assert str(tmp_path) not in out.read_text()
    printed = capsys.readouterr().out
    assert printed.strip() == section(record)
    assert all(f"| {name} |" in printed for name in record["contenders"])


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


def test_the_report_has_a_section_of_the_latest_run(tmp_path: Path) -> None:
    later = speed_record() | {"date": "2026-02-01", "failed": {}}
    for name, record in (("b", speed_record()), ("a", later)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    records = load(tmp_path.glob("*.json"))
    page.write(records, tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count("## Beside other libraries: speed") == 1 and "2026-02-01" in text and "failed" not in text
