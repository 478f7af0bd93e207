"""One contender in this process: `python -m contenders.libraries.run TASK`, TASK a `Task` as json. Prints
json lines."""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO

import numpy as np

from contenders.libraries.clock import EndlessClock, StepClock, peak_memory, processor_seconds
from contenders.libraries.contender import Contender, Make
from contenders.libraries.task import Sequences, Task

WARM_UP_USERS = 64
MOST_EPOCHS = 200  # of a speed measurement, which the clock ends long before


def main() -> None:
    task = Task.from_json(sys.argv[1])
    with _stdout_for_records() as out:
        for record in run(task):
            print(json.dumps(record), file=out, flush=True)


def run(task: Task) -> Iterator[dict[str, Any]]:
    """The records of a task, each as soon as it is there."""
    make: Make = importlib.import_module(f"contenders.libraries.{task.contender}").make
    sequences = Sequences.load(task.sequences)
    contender = make(task, sequences)
    yield {"versions": dict(_versions(contender))}
    if task.epochs:
        yield from _quality(task, sequences, contender)
    else:
        yield from _speed(task, sequences, contender)


def _speed(task: Task, sequences: Sequences, contender: Contender) -> Iterator[dict[str, Any]]:
    clock = StepClock(task.skipped_steps, task.least_steps, task.seconds)
    contender.train(MOST_EPOCHS, clock)
    yield {"training": clock.record() | {"peak_memory": peak_memory()}}

    users = np.random.default_rng(0).permutation(sequences.num_users)
    _timed(contender.request(users[:WARM_UP_USERS], task.top))
    many = users[: task.answered_users]
    cpu, wall, _ = _timed(contender.request(many, task.top))
    yield {"answers": {"users": len(many), "cpu_s": cpu, "wall_s": wall}}

    single = [_timed(contender.request(users[[n % len(users)]], task.top))[:2] for n in range(task.single_requests + 1)]
    cpus, walls = zip(*single[1:], strict=True)
    yield {"one_user": {"cpu_ms": 1e3 * statistics.median(cpus), "wall_ms": 1e3 * statistics.median(walls)}}


def _quality(task: Task, sequences: Sequences, contender: Contender) -> Iterator[dict[str, Any]]:
    """Lists long enough that `top` items are left when those of the history are taken out."""
    cpu, _, note = _timed(lambda: contender.train(task.epochs, EndlessClock()))
    yield {"trained": {"epochs": task.epochs, "cpu_s": cpu} | note}
    users = np.arange(sequences.num_users)
    longest = max(len(np.unique(sequences.history(user))) for user in users)
    top = min(task.top + longest, sequences.num_items)
    lists = contender.lists(contender.request(users, top)(), users, top)
    path = task.folder / "lists.npy"
    np.save(path, lists)
    yield {"lists": str(path)}


def _timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Processor seconds, wall seconds, result."""
    cpu, wall = processor_seconds(), time.perf_counter()
    result = call()
    return processor_seconds() - cpu, time.perf_counter() - wall, result


def _versions(contender: Contender) -> Iterator[tuple[str, str]]:
    for name in (*contender.versions, "torch", "numpy"):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"


@contextmanager
def _stdout_for_records() -> Iterator[TextIO]:
    """What the libraries print goes to stderr."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        yield out


if __name__ == "__main__":
    main()
