"""One way to compare contenders, on a CPU and on a GPU: who agrees with ours is timed, and the report is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from measure.agreement import Calls, agreeing, in_a_line
from measure.clocks import Clock, Replay, in_turn
from measure.compare import Comparison, Target, compare
from rearec_kernels import use_backend

Shape = TypeVar("Shape", bound=Any)

# Sizes of a problem, by the names of its fields, where only the benchmarks themselves are tried.
TINY = {"rows": 6, "items": 41, "slots": 7, "width": 16, "rows_per_prefix": 3, "dim": 16, "ffn": 20}
MOST_SECONDS_ON_A_GPU = 2.0  # of a comparison: calls are short there, and device time is dear
REPLAY_SECONDS = 1.5e-3  # that a replay is to last at least
MOST_REPLAYED_CALLS = 100


@dataclass(frozen=True)
class Contest:
    """Attributes:
    clock: of the device that is measured.
    keep: takes every comparison, and the call that is ours.
    seconds_left: of this comparison, by the budget of the whole run; infinite without one.
    tiny: tries whether everything works; the figures mean nothing.
    """

    clock: Clock
    keep: Callable[[Comparison, Any], None]
    seconds_left: Callable[[], float]
    tiny: bool = False

    @property
    def device(self) -> torch.device:
        return self.clock.device

    def backend(self, name: str) -> AbstractContextManager[None]:
        """Inside the block, on a GPU, the backend whose kernels are measured; on a CPU the usual one."""
        return use_backend(name) if self.device.type == "cuda" else nullcontext()

    def size(self, shape: Shape) -> Shape:
        """A dataclass of sizes as it is, or with those named in TINY cut down."""
        if not self.tiny:
            return shape
        known = {f.name: getattr(shape, f.name) for f in fields(shape)}
        return replace(shape, **{name: min(known[name], most) for name, most in TINY.items() if name in known})

    def sets(self, make: Callable[[int], Any], size: Callable[[Any], int]) -> list[Any]:
        """So many sets of inputs, made from a seed each, that no call finds its own in a cache; size: bytes of one."""
        first = make(0)
        count = math.ceil(self.clock.rotated_bytes / size(first))
        return [first, *(make(seed) for seed in range(1, count))]

    def __call__(
        self,
        name: str,
        contenders: Mapping[str, Calls],
        *,
        bound: float | Callable[[str], float],
        compared: Callable[[Any], Sequence[Tensor]] = lambda result: result,
        targets: Sequence[Target] = (),
        absent: Mapping[str, str] | None = None,
        failed: Mapping[str, str] | None = None,
        yardsticks: Mapping[str, Calls] | None = None,
        call_seconds: float | None = None,
        judged_by: str = "calls replays",
        memory: bool = True,
        seconds: float = 4.0,
        least_runs: int = 5,
        facts: Mapping[str, Any] | None = None,
        time_call: Callable[[Any], float] | None = None,
    ) -> None:
        """Compares single calls and, on a GPU, replays of many captured ones, which are not bound by launching.

        Args:
            bound, compared: who agrees with ours (`measure.agreement.agreeing`).
            failed: contenders that are known to be wrong, with the reason.
            yardsticks: timed beside the contenders, but they compute something else.
            call_seconds: of one call of ours on a GPU, roughly; None: no replays.
            time_call: how single calls are timed (default: by the clock of the device).
            judged_by: whether targets are for "calls", "replays" or both; those of memory are for calls.
        """
        good, errors, too_large = agreeing(contenders, bound, compared)
        for who, calls in (yardsticks or {}).items():
            for call in calls:
                call()
            good[who] = calls
        away = dict(absent or {}) | too_large
        if self.tiny:
            seconds, least_runs = 0.0, 2
        elif self.clock.replays:
            seconds = min(seconds, MOST_SECONDS_ON_A_GPU)
        seconds = min(seconds, self.seconds_left())
        replays = self._captured(good, call_seconds, away) if self.clock.replays and call_seconds else {}
        options = {
            "seconds": seconds / (2 if replays else 1),
            "least_runs": least_runs,
            "errors": dict(failed or {}) | errors,
        }
        turns = {who: in_turn(calls) for who, calls in good.items()}
        self._compare(
            f"{name}, calls" if self.clock.replays else name,
            turns,
            targets=[t for t in targets if not replays or t.kind == "memory" or "calls" in judged_by],
            absent=away,
            facts=dict(facts or {}),
            time_call=time_call or self.clock.call_seconds,
            memory_of=self.clock.peak_memory if memory else None,
            **options,
        )
        if replays:
            self._compare(
                f"{name}, replays",
                replays,
                targets=[t for t in targets if t.kind != "memory" and "replays" in judged_by],
                absent=away,
                facts=dict(facts or {}),
                time_call=self.clock.replay_seconds,
                memory_of=None,
                **options,
            )

    def _compare(self, name: str, contenders: Mapping[str, Any], **options: Any) -> None:
        self.keep(compare(name, dict(contenders), **options), contenders["ours"])

    def _captured(self, good: Mapping[str, Calls], call_seconds: float, away: dict[str, str]) -> dict[str, Replay]:
        """Without those that cannot be captured, who are named; empty when ours is one of them."""
        found: dict[str, Replay] = {}
        wanted = min(MOST_REPLAYED_CALLS, math.ceil(REPLAY_SECONDS / call_seconds))
        for who, calls in good.items():
            try:
                found[who] = self.clock.capture(calls, math.ceil(wanted / len(calls)) * len(calls))
            except Exception as error:  # what a contender does may be impossible in a graph: no fault of its own
                away[f"{who}, replays"] = f"not captured: {in_a_line(error)}"
        return found if "ours" in found else {}
