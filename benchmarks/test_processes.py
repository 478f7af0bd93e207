"""Two processes of one thread beside one process of one thread: a training step, and the ranking of all test rows.

Every run is a process, or a group of processes, of its own (`process_work.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from measure.compare import Target, compare

PROGRAM = Path(__file__).with_name("process_work.py")
SEVERAL = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
TARGETS = {"train": Target("one process", 1.6, 1.85), "evaluate": Target("one process", 1.7, 1.9)}


def run(work: str, dim: int, processes: int) -> Callable[[], float]:
    """Seconds of the work."""
    launcher = () if processes == 1 else (*SEVERAL, str(processes))
    command = [sys.executable, *launcher, str(PROGRAM), work, "--dim", str(dim)]

    def seconds() -> float:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        return float(json.loads(out.splitlines()[-1])["seconds"])

    return seconds


@pytest.mark.parametrize("dim", [64, 256])
@pytest.mark.parametrize("work", TARGETS)
def test_scale_of_two_processes(work: str, dim: int, report: Any) -> None:
    comparison = compare(
        f"{work}, Beauty-like, prl, d {dim}: two processes",
        {"ours": run(work, dim, 2), "one process": run(work, dim, 1)},
        targets=[TARGETS[work]],
        seconds=150,
        least_runs=4,
        time_call=lambda call: call(),
        memory_of=None,
    )
    report(comparison)
