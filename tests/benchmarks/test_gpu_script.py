"""benchmarks/gpu.sh without a GPU: its parts in order, within their time, and what is left when time is up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sanitized
import torch
from report.records import load

import rearec_kernels

SCRIPT = Path(sanitized.__file__).with_name("gpu.sh")
PARTS = ["build", "tests", "sanitize", "training", "losses", "attention", "inference", "retrieval", "rollout"]


def gpu_script(*arguments: str, out: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(rearec_kernels.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = ["bash", str(SCRIPT), "--device", "cpu", "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=settings, check=False)


def parts_of(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "parts.json").read_text())["parts"]


def test_the_most_valuable_comes_first_and_leaves_time_for_the_rest(tmp_path: Path) -> None:
    done = gpu_script("--dry-run", "--seconds", "300", out=tmp_path)
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^(\w+) \((\d+) s\): ", done.stdout, re.MULTILINE))
    assert list(found) == PARTS
    assert all(int(found[part]) <= 300 - 120 for part in PARTS[:3])  # of two fifths checks take nothing
    assert int(found["training"]) == 300 * 3 // 12
    chosen = gpu_script("--dry-run", "--only", "losses,tests", out=tmp_path)
    assert re.findall(r"^(\w+) \(", chosen.stdout, re.MULTILINE) == ["tests", "losses"]
    assert not (tmp_path / "parts.json").exists()


def test_parts_write_what_they_found(tmp_path: Path) -> None:
    done = gpu_script(
        "--only", "build,sanitize,retrieval", "--seconds", "400", "--commit", "a state", out=tmp_path / "a folder"
    )
    out = tmp_path / "a folder"
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(part["part"], part["status"]) for part in parts_of(out)] == [
        (part, "passed") for part in ("build", "sanitize", "retrieval")
    ]
    assert all(part["seconds"] <= part["limit"] for part in parts_of(out))
    assert "'native'" in (out / "build.log").read_text()
    assert "problems, 0 wrong" in (out / "sanitize.log").read_text()
    record = json.loads((out / "retrieval.json").read_text())
    assert record["commit"] == "a state"
    assert {"ours", "naive"} <= set(record["comparisons"][0]["median_ms"])
    assert "top-20" in done.stdout and "tiny sizes: no figure here means anything" in done.stdout
    # tiny sizes are no results
    assert load([out / "retrieval.json"]).ignored == {out / "retrieval.json": "a dry run"}


def test_when_time_is_up_what_is_there_is_usable(tmp_path: Path) -> None:
    begin = time.monotonic()
    done = gpu_script("--only", "training,losses,attention", "--seconds", "4", out=tmp_path)
    assert time.monotonic() - begin < 60
    assert done.returncode == 1
    ended = parts_of(tmp_path)
    assert [part["part"] for part in ended] == ["training", "losses", "attention"]
    assert {part["status"] for part in ended} <= {"stopped", "no time was left"}
    assert ended[0]["limit"] == 4 * 3 // 8
    assert (tmp_path / "training.log").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--only", "losses,everything"), "--only: everything is none of build tests"),
        (("--seconds", "0"), "--seconds: got 0, expected a whole number above 0"),
        (("--device", "tpu"), "--device: got tpu, expected cuda or cpu"),
        (("--fast",), "--fast: no such option"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    done = gpu_script(*arguments, out=tmp_path)
    assert done.returncode == 2 and complaint in done.stderr and not done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = gpu_script("--device", "cuda", out=tmp_path)
    assert done.returncode == 2 and "torch sees no CUDA device; --device cpu does without" in done.stderr
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.filterwarnings("ignore:.*does not serve torch.float16")
@pytest.mark.parametrize("dtype", sanitized.DTYPES)
def test_program_for_the_sanitizers_notices_wrong_results(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, device = (3, 7, 5, 2, 2, 32, 3, 1), torch.device("cpu")
    error, allowed = sanitized.errors(shape, dtype, device, dropout_p=0.4)
    assert 0 < error <= allowed
    right = sanitized.results
    monkeypatch.setattr(sanitized, "results", lambda *x: [*right(*x)[:-1], right(*x)[-1] * (1 + 2 * allowed)])
    error, allowed = sanitized.errors(shape, dtype, device, dropout_p=0.4)
    assert error > allowed
