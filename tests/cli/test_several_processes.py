"""``rearec train`` and ``rearec evaluate`` in several processes: one voice, one exit code, whatever happens to whom."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from safetensors.torch import load_file

OPTIONS = (
    *("--method", "prl", "--steps", "1", "--dim", "8", "--ffn", "8", "--layers", "1", "--max-len", "8"),
    *("--batch-size", "64", "--logger", "none", "--prior", "none", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def run(prepared: Path, tmp_path_factory: pytest.TempPathFactory, run_rearec: Any) -> Path:
    """A training by two processes, which say what one would say."""
    out = tmp_path_factory.mktemp("several") / "run"
    done = run_rearec("train", prepared, "--out", out, *OPTIONS, "--epochs", "2", "--devices", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch   1") == done.stderr.count("epoch   2") == 1
    assert "warning" not in done.stderr and "distributed" not in done.stderr
    assert done.stdout.count(f"written to {out}") == 1
    return out


def test_metrics_of_two_processes_are_those_of_one(run: Path, call_rearec: Any, run_rearec: Any) -> None:
    one = call_rearec("evaluate", run, "--json", "--device", "cpu")
    two = run_rearec("evaluate", run, "--json", "--device", "cpu", "--devices", "2")
    assert two.returncode == 0, two.stderr
    assert json.loads(one.stdout) == json.loads(two.stdout)


def test_the_analyses_of_two_processes_are_those_of_one(
    run: Path, tmp_path: Path, call_rearec: Any, run_rearec: Any
) -> None:
    found = {}
    for name, rearec, options in (("one", call_rearec, ()), ("two", run_rearec, ("--devices", "2"))):
        out = tmp_path / name
        done = rearec("analyze", run, "all", "--out", out, "--json", "--rows", "100", "--device", "cpu", *options)
        answer = json.loads(done.stdout)
        assert answer["result"].pop("latency")
        files = {file.name: file.read_bytes() for file in out.iterdir() if not file.name.startswith("latency")}
        found[name] = answer["result"], files
    assert found["one"] == found["two"]


def test_processes_share_the_item_table(run: Path, prepared: Path, tmp_path: Path, run_rearec: Any) -> None:
    """And say what one would."""
    asked = ("train", prepared, "--out", tmp_path / "run", *OPTIONS, "--epochs", "1", "--json")
    done = run_rearec(*asked, "--devices", "2", "--shard-catalog")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()
    parameters = json.loads((run / "result.json").read_text())["parameters"]
    assert json.loads(done.stdout)["parameters"] == parameters
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert sum(x.numel() for x in weights.values()) == parameters


def test_what_cannot_share_the_item_table_is_told_once(prepared: Path, tmp_path: Path, run_rearec: Any) -> None:
    """The usual training has a graph prior."""
    asked = ("train", prepared, "--out", tmp_path / "run", "--device", "cpu", "--devices", "2")
    done = run_rearec(*asked, "--shard-catalog")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert line.startswith("error: --shard-catalog: --prior graph, the usual choice, is fitted by") and "none" in line
    assert not (tmp_path / "run").exists()


def test_an_error_of_all_is_told_once(tmp_path: Path, run_rearec: Any) -> None:
    done = run_rearec("evaluate", tmp_path / "nothing", "--devices", "2")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/nothing: no such folder; expected the RUN folder of a training")


def test_a_killed_process_ends_the_others(prepared: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rearec", "train", str(prepared), "--out", str(tmp_path / "run"), *OPTIONS]
    started = subprocess.Popen(
        [*command, "--epochs", "100", "--patience", "100", "--devices", "2", "--timeout", "60"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert started.stderr is not None
    for line in started.stderr:
        if "epoch   2" in line:
            break
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    workers = [int(child) for child in children if b"train" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(max(workers), signal.SIGKILL)
    rest = started.stderr.read()
    assert started.wait(PATIENCE) == 1
    errors = [line for line in rest.splitlines() if not line.startswith("epoch")]
    assert len(errors) == 1 and errors[0].startswith("error: process ") and "was ended by SIGKILL" in errors[0]
    assert errors[0].endswith("a training goes on with --resume")
    assert not (tmp_path / "run" / "result.json").exists() and (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--devices", "2"), "error: --devices 2 --nodes 1: 1 processes were started, 1 on this machine; leave"),
        (("--device", "cuda:1"), "error: --device: got cuda:1, expected cuda without a number"),
    ],
)
def test_processes_that_were_started_otherwise(
    prepared: Path, tmp_path: Path, run_rearec: Any, options: tuple[str, ...], message: str
) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    done = run_rearec("train", prepared, "--out", tmp_path / "run", *OPTIONS[:-2], *options, **place)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(message)


def test_the_work_of_one_process_is_refused_in_several(tmp_path: Path, run_rearec: Any) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    done = run_rearec("sample", "--out", tmp_path / "events.csv", **place)
    assert (done.returncode, done.stderr) == (
        2, "error: sample: 2 processes were started, and it is the work of one; train, refit, evaluate, analyze and "
        "recommend are shared by several\n",
    )  # fmt: skip
    assert not (tmp_path / "events.csv").exists()
