"""``rearec recommend --input`` with parquet: the answers of single histories, part by part, resumed by part."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest
from patience import PATIENCE

import rearec


@pytest.fixture(scope="module")
def model(run_folder: Path) -> rearec.FittedModel:
    return rearec.load(run_folder)


@pytest.fixture
def folder(model: rearec.FittedModel, tmp_path: Path) -> Path:
    """Three parts in folders of Hive, of 3, 0 and 2 histories, one of them unknown and one empty."""
    ids = model.catalog.item_ids
    histories = [ids[:3], [], ["no such item", ids[5]], [ids[7]], ids[2:9]]
    for number, rows in enumerate(([0, 1, 2], [], [3, 4])):
        part = tmp_path / "in" / f"day={number}" / "events.parquet"
        part.parent.mkdir(parents=True)
        frame = pl.DataFrame(
            {"customer": rows, "history": [histories[row] for row in rows]},
            schema={"customer": pl.Int64, "history": pl.List(pl.String)},
        )
        frame.write_parquet(part)
    return tmp_path / "in"


def answers_in(output: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted(output.glob("part-*.parquet"))])


def test_answers_are_those_of_each_history(
    model: rearec.FittedModel, run_folder: Path, folder: Path, tmp_path: Path, call_rearec: Any
) -> None:
    done = call_rearec("recommend", run_folder, "--input", folder, "--output", tmp_path / "out", "-k", "4", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "output": str(tmp_path / "out"), "parts": 3, "histories": 5, "by_model": 4, "by_popularity": 1,
        "unknown_items": 1,
    }  # fmt: skip
    found = answers_in(tmp_path / "out")
    assert found["customer"].to_list() == [0, 1, 2, 3, 4]
    given = pl.concat([pl.read_parquet(path, hive_partitioning=False) for path in sorted(folder.rglob("*.parquet"))])
    for row, history in zip(found.iter_rows(named=True), given["history"].to_list(), strict=True):
        (expected,) = model.recommend([history], k=4)
        assert (row["items"], row["unknown"], row["source"]) == (expected.items, expected.unknown, expected.source)
        assert row["scores"] == pytest.approx(expected.scores, rel=1e-5)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "_answers.json", "_SUCCESS", *(f"part-0000{number}-events.parquet" for number in range(3)),
    }  # fmt: skip


def test_a_command_that_was_ended_goes_on(run_folder: Path, folder: Path, tmp_path: Path, call_rearec: Any) -> None:
    out = tmp_path / "out"
    command = ("recommend", run_folder, "--input", folder / "day=*" / "*.parquet", "--output", out, "-k", "4")
    assert call_rearec(*command).returncode == 0
    before, kept = answers_in(out), (out / "part-00000-events.parquet").stat().st_mtime_ns
    (out / "part-00002-events.parquet").unlink()
    (out / "_SUCCESS").unlink()
    again = call_rearec(*command)
    assert again.returncode == 0 and "2 of 3 parts are answered already" in again.stderr
    assert answers_in(out).equals(before) and (out / "_SUCCESS").exists()
    assert (out / "part-00000-events.parquet").stat().st_mtime_ns == kept


def test_answers_to_something_else_are_not_mixed(
    run_folder: Path, folder: Path, tmp_path: Path, call_rearec: Any
) -> None:
    out = tmp_path / "out"
    command = ("recommend", run_folder, "--input", folder, "--output", out)
    assert call_rearec(*command, "-k", "4").returncode == 0
    refused = call_rearec(*command, "-k", "5")
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1] == (
        f"error: {out}: holds answers of another model, to other options or another input; choose another folder, or "
        "replace them with --force"
    )
    assert call_rearec(*command, "-k", "5", "--force").returncode == 0
    assert answers_in(out)["items"].list.len().to_list() == [5] * 5
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    strange = call_rearec("recommend", run_folder, "--input", folder, "--output", tmp_path / "other", "--force")
    assert strange.returncode == 2 and "holds no answers of 'rearec recommend'" in strange.stderr
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine.txt"]


def spoil(kind: str, part: Path) -> None:
    frame = pl.read_parquet(part)
    if kind == "cut":
        part.write_bytes(part.read_bytes()[:-7])
    elif kind == "column":
        frame.rename({"history": "items"}).write_parquet(part)
    elif kind == "kind":
        frame.with_columns(history=pl.lit("17")).write_parquet(part)
    elif kind == "schema":
        frame.with_columns(pl.col("customer").cast(pl.String)).write_parquet(part)
    elif kind == "missing":
        frame.with_columns(
            history=pl.when(pl.col("customer") == 4).then(None).otherwise(pl.col("history"))
        ).write_parquet(part)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "not a readable parquet file"),
        ("column", "column 'history': there is none, expected lists of ids, texts or integers"),
        ("kind", "column 'history': it holds String, expected lists of ids"),
        ("schema", "column 'customer' is not as in "),
        ("missing", "row 2: no history; expected a list of ids, which may be empty"),
    ],
)
def test_a_wrong_part_is_one_line(
    run_folder: Path, folder: Path, tmp_path: Path, call_rearec: Any, kind: str, message: str
) -> None:
    part = folder / "day=2" / "events.parquet"
    spoil(kind, part)
    done = call_rearec("recommend", run_folder, "--input", folder, "--output", tmp_path / "out")
    assert done.returncode == 2
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith(f"error: {part}: ") and message in error
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert not (tmp_path / "out" / "part-00002-events.parquet").exists()


def test_processes_are_for_parts(run_folder: Path, tmp_path: Path, call_rearec: Any) -> None:
    done = call_rearec("recommend", run_folder, "--user", "1", "--devices", "2")
    assert done.returncode == 2 and "--devices, --nodes and --engine are for parquet files" in done.stderr
    (tmp_path / "empty").mkdir()
    done = call_rearec("recommend", run_folder, "--input", tmp_path / "empty", "--output", tmp_path / "out")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1


def test_ray_that_is_not_installed(run_folder: Path, folder: Path, tmp_path: Path, call_rearec: Any) -> None:
    with patch("rearec.inference.ray_parts.importlib.util.find_spec", lambda name: None):
        done = call_rearec("recommend", run_folder, "--input", folder, "--output", tmp_path / "out", "--engine", "ray")
    assert (done.returncode, done.stderr) == (
        2, "error: --engine ray: the package ray is not installed; pip install 'rearec[ray]'\n",
    )  # fmt: skip


def actors_of(parent: int) -> list[int]:
    """Processes of Ray that answer parts, started below a process."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        try:
            names[int(entry.name)] = (entry / "cmdline").read_bytes()
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (ValueError, OSError):
            continue

    def is_below(process: int) -> bool:
        while process not in (0, parent):
            process = parents.get(process, 0)
        return process == parent

    return [process for process, name in names.items() if b"MapWorker" in name and is_below(process)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds Ray's processes in /proc")
def test_ray_answers_everybody_once_though_an_actor_is_killed(
    model: rearec.FittedModel, run_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs Ray (extra 'test' or 'ray')")
    ids = model.catalog.item_ids
    (tmp_path / "in").mkdir()
    for number in range(12):
        users = [f"{number}-{user}" for user in range(1500)]
        histories = [[ids[(user + number) % len(ids)], ids[user % 7]] for user in range(1500)]
        pl.DataFrame({"user": users, "history": histories}).write_parquet(tmp_path / "in" / f"{number}.parquet")
    out = tmp_path / "out"
    command = ("recommend", run_folder, "--input", tmp_path / "in", "--output", out, "-k", "3", "--engine", "ray")
    running = subprocess.Popen(
        [sys.executable, "-m", "rearec", *map(str, command), "--devices", "2", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    killed, deadline = 0, time.monotonic() + PATIENCE
    while not killed and running.poll() is None and time.monotonic() < deadline:
        if len(list(out.glob("part-*"))) >= 2 and (actors := actors_of(running.pid)):
            os.kill(killed := max(actors), signal.SIGKILL)
        time.sleep(0.05)
    printed, said = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, said
    assert killed and json.loads(printed)["parts"] == 12
    found = answers_in(out)
    assert sorted(found["user"]) == sorted(f"{number}-{user}" for number in range(12) for user in range(1500))
    assert found["items"].list.len().unique().to_list() == [3]
    assert (out / "_SUCCESS").exists()
