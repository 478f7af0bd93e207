"""benchmarks/gpu.py without a GPU: its dry run, the form of its record, its cases and its clock."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu
import naive
import pytest
import torch
from on_gpu import report, timing
from on_gpu.attention import Inputs, Shape, one_step
from on_gpu.cases import AGREEMENT, cases
from on_gpu.sizes import DRY
from patience import PATIENCE

SCRIPT = Path(gpu.__file__)
# By module: compat stands in for FlashAttention, which has the same signature.
STAND_INS = {
    "flash_attn": "from rearec_kernels.compat import flash_attn_with_kvcache",
    "liger_kernel/transformers": """
from torch.nn.functional import cross_entropy
def LigerFusedLinearCrossEntropyLoss():
    return lambda weight, hidden, target: cross_entropy(hidden @ weight.T, target)
""",
    "cut_cross_entropy": """
from torch.nn.functional import cross_entropy
def linear_cross_entropy(hidden, weight, target):
    return cross_entropy(hidden @ weight.T, target)
""",
}


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The finished process and its folder; what may be absent on a machine has a stand-in."""
    folder = tmp_path_factory.mktemp("gpu")
    for module, text in STAND_INS.items():
        stand_in = folder / "imports" / module / "__init__.py"
        stand_in.parent.mkdir(parents=True)
        stand_in.write_text(text, encoding="utf-8")
    command = [sys.executable, str(SCRIPT), "--dry-run", "--out", str(folder / "out"), "--commit", "abc"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder / "imports"))
        patch.delenv("TRITON_INTERPRET", raising=False)
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=PATIENCE, check=False)
    return done, folder / "out"


@pytest.fixture(scope="module")
def record(dry_run: tuple[subprocess.CompletedProcess[str], Path]) -> dict[str, Any]:
    done, out = dry_run
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_dry_run_measures_every_case(record: dict[str, Any]) -> None:
    assert record["dry_run"] is True and record["passed"] is True and record["commit"] == "abc"
    assert list(record["stages"]) == list(gpu.STAGES)
    assert report.problems(record) == []
    clock = timing.CpuClock()
    for stage in gpu.MEASUREMENTS:
        measured = [case["name"] for case in record["stages"][stage]["cases"]]
        assert measured == [case.name for case in cases(stage, clock, DRY)]
        for case in record["stages"][stage]["cases"]:
            assert not case.get("error") and not case.get("errors"), case


def test_dry_run_compares_with_every_contender(record: dict[str, Any]) -> None:
    def contenders(stage: str) -> dict[str, set[str]]:
        return {case["name"]: set(case["calls"]["median_ms"]) for case in record["stages"][stage]["cases"]}

    for stage in ("forward", "shared"):
        for name, found in contenders(stage).items():
            flash = set() if "float32" in name else {"FlashAttention"}
            assert found == {"ours", "naive", "SDPA"} | flash, name
    assert all(found >= {"ours", "naive", "SDPA"} for found in contenders("training").values())
    assert all(found == {"ours", "ours, no graph", "naive"} for found in contenders("rollout").values())
    for stage in ("training", "losses", "retrieval"):
        for case in record["stages"][stage]["cases"]:
            memory = case["calls"]["peak_memory_mb"]
            assert set(memory) == set(case["calls"]["median_ms"]) and min(memory.values()) > 0


