"""Compares several ways to compute one thing: alternating in one process, medians, ratios and peak memory.

Machines are noisy and differ, so the ratio of medians of alternating runs is the result, not a time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

Contender = Callable[[], Any]


class Target(NamedTuple):
    """What is promised of `of` beside `over`: at least `must`, hopefully `aim`.

    kind: "time" and "memory", how many times as much `over` takes; "bandwidth", the same of a time, as a share;
    "extra", how many per cent more time than `over` `of` takes at most; "products", how many times as long at most.
    """

    over: str
    must: float
    aim: float
    kind: str = "time"
    of: str = "ours"


def verdict(got: float, must: float, aim: float) -> str:
    """How a figure, larger is better, stands to what is promised."""
    return "aim met" if got >= aim else "must met" if got >= must else "MISSED"


@dataclass
class Comparison:
    """One row of the report. `times` in seconds; `memory` the peak bytes that torch allocated during one call."""

    name: str
    times: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    targets: Sequence[Target] = ()
    # Contenders that cannot take part, with the reason
    absent: dict[str, str] = field(default_factory=dict)
    # Contenders that failed, or computed something else than ours
    errors: dict[str, str] = field(default_factory=dict)
    # What else the report should know: "rows" of one call, "epoch_rows", "scan", "axis" and "value" of a point
    facts: dict[str, Any] = field(default_factory=dict)

    def median(self, contender: str) -> float:
        return statistics.median(self.times[contender])

    def quartiles(self, contender: str) -> tuple[float, float]:
        """The first and the third: half of the runs lie between them."""
        first, _, third = statistics.quantiles(self.times[contender], n=4, method="inclusive")
        return first, third

    def percentile(self, contender: str, percent: int) -> float:
        """Of the times; with fewer than 100 runs the 99th is not far from the longest."""
        return statistics.quantiles(self.times[contender], n=100, method="inclusive")[percent - 1]

    def time_ratio(self, contender: str, of: str = "ours") -> float:
        return self.median(contender) / self.median(of)

    def memory_ratio(self, contender: str, of: str = "ours") -> float:
        return self.memory[contender] / max(1, self.memory[of])

    def record(self) -> dict[str, Any]:
        """For the json report."""
        return {
            "name": self.name,
            "median_ms": {who: 1e3 * self.median(who) for who in self.times},
            "quartiles_ms": {who: [1e3 * q for q in self.quartiles(who)] for who in self.times},
            "p99_ms": {who: 1e3 * self.percentile(who, 99) for who in self.times},
            "runs": {who: len(times) for who, times in self.times.items()},
            "peak_memory_mb": {who: size / 2**20 for who, size in self.memory.items()},
            "targets": [self.judge(target) for target in self.targets],
            "absent": self.absent,
            "errors": self.errors,
            **self.facts,
        }

    def judge(self, target: Target) -> dict[str, Any]:
        """A target beside what was measured, for the json report."""
        kind, over, of = target.kind, target.over, target.of
        if kind in ("extra", "products"):
            got = self.time_ratio(of, over)
            got = 100 * (got - 1) if kind == "extra" else got
            how = verdict(-got, -target.must, -target.aim)
        else:
            got = self.memory_ratio(over, of) if kind == "memory" else self.time_ratio(over, of)
            how = verdict(got, target.must, target.aim)
        return {
            "kind": kind, "against": over, "of": of, "must": target.must, "aim": target.aim, "got": got, "verdict": how
        }  # fmt: skip


def wall_time(call: Contender) -> float:
    """Seconds of one call on the host's clock."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def peak_memory(call: Contender) -> int:
    """Peak bytes allocated through torch's CPU allocator during one call, above what was there before it.

    Our own recycling of memory is off meanwhile: the allocator would not see it.
    """
    recording = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with _without_recycling(), recording as profile:
        result = call()
    del result
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def _without_recycling() -> AbstractContextManager[None]:
    from rearec_kernels import available_backends

    if "cpu" not in available_backends("cpu"):
        return nullcontext()
    from rearec_kernels.cpu.memory import without_recycling

    return without_recycling()


def compare(
    name: str,
    contenders: dict[str, Contender],
    *,
    targets: Sequence[Target] = (),
    absent: dict[str, str] | None = None,
    errors: dict[str, str] | None = None,
    facts: dict[str, Any] | None = None,
    seconds: float = 4.0,
    least_runs: int = 5,
    time_call: Callable[[Contender], float] = wall_time,
    memory_of: Callable[[Contender], int] | None = peak_memory,
) -> Comparison:
    """Runs the contenders in turn ("ours" is one of them) for about `seconds`, at least `least_runs` times each.

    A contender more than 20 times slower than ours runs only in every fourth turn, at least 3 times.
    `time_call` makes one call and gives its seconds, `memory_of` its peak bytes (None: memory is not measured).
    Targets of contenders that are not there are left out.
    """
    there = [target for target in targets if {target.over, target.of} <= {*contenders}]
    result = Comparison(name, targets=there, absent=absent or {}, errors=errors or {}, facts=facts or {})
    for who, call in contenders.items():
        call()  # warm-up: page faults, thread pools, lazy initialisation
        if memory_of is not None:
            result.memory[who] = memory_of(call)
        result.times[who] = []
    start, turn = time.perf_counter(), 0
    while turn < least_runs or time.perf_counter() - start < seconds:
        for who, call in contenders.items():
            if turn % 4 and len(result.times[who]) and _is_slow(result, who):
                continue
            result.times[who].append(time_call(call))
        turn += 1
        if turn >= 200:
            break
    return result


def _is_slow(result: Comparison, who: str) -> bool:
    ours = result.times["ours"]
    return len(result.times[who]) >= 3 and bool(ours) and min(result.times[who]) > 20 * min(ours)
