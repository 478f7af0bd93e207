"""Threads on processors that others use too: no time spun away, nothing of the process changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from rearec_kernels import native

PROGRAM = """
import json, os, subprocess, sys, time
import torch
from rearec_kernels import annealed_cross_entropy, native

threads, busy, patience = int(sys.argv[1]), sys.argv[2] == "busy", float(sys.argv[3])
torch.set_num_threads(threads)
environment = dict(os.environ)
hidden, target = torch.randn(512, 3, 16, requires_grad=True), torch.randint(0, 3000, (512,))
weight = torch.randn(3000, 16, requires_grad=True)

def step():
    return torch.autograd.grad(annealed_cross_entropy(hidden, weight, target, temperature=0.07), (hidden, weight))

before = step()
burn = [sys.executable, "-c", "import time; end = time.time() + 60\\nwhile time.time() < end: pass"]
others = [subprocess.Popen(burn) for _ in range(2 * os.cpu_count() * busy)]
try:
    slept, end = False, time.time() + patience
    while not slept and time.time() < end:
        step()
        slept = native.C.waits_asleep()
        if threads == 1 or not busy:
            break
    spent, steps, end = time.process_time(), 0, time.time() + 1.5
    while time.time() < end:
        after = step()
        steps += 1
    spent = (time.process_time() - spent) / steps
finally:
    for other in others:
        other.kill()
end = time.time() + 15
while native.C.waits_asleep() and time.time() < end:
    time.sleep(0.05)
print(json.dumps({
    "slept": slept,
    "seconds": spent,
    "still asleep": native.C.waits_asleep(),
    "same results": all(map(torch.equal, before, after)),
    "same settings": dict(os.environ) == environment and torch.get_num_threads() == threads,
}))
"""

pytestmark = [
    pytest.mark.skipif(native.C is None, reason="no native module in this install"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp's waiting is known on Linux alone"),
]


def run(threads: int, state: str, patience: int = 15, **environment: str) -> dict[str, Any]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", PROGRAM, str(threads), state, str(patience)]
    out = subprocess.run(command, env=settings | environment, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(out.stdout)


@pytest.fixture(scope="module")
def two_threads() -> dict[str, Any]:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one processor: there are no threads to wait for")
    return run(2, "busy")


def test_threads_sleep_where_others_use_the_processors(two_threads: dict[str, Any]) -> None:
    assert two_threads["slept"]


def test_they_spend_about_what_one_thread_does(two_threads: dict[str, Any]) -> None:
    """In processor time, which is what spinning takes; the time on the clock is the benchmark's."""
    assert two_threads["seconds"] < 3 * run(1, "busy")["seconds"]


def test_nothing_of_the_process_is_another_afterwards(two_threads: dict[str, Any]) -> None:
    assert two_threads["same results"] and two_threads["same settings"] and not two_threads["still asleep"]


@pytest.mark.parametrize("setting", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_whoever_says_how_to_wait_has_it_so(setting: str) -> None:
    values = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
    assert not run(2, "busy", 2, **{setting: values[setting]})["slept"]


def test_a_fork_begins_anew() -> None:
    program = PROGRAM.split("burn =")[0] + (
        "torch.set_num_threads(1)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    step()\n"
        "    os._exit(7 if native.C.waits_asleep() else 0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", program, "2", "idle", "0"], timeout=60, check=True)
