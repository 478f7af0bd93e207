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
from contenders.libraries.contender import Contender, Make, best_lists
from contenders.libraries.task import Sequences, Task
from contenders.libraries.watch import Say, Watch

WARM_UP_USERS = 64
MOST_EPOCHS = 200  # of a speed measurement, which the clock ends long before


def main() -> None:
    task = Task.from_json(sys.argv[1])
    with _stdout_for_records() as out:
        run(task, lambda record: print(json.dumps(record), file=out, flush=True))


def run(task: Task, say: Say) -> None:
    """Does a task, and says its records, each as soon as it is there."""
    make: Make = importlib.import_module(f"contenders.libraries.{task.contender}").make
    sequences = Sequences.load(task.sequences)
    contender = make(task, sequences)
    say({"versions": dict(_versions(contender))})
    (_quality if task.epochs else _speed)(task, sequences, contender, say)


def _speed(task: Task, sequences: Sequences, contender: Contender, say: Say) -> None:
    clock = StepClock(task.skipped_steps, task.least_steps, task.seconds)
    contender.train(MOST_EPOCHS, clock)
    say({"training": clock.record() | {"peak_memory": peak_memory()}})

    users = np.random.default_rng(0).permutation(sequences.num_users)
    _timed(contender.request(users[:WARM_UP_USERS], task.top))
    many = users[: task.answered_users]
    cpu, wall, _ = _timed(contender.request(many, task.top))
    say({"answers": {"users": len(many), "cpu_s": cpu, "wall_s": wall}})

    single = [_timed(contender.request(users[[n % len(users)]], task.top))[:2] for n in range(task.single_requests + 1)]
    cpus, walls = zip(*single[1:], strict=True)
    say({"one_user": {"cpu_ms": 1e3 * statistics.median(cpus), "wall_ms": 1e3 * statistics.median(walls)}})


def _quality(task: Task, sequences: Sequences, contender: Contender, say: Say) -> None:
    """Trains to the best epoch by validation, and writes the lists for the test targets."""
    watch = Watch(contender, sequences, task, say)
    note = contender.train(task.epochs, EndlessClock(), watch)
    say({"trained": watch.finish() | note})
    paths = {}
    for number, (name, variant) in enumerate(contender.variants().items()):
        path = task.folder / f"lists-{number}.npy"
        np.save(path, best_lists(variant, sequences, "test", task.top).astype(np.int32))
        paths[name] = str(path)
        say({"lists": dict(paths)})
    say({"done": True})


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