def test_dry_run_compares_losses_and_retrieval_with_every_contender(record: dict[str, Any]) -> None:
    torchs = {"F.linear_cross_entropy": hasattr(torch.nn.functional, "linear_cross_entropy")}
    torchs["F.linear_cross_entropy, chunked"] = hasattr(torch.nn, "LinearCrossEntropyOptions")
    there = {who for who, is_there in torchs.items() if is_there}
    for case in record["stages"]["losses"]["cases"]:
        expected = {"ours", "naive"}
        if "bf16" in case["name"]:
            expected |= {"torch.compile"} if "cross-entropy" in case["name"] else set()
            expected |= {"product"} if "InfoNCE" not in case["name"] else set()
        if "T 1" in case["name"]:
            expected |= there | {"Liger-Kernel", "cut-cross-entropy"}
            assert set(case["absent"]) == set(torchs) - there
        for kind in ("calls", "replays"):
            assert set(case[kind]["median_ms"]) == expected, case["name"]
        assert ("products" in case) == ("product" in expected)
    for case in record["stages"]["retrieval"]["cases"]:
        assert set(case["calls"]["median_ms"]) == {"ours", "mm + topk" if "top-" in case["name"] else "mm + count"}
        assert case["bandwidth"]["ceiling"] == "read"


def test_targets_of_losses_and_retrieval(record: dict[str, Any]) -> None:
    def targets(stage: str, start: str, kind: str = "calls") -> dict[tuple[str, str], tuple[float, float]]:
        case = next(case for case in record["stages"][stage]["cases"] if case["name"].startswith(start))
        return {(t["kind"], t["against"]): (t["must"], t["aim"]) for t in case[kind]["targets"]}

    loss = record["stages"]["losses"]["cases"]
    products = {
        case["name"].split()[0]: case["products"] for case in loss if "products" in case and "T 3" in case["name"]
    }
    limits = {name: (got["must"], got["aim"]) for name, got in products.items()}
    assert limits == {"cross-entropy": (9, 5.5), "ensemble": (12, 7)}
    times = {("time", "naive"): (2.5, 5), ("time", "torch.compile"): (1, 1.3)}
    assert targets("losses", "cross-entropy T 3") == times | {("memory", "naive"): (20, 20)}
    assert targets("losses", "cross-entropy T 3", "replays") == times
    assert targets("losses", "ensemble T 3") == {("time", "naive"): (5, 12), ("memory", "naive"): (60, 60)}
    assert targets("losses", "InfoNCE T 2") == {("time", "naive"): (1.5, 3)}
    plain = targets("losses", "cross-entropy T 1")
    assert {("time", "Liger-Kernel"), ("time", "cut-cross-entropy")} <= set(plain) and set(plain.values()) == {(1, 1.3)}
    assert targets("retrieval", "top-") == {("time", "mm + topk"): (3, 8)}
    assert targets("retrieval", "rank") == {}


def test_dry_run_says_what_it_is_and_prints_the_commands(
    dry_run: tuple[subprocess.CompletedProcess[str], Path], record: dict[str, Any]
) -> None:
    done, out = dry_run
    assert done.stdout.count("dry run: no figure here is a GPU figure") == 2
    texts = ["REAREC_CUDA_ARCHS=90a", "pip", "kernels/test_attention.py", "-k triton", "kernels/test_catalog_topk.py"]
    for text in [*texts, "--tool memcheck", "--tool racecheck"]:
        assert text in done.stdout
    assert [record["stages"][stage]["status"] for stage in gpu.CHECKS] == ["printed"] * 3
    assert {path.suffix for path in out.iterdir()} == {".json", ".log"}


