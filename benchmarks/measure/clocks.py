"""Clocks of a CPU and of a GPU: seconds of one call, of one out of a replay of many, peak memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from measure import compare
from rearec.engine.cuda_graphs import CudaGraphs

Call = Callable[[], Any]


@dataclass(frozen=True)
class Replay:
    """`calls` calls at once: a CUDA graph of them, or on a CPU the calls themselves."""

    run: Call
    calls: int

    def __call__(self) -> None:
        self.run()


class Clock(Protocol):
    """Attributes:
    device: where tensors are to be.
    rotated_bytes: input sets are to be this large together, so that no call finds its inputs in a cache; 0 on a CPU,
        where a step of training finds them as warm or as cold as the benchmarks do.
    replays: whether calls can be captured and replayed.
    """

    device: torch.device
    rotated_bytes: int
    replays: bool

    def call_seconds(self, call: Call) -> float:
        """One call, from an idle device until what it launched is done; launching is part of it."""
        ...

    def replay_seconds(self, replay: Replay) -> float:
        """One of the calls of a replay."""
        ...

    def capture(self, calls: Sequence[Call], count: int) -> Replay:
        """`count` calls, taken from `calls` in turn. Each of `calls` must have run before."""
        ...

    def peak_memory(self, call: Call) -> int:
        """Peak bytes allocated during one call, above what was there before it."""
        ...


class CudaClock:
    """CUDA events; replays of CUDA graphs."""

    replays = True

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.rotated_bytes = 3 * torch.cuda.get_device_properties(self.device).L2_cache_size

    def call_seconds(self, call: Call) -> float:
        torch.cuda.synchronize()
        return self._seconds(call)

    def replay_seconds(self, replay: Replay) -> float:
        torch.cuda.synchronize()
        replay()  # the device is busy with it while the next one is being launched: launching is not timed
        return self._seconds(replay) / replay.calls

    def capture(self, calls: Sequence[Call], count: int) -> Replay:
        def run() -> Tensor:
            with torch.set_grad_enabled(grad):
                for _, call in zip(range(count), itertools.cycle(calls), strict=False):
                    call()
            return token

        grad, token = torch.is_grad_enabled(), torch.empty(0, device=self.device)
        torch.cuda.empty_cache()  # a graph's memory is its own: room for it, while anything can still be freed
        return Replay(CudaGraphs(self.device)(run), count)

    def peak_memory(self, call: Call) -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        del result
        return torch.cuda.max_memory_allocated() - before

    def _seconds(self, call: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


class CpuClock:
    """The host's clock; a replay simply makes its calls."""

    replays = False

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.rotated_bytes = 0

    def call_seconds(self, call: Call) -> float:
        return compare.wall_time(call)

    def replay_seconds(self, replay: Replay) -> float:
        return compare.wall_time(replay) / replay.calls

    def capture(self, calls: Sequence[Call], count: int) -> Replay:
        def run() -> None:
            for _, call in zip(range(count), itertools.cycle(calls), strict=False):
                call()

        return Replay(run, count)

    def peak_memory(self, call: Call) -> int:
        return compare.peak_memory(call)


def clock_of(device: str) -> Clock:
    return CudaClock() if device == "cuda" else CpuClock()


def in_turn(calls: Sequence[Call]) -> Call:
    """A call that makes the next of `calls` each time."""
    turn = itertools.cycle(calls)
    return lambda: next(turn)()
