"""`python benchmarks/report`: a made-up run in, tables and plots out."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import report
from measure.compare import Comparison, Target
from report import tables
from report.records import load

PROGRAM = Path(report.__file__).parent


def comparison(name: str, **facts: Any) -> dict[str, Any]:
    """Ours takes 2 ms and 10 MB, naive 7 ms and 5 MB."""
    made = Comparison(
        name,
        times={"ours": [0.001, 0.002, 0.003], "ours, bf16": [0.001, 0.001], "naive": [0.007, 0.007]},
        memory={"ours": 10 * 2**20, "ours, bf16": 10 * 2**20, "naive": 5 * 2**20},
        targets=[
            Target("naive", 3.0, 4.0),
            Target("naive", 3.0, 4.0, of="ours, bf16"),
            Target("naive", 2.0, 4.0, kind="memory"),
            Target("ours, bf16", 120.0, 4.0, kind="extra"),
        ],
        absent={"another": "for GPUs only"},
        facts=facts,
    )
    return made.record()


@pytest.fixture
def run() -> dict[str, Any]:
    points = [
        comparison(f"scan: N {n}", group="scaling", scan="loss, R 8", axis="N (items)", value=n) for n in (300, 10, 90)
    ]
    return {
        "date": "2026-01-02",
        "commit": "abc1234",
        "machine": {"processor": "Made-up CPU", "threads": 2, "system": "Linux"},
        "versions": {"python": "3.11", "torch": "2.13"},
        "comparisons": [
            comparison("a loss", group="losses"),
            comparison("a step", group="training", rows=100, epoch_rows=200_000),
            comparison("an answer", group="inference", rows=1),
            *points,
        ],
    }


def written(folder: Path, **runs: dict[str, Any]) -> str:
    files = []
    for name, record in runs.items():
        files.append(folder / f"{name}.json")
        files[-1].write_text(json.dumps(record))
    out = folder / "out" / "RESULTS.md"
    subprocess.run([sys.executable, PROGRAM, *files, "--out", out], check=True, capture_output=True)
    return out.read_text()


def row(text: str, begin: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {begin}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_hold_the_figures(tmp_path: Path, run: dict[str, Any]) -> None:
    text = written(tmp_path, run=run)
    assert "## Made-up CPU, 2 threads" in text
    assert "2026-01-02, commit abc1234" in text and "torch 2.13" in text
    losses = text.split("### Losses")[1].split("###")[0]
    assert row(losses, "a loss") == ["a loss", "2 ms", "**1 ms (0.50×)**", "7 ms (3.50×)"]
    # where the other is better it is shown like where we are
    assert row(losses.split("Peak memory")[1], "a loss") == ["a loss", "10 MB", "10 MB (1.00×)", "**5 MB (0.50×)**"]
    assert "- another: for GPUs only" in losses
    training = text.split("### Training step")[1].split("Rows per second")[1]
    assert row(training, "a step") == ["a step", "50,000 (4 s)", "100,000 (2 s)", "14,286 (14 s)"]
    assert row(text.split("### Whole inference")[1], "an answer")[1] == "2 ms / 2.98 ms (3 runs)"


def test_where_another_is_faster_is_said_first(tmp_path: Path, run: dict[str, Any]) -> None:
    run["comparisons"][1]["median_ms"] |= {"naive": 1.0, "product": 0.1}
    run["comparisons"] = run["comparisons"][:2]
    text = written(tmp_path, run=run)
    section = text.split("### Where ours is not the fastest")[1].split("###")[0]
    assert "In 1 of 2 comparisons with others ours, in its default precision, is the fastest." in section
    # a bare matrix product is no rival
    assert row(section, "a step") == ["a step", "2 ms", "naive", "1 ms", "0.50×"]
    assert "a loss" not in section
    limits = text.split("### Beside what the machine can do")[1].split("###")[0]
    assert row(limits, "a loss") == ["a loss", "extra time of ours over ours, bf16", "100 %"]
    # what we set ourselves is no result
    assert "must" not in text and "MISSED" not in text


def test_the_latest_run_counts(tmp_path: Path, run: dict[str, Any]) -> None:
    later = copy.deepcopy(run) | {"date": "2026-03-04", "commit": "def5678"}
    later["comparisons"] = [later["comparisons"][0]]
    later["comparisons"][0]["median_ms"]["ours"] = 4.0
    text = written(tmp_path, b=run, a=later)
    assert row(text.split("### Losses")[1], "a loss")[1] == "4 ms"
    assert row(text.split("### Training step")[1], "a step")[1] == "2 ms"
    other = copy.deepcopy(later)
    other["machine"]["threads"] = 1
    assert written(tmp_path, a=later, b=other).count("## Made-up CPU") == 2


def test_a_gpu_is_a_machine_of_its_own(tmp_path: Path, run: dict[str, Any]) -> None:
    on_gpu = copy.deepcopy(run)
    on_gpu["machine"]["gpu"] = {"name": "Made-up GPU"}
    on_gpu["comparisons"] = [comparison("a loss, replays", group="losses") | {"errors": {"naive": "it broke"}}]
    text = written(tmp_path, cpu=run, gpu=on_gpu)
    section = text.split("## GPU: Made-up GPU")[1].split("## Made-up CPU")[0]
    assert row(section.split("### Losses")[1], "a loss, replays")[1] == "2 ms"
    assert "- naive, a loss, replays: did not run: it broke" in section


def test_scans_become_plots(tmp_path: Path, run: dict[str, Any]) -> None:
    text = written(tmp_path, run=run)
    link = "plots/loss-r-8-by-n-items-2-threads.png"
    assert f"]({link})" in text
    assert (tmp_path / "out" / link).read_bytes().startswith(b"\x89PNG")
    # points are in no table, and in ascending order
    assert "| scan: N 10" not in text.split("### Growth")[1]
    machine = load([tmp_path / "run.json"]).machines[0]
    assert [point["value"] for point in machine.scans()["loss, R 8 by N (items)"]] == [10, 90, 300]


def test_what_is_published_is_what_the_results_say(tmp_path: Path) -> None:
    """One section for a machine, and RESULTS.md is not behind its files."""
    published = PROGRAM.parent / "RESULTS.md"
    if not (PROGRAM.parent / "results").is_dir():
        pytest.skip("results are no part of a source distribution")
    out = tmp_path / "RESULTS.md"
    subprocess.run([sys.executable, PROGRAM, "--out", out], check=True, capture_output=True)
    assert out.read_text() == published.read_text()
    headings = [line for line in out.read_text().splitlines() if line.startswith("## ")]
    assert len(headings) == len(set(headings))


def test_what_is_no_run_is_refused_or_named(tmp_path: Path, run: dict[str, Any]) -> None:
    (tmp_path / "bad.json").write_text("[1")
    done = subprocess.run([sys.executable, PROGRAM, tmp_path / "bad.json"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("report: ") and "bad.json: no json" in done.stderr
    (tmp_path / "other.json").write_text("{}")
    assert load([tmp_path / "other.json"]).ignored == {tmp_path / "other.json": "no comparisons in it"}


def test_ratios_keep_three_digits() -> None:
    assert [tables.ratio(x) for x in (0.123, 9.876, 12.34, 456.7)] == ["0.12×", "9.88×", "12.3×", "457×"]
    assert [tables.milliseconds(x) for x in (0.01234, 1.234, 1234)] == ["12.3 µs", "1.23 ms", "1.23 s"]