def test_dry_run_never_writes_to_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--dry-run"])
    assert stopped.value.code == 2 and "needs --out" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="torch sees no CUDA device"):
        gpu.main(["--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


REMOVALS: list[Callable[[dict[str, Any]], Any]] = [
    lambda record: record.pop("machine"),
    lambda record: record["stages"]["forward"].pop("seconds"),
    lambda record: record["stages"]["training"]["cases"].clear(),
    lambda record: record["stages"]["forward"]["cases"][0]["bandwidth"].pop("bytes"),
    lambda record: record["stages"]["shared"]["cases"][0].pop("replays"),
    lambda record: record["stages"]["rollout"]["cases"][0]["calls"]["median_ms"].pop("ours"),
    lambda record: record["stages"]["training"]["cases"][0]["calls"]["targets"][0].pop("verdict"),
    lambda record: record["stages"]["losses"]["cases"][0]["products"].pop("count"),
    lambda record: record["stages"]["losses"]["cases"][0].pop("out_of_memory"),
    lambda record: record["stages"]["retrieval"]["cases"][0].pop("bandwidth"),
    lambda record: record["stages"]["build"].update(status="passed"),
]


@pytest.mark.parametrize("remove", REMOVALS)
def test_an_incomplete_record_is_noticed(record: dict[str, Any], remove: Callable[[dict[str, Any]], Any]) -> None:
    incomplete = copy.deepcopy(record)
    remove(incomplete)
    assert report.problems(incomplete)


def test_bytes_that_one_step_must_move() -> None:
    def step_bytes(rows: int, prefixes: int, ragged: bool) -> tuple[Inputs, int]:
        inputs = Inputs(Shape(rows, prefixes, 50, 2, 128, 1, torch.bfloat16, ragged), torch.device("cpu"), 0)
        return inputs, inputs.step_bytes()

    assert step_bytes(64, 64, ragged=False)[1] == 64 * (2 * 50 + 6) * 512
    inputs, size = step_bytes(64, 64, ragged=True)
    assert size == (2 * int(inputs.seen.sum()) + 6 * 64) * 512
    assert bool(inputs.seen[:, -1].all()) and int(inputs.seen.sum(1).min()) >= 5  # left-padded
    inputs, size = step_bytes(64, 8, ragged=True)
    union = torch.stack([inputs.seen[inputs.row_prefix == prefix].any(0) for prefix in range(8)])
    assert size == (2 * int(union.sum()) + 6 * 64) * 512


def test_a_contender_that_disagrees_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    right = naive.attention_steps
    bound = AGREEMENT[torch.float32]
    monkeypatch.setattr(naive, "attention_steps", lambda *x: [out * (1 + 10 * bound) for out in right(*x)])
    case = next(cases("forward", timing.CpuClock(), DRY))
    found = case.measure(0.0)
    assert "differs from ours" in found["errors"]["naive"]
    assert "naive" not in found["calls"]["median_ms"] and "SDPA" in found["calls"]["median_ms"]


def test_flash_attention_may_be_absent() -> None:
    inputs = Inputs(Shape(2, 2, 5, 1, 8, 1, torch.bfloat16, True), torch.device("cpu"), 0)
    contenders, absent = one_step([inputs])
    assert "FlashAttention" not in contenders and "not importable" in absent["FlashAttention"]


# --- CUDA's clock, on stand-ins ---


class HostEvent:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: HostEvent) -> float:
        return 1e3 * (end.time - self.time)


@pytest.fixture
def cuda_clock(monkeypatch: pytest.MonkeyPatch) -> timing.CudaClock:
    for name, stand_in in {
        "synchronize": lambda: None,
        "Event": HostEvent,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 100,
        "max_memory_allocated": lambda: 350,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(timing, "CudaGraphs", lambda device: lambda run: lambda: run())
    clock = object.__new__(timing.CudaClock)
    clock.device, clock.rotated_bytes = torch.device("cpu"), 1
    return clock


def test_cuda_clock(cuda_clock: timing.CudaClock) -> None:
    made: list[str] = []

    def call(name: str) -> Callable[[], None]:
        return lambda: (time.sleep(0.005), made.append(f"{name}{torch.is_grad_enabled():d}"))[1]

    assert 0.004 < cuda_clock.call_seconds(call("a")) < 1
    assert cuda_clock.peak_memory(call("b")) == 250
    made.clear()
    replay = cuda_clock.capture([call("a"), call("b")], 3)
    with torch.no_grad():
        assert 0.004 < cuda_clock.replay_seconds(replay) < 1
    assert made == ["a1", "b1", "a1"] * 2  # one replay before the one that is timed, with the gradients of the capture
