"""Trains many runs, each in a process of its own, several at a time and within a budget; a kill costs an epoch.

A run can be resumed from its last whole epoch, so processes are ended at any moment: by the budget, by Ctrl-C, or
because the process that started them is gone.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

from rearec.data import load_dataset
from rearec.experiments.processes import Process, locked
from rearec.experiments.runs import Run
from rearec.experiments.train_run import arguments_of

__all__ = ["Outcome", "Progress", "train_all"]


@dataclass(frozen=True)
class Progress:
    """A run has ended.

    result: that of its training, None where it failed; error: why it did. minutes: since it was started or resumed.
    left: runs that are not done yet. expected_minutes: how long these will take, by those that ended here.
    """

    run: Run
    result: dict[str, Any] | None
    error: str | None
    minutes: float
    left: int
    expected_minutes: float


@dataclass
class Outcome:
    """How the runs of a pool ended; what is in neither list is finished.

    failed: the reason by run. unfinished: those that the budget left out or stopped, they can be resumed.
    """

    failed: dict[Run, str] = field(default_factory=dict)
    unfinished: list[Run] = field(default_factory=list)


def train_all(
    data: Path,
    runs: Sequence[Run],
    folder: Path,
    *,
    jobs: int = 1,
    threads: int = 0,
    device: str = "cpu",
    budget_minutes: float | None = None,
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train every run that is not finished, resuming what was begun.

    Args:
        data: the prepared dataset.
        runs: what to train, in this order; equal runs are trained once.
        folder: where each run has its RUN folder.
        jobs: how many are trained at the same time.
        threads: of each process; 0 shares the cores among them.
        device: where they train.
        budget_minutes: when it is over nothing is started, and what is being trained stops: it can be resumed from its
            last whole epoch. None for no limit.
        force: train also what is finished, and all of it from the start.
        on_progress: called whenever a run has ended.

    Raises:
        UserError: a run of that name was trained on other data, or another pool trains in this folder.
    """
    deadline = None if budget_minutes is None else time.monotonic() + 60 * budget_minutes
    outcome = Outcome()
    ended_minutes: list[float] = []
    running: list[_Training] = []
    with locked(folder) as lock:
        waiting = deque(_to_train(data, dict.fromkeys(runs), folder, force))
        jobs = max(1, min(jobs, len(waiting)))
        threads = threads or max(1, (os.cpu_count() or 1) // jobs)
        try:
            while waiting or running:
                seconds = None if deadline is None else deadline - time.monotonic()
                if seconds is not None and seconds <= 0:
                    break
                while waiting and len(running) < jobs:
                    run = waiting.popleft()
                    running.append(_Training(run, arguments_of(run, data, folder, device, force), threads, lock))
                ready = wait([training.end for training in running], seconds)
                for ended in [training for training in running if training.end in ready]:
                    minutes, error = ended.result()
                    running.remove(ended)
                    ended_minutes.append(minutes)
                    if error is not None:
                        outcome.failed[ended.run] = error
                    left = len(waiting) + len(running)
                    expected = left * sum(ended_minutes) / len(ended_minutes) / jobs
                    if on_progress is not None:
                        result = ended.run.folder(folder).result() if error is None else None
                        on_progress(Progress(ended.run, result, error, minutes, left, expected))
        finally:
            for training in running:
                training.kill()
        # One that the budget stopped may have ended in that very moment.
        stopped = [*(training.run for training in running), *waiting]
        outcome.unfinished = [run for run in stopped if not run.folder(folder).finished]
        return outcome


def _to_train(data: Path, runs: Iterable[Run], folder: Path, force: bool) -> list[Run]:
    """The runs that are not finished, with ``force`` all; UserError where one was trained on other data."""
    fingerprint = load_dataset(data).fingerprint
    chosen = []
    for run in runs:
        place = run.folder(folder)
        if place.options_file.is_file():
            place.check_fingerprint(fingerprint, data)
        if force or not place.finished:
            chosen.append(run)
    return chosen


class _Training(Process):
    """The process that trains a run."""

    def __init__(self, run: Run, arguments: str, threads: int, lock: IO[str]) -> None:
        super().__init__("rearec.experiments.train_run", arguments, threads, lock)
        self.run = run
