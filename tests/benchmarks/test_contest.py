"""How the benchmarks of kernels measure: who takes part, by which clock, and what a GPU's clock does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contenders.attention_inputs import Inputs, Shape
from contenders.loss_inputs import Inputs as LossInputs
from contenders.loss_inputs import Shape as LossShape
from measure import clocks
from measure.agreement import agreeing
from measure.compare import Comparison, Target
from measure.contest import Contest

ONE = torch.ones(3)


def fails() -> torch.Tensor:
    raise RuntimeError("it broke\nin several lines")


def does_not_fit() -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


CONTENDERS: dict[str, Any] = {
    "ours": [lambda: [ONE], lambda: [ONE]],
    "close": [lambda: [ONE * 1.001], lambda: [ONE]],
    "far": [lambda: [ONE * 1.1], lambda: [ONE]],
    "nan": [lambda: [ONE * math.nan], lambda: [ONE]],
    "broken": [fails, fails],
    "large": [does_not_fit, does_not_fit],
}


def test_only_those_that_agree_take_part() -> None:
    good, failed, too_large = agreeing(CONTENDERS, 0.01)
    assert [*good] == ["ours", "close"] and {*failed} == {"far", "nan", "broken"}
    assert failed["broken"] == "RuntimeError: it broke"
    assert failed["far"] == "Disagreement: differs from ours by 1.0e-01, expected 1e-02 at most"
    assert too_large == {"large": "does not fit: OutOfMemoryError: CUDA out of memory"}
    good, *_ = agreeing(CONTENDERS, lambda who: 0.2 if who == "far" else 0.0001)
    assert [*good] == ["ours", "far"]


def contest_with(clock: clocks.Clock, **options: Any) -> tuple[Contest, list[Comparison]]:
    kept: list[Comparison] = []
    return Contest(clock, lambda comparison, _: kept.append(comparison), lambda: 0.0, **options), kept


def test_a_cpu_times_calls_and_judges_them() -> None:
    contest, kept = contest_with(clocks.CpuClock(), tiny=True)
    targets = [Target("close", 1e-9, 1e-8), Target("absent", 1, 1), Target("close", 0.5, 1e9, kind="memory")]
    contest("work", CONTENDERS, bound=0.01, targets=targets, call_seconds=1e-6)
    (found,) = kept
    assert found.name == "work" and {*found.times} == {"ours", "close"} and len(found.times["ours"]) == 2
    assert {*found.errors} == {"far", "nan", "broken"} and {*found.absent} == {"large"}
    judged = found.record()["targets"]
    assert [target["kind"] for target in judged] == ["time", "memory"] and judged[0]["verdict"] == "aim met"


def test_sets_of_inputs_fill_what_a_clock_rotates() -> None:
    contest, _ = contest_with(clocks.CpuClock())
    assert contest.sets(lambda seed: seed, lambda _: 10) == [0]
    contest.clock.rotated_bytes = 31
    assert contest.sets(lambda seed: seed, lambda _: 10) == [0, 1, 2, 3]


def test_tiny_sizes_are_no_larger_than_the_case() -> None:
    contest, _ = contest_with(clocks.CpuClock(), tiny=True)
    shape = contest.size(Shape(2048, 3, ragged=True, rows_per_prefix=8))
    assert (shape.rows, shape.slots, shape.prefixes, shape.steps) == (6, 7, 2, 3)
    assert contest.size(LossShape(4, 0)).items == 0


def test_bytes_that_one_step_must_move() -> None:
    def inputs(ragged: bool, rows_per_prefix: int = 1) -> Inputs:
        shape = Shape(64, 1, ragged, torch.bfloat16, rows_per_prefix)
        return Inputs(shape, torch.device("cpu"), 0)

    assert inputs(ragged=False).step_bytes() == 64 * (2 * 50 + 6) * 512
    own = inputs(ragged=True)
    assert own.step_bytes() == (2 * int(own.seen.sum()) + 6 * 64) * 512
    assert bool(own.seen[:, -1].all()) and int(own.seen.sum(1).min()) >= 5  # left-padded
    shared = inputs(ragged=True, rows_per_prefix=8)
    union = torch.stack([shared.seen[shared.row_prefix == prefix].any(0) for prefix in range(8)])
    assert shared.step_bytes() == (2 * int(union.sum()) + 6 * 64) * 512


def test_tf32_is_allowed_to_plain_pytorch_only_there() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    seen: list[str] = []
    inputs = LossInputs(LossShape(3, 7, 1, 8))

    def loss() -> torch.Tensor:
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        return inputs.hidden.sum() + inputs.table.sum()

    for precision in ("tf32", "fp32"):
        inputs.plain(loss, precision=precision)()
    assert seen == ["tf32", before] and torch.backends.cuda.matmul.fp32_precision == before


# The clock of a GPU, on stand-ins


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
def cuda_clock(monkeypatch: pytest.MonkeyPatch) -> clocks.CudaClock:
    for name, stand_in in {
        "synchronize": lambda: None,
        "Event": HostEvent,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 100,
        "max_memory_allocated": lambda: 350,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(clocks, "CudaGraphs", lambda device: lambda run: lambda: run())
    clock = object.__new__(clocks.CudaClock)
    clock.device, clock.rotated_bytes = torch.device("cpu"), 1
    return clock


def test_a_gpu_times_calls_and_replays(cuda_clock: clocks.CudaClock) -> None:
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


def test_a_gpu_is_judged_by_the_replays_where_a_case_says_so(
    cuda_clock: clocks.CudaClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest, kept = contest_with(cuda_clock, tiny=True)
    targets = [Target("close", 1, 1), Target("close", 1, 1, kind="memory")]
    contest("work", CONTENDERS, bound=0.01, targets=targets, call_seconds=1.0, judged_by="replays")
    assert [c.name for c in kept] == ["work, calls", "work, replays"]
    assert [[target.kind for target in c.targets] for c in kept] == [["memory"], ["time"]]
    kept.clear()
    monkeypatch.setattr(clocks, "CudaGraphs", lambda device: lambda run: fails())
    contest("work", CONTENDERS, bound=0.01, targets=targets, call_seconds=1.0, judged_by="replays")
    (only,) = kept
    assert [target.kind for target in only.targets] == ["time", "memory"]
    assert only.absent["ours, replays"] == "not captured: RuntimeError: it broke"
