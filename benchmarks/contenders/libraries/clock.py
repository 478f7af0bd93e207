"""Processor time, wall time and memory of this process, and a clock for training steps."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any


def processor_seconds() -> float:
    """User and system time of all threads of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_memory() -> int:
    """Bytes resident at their peak, on Linux."""
    # not getrusage's, which is at least that of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


class StepClock:
    """Times training steps, each from its start to the start of the next one: loading, loss, gradients, optimiser.

    Args:
        skipped: so many steps at first do not count.
        least: measured steps at least, and ``seconds`` of processor time at least, before `enough` holds.
    """

    def __init__(self, skipped: int, least: int, seconds: float) -> None:
        self.skipped, self.least, self.seconds = skipped, least, seconds
        self.steps = self.targets = 0
        self.cpu_s = self.wall_s = 0.0
        self._started: tuple[float, float, int] | None = None

    @property
    def enough(self) -> bool:
        return self.steps >= self.least and self.cpu_s >= self.seconds

    def step(self, targets: int) -> bool:
        """A step with so many predictions begins, and the one before it ends; whether enough were measured."""
        self.pause()
        self._started = (processor_seconds(), time.perf_counter(), targets)
        return self.enough

    def pause(self) -> None:
        """The step ends and no other begins: the end of an epoch."""
        if self._started is None:
            return
        cpu, wall, targets = self._started
        self._started = None
        if self.skipped > 0:
            self.skipped -= 1
        elif not self.enough:
            self.cpu_s += processor_seconds() - cpu
            self.wall_s += time.perf_counter() - wall
            self.steps += 1
            self.targets += targets

    def record(self) -> dict[str, Any]:
        """Raises ValueError where nothing was measured."""
        if not self.steps:
            raise ValueError("training ended before a step could be measured")
        return {"steps": self.steps, "targets": self.targets, "cpu_s": self.cpu_s, "wall_s": self.wall_s}

    def __deepcopy__(self, memo: object) -> StepClock:
        return self  # trainers that copy their callbacks shall tell the time to us


class EndlessClock(StepClock):
    """For a training that ends by itself."""

    def __init__(self) -> None:
        super().__init__(0, 0, 0.0)

    @property
    def enough(self) -> bool:
        return False
