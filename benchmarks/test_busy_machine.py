"""Two threads and one, on an idle machine and on one whose processors others use too.

Every run is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from busy_steps import STEPS
from measure.compare import Target, compare

PROGRAM = Path(__file__).with_name("busy_steps.py")
BURN = "import time\nend = time.time() + 1800\nwhile time.time() < end: pass"
# Mean, not median, under load: what two threads suffer there is that some steps take a hundred times as long.
FIGURE = {"idle": "seconds", "busy": "mean"}


@contextmanager
def machine(state: str) -> Iterator[None]:
    """With two processes for each processor that do nothing but take it, where it is to be busy."""
    count = 2 * len(os.sched_getaffinity(0)) if state == "busy" else 0
    others = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def run(what: str, threads: int, state: str) -> Callable[[], float]:
    """Seconds of a step."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, str(PROGRAM), what, "--threads", str(threads)]

    def seconds() -> float:
        out = subprocess.run(command, env=settings, capture_output=True, text=True, check=True).stdout
        return float(json.loads(out)[FIGURE[state]])

    return seconds


@pytest.mark.parametrize("what", STEPS)
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_two_threads(what: str, state: str, report: Any) -> None:
    contenders = {"ours": run(what, 2, state), "ours, 1 thread": run(what, 1, state)}
    with machine(state):
        comparison = compare(
            f"{what} step by two threads, {state} machine",
            contenders,
            targets=[Target("ours, 1 thread", 1 / 1.5, 1.0)] if state == "busy" else [],
            seconds=60,
            least_runs=5,
            time_call=lambda call: call(),
            memory_of=None,
        )
    report(comparison)
