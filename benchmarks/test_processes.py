"""Two processes of one thread beside one process of one thread: a training step, and the ranking of all test rows.

And the memory of a training, where two processes hold the item table together.

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
from measure.compare import Comparison, Target, compare

PROGRAM = Path(__file__).with_name("process_work.py")
SEVERAL = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
# Times as much memory as one of two processes needs: at most 0.6 of it, hopefully 0.55.
MEMORY = Target("one process", 1 / 0.6, 1 / 0.55, kind="memory")
TARGETS = {"train": Target("one process", 1.6, 1.85), "evaluate": Target("one process", 1.7, 1.9)}


def run(work: str, dim: int, processes: int, *more: str) -> Callable[[], dict[str, Any]]:
    """What the work took."""
    launcher = () if processes == 1 else (*SEVERAL, str(processes))
    command = [sys.executable, *launcher, str(PROGRAM), work, "--dim", str(dim), *more]

    def taken() -> dict[str, Any]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    return taken


@pytest.mark.parametrize("dim", [64, 256])
@pytest.mark.parametrize("work", TARGETS)
def test_scale_of_two_processes(work: str, dim: int, report: Any) -> None:
    comparison = compare(
        f"{work}, Beauty-like, prl, d {dim}: two processes",
        {"ours": run(work, dim, 2), "one process": run(work, dim, 1)},
        targets=[TARGETS[work]],
        seconds=60,
        least_runs=2,
        time_call=lambda call: float(call()["seconds"]),
        memory_of=None,
    )
    report(comparison)


def test_scale_of_memory(report: Any) -> None:
    """The most that the larger of two processes has had, all included, and what that is without what it began with."""
    found = {"ours": run("memory", 64, 2, "--shard-catalog")(), "one process": run("memory", 64, 1)()}
    report(
        Comparison(
            "memory of a training, erl, K 2, a million items, d 64: two processes with a part of the table each",
            memory={who: max(taken["most"]) for who, taken in found.items()},
            targets=[MEMORY],
            facts={"before_mb": {who: max(taken["before"]) / 2**20 for who, taken in found.items()}},
        )
    )
