"""Trains many runs, several at a time in processes of their own, within a budget; a kill at any moment costs an epoch.

A process trains one run after the other. It ends with the process that started it, so that a killed pool leaves nobody
who writes to its folders; a process that dies takes its own run with it and no other.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rearec.cli.process import set_threads
from rearec.data import load_dataset
from rearec.errors import UserError
from rearec.files import check_way
from rearec.visible import visible

if TYPE_CHECKING:  # imports torch, which a process may do only when it knows its number of threads
    from rearec.experiments.runs import Run

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
        jobs: processes that train at the same time.
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
    with _locked(folder):
        waiting = deque(_to_train(data, dict.fromkeys(runs), folder, force))
        jobs = min(jobs, len(waiting))
        threads = threads or max(1, (os.cpu_count() or 1) // max(1, jobs))
        pool = _Pool(
            lambda: _Worker(data, folder, device, threads, force), folder, waiting, jobs, deadline, on_progress
        )
        outcome = pool.run()
        # One that the budget stopped may have ended in that very moment.
        outcome.unfinished = [run for run in outcome.unfinished if not run.folder(folder).finished]
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


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """UserError where another process has ``folder``; the lock ends with the process, however that ends."""
    check_way(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process trains here; wait for it, or choose another folder") from None
        yield


class _Pool:
    """The state of one `train_all`."""

    def __init__(
        self,
        start: Callable[[], _Worker],
        folder: Path,
        waiting: deque[Run],
        jobs: int,
        deadline: float | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._start = start
        self._folder = folder
        self._waiting = waiting
        self._jobs = jobs
        self._deadline = deadline
        self._on_progress = on_progress
        self._workers: list[_Worker] = []
        self._ended_minutes: list[float] = []
        self._outcome = Outcome()

    def run(self) -> Outcome:
        try:
            while not self._over():
                self._hand_out()
                busy = {worker.connection: worker for worker in self._workers if worker.run is not None}
                if not busy:
                    break
                timeout = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
                for connection in wait(list(busy), timeout):
                    self._take(busy[connection])  # type: ignore[index]
            stopped = [worker.run for worker in self._workers if worker.run is not None]
        finally:
            for worker in self._workers:
                worker.kill()
        self._outcome.unfinished = [*stopped, *self._waiting]
        return self._outcome

    def _over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _hand_out(self) -> None:
        """Give every free process a run; start those that are missing."""
        while self._waiting and len(self._workers) < self._jobs:
            self._workers.append(self._start())
        for worker in self._workers:
            if self._waiting and worker.run is None:
                worker.train(self._waiting.popleft())

    def _take(self, worker: _Worker) -> None:
        """Note how the run of a process ended."""
        run = worker.run
        assert run is not None
        minutes, error = worker.end()
        if not worker.alive:
            self._workers.remove(worker)
        if error is not None:
            self._outcome.failed[run] = error
        self._ended_minutes.append(minutes)
        left = len(self._waiting) + sum(worker.run is not None for worker in self._workers)
        expected = left * sum(self._ended_minutes) / len(self._ended_minutes) / self._jobs
        if self._on_progress is not None:
            result = run.folder(self._folder).result() if error is None else None
            self._on_progress(Progress(run, result, error, minutes, left, expected))


class _Worker:
    """A process that trains, seen from the pool."""

    def __init__(self, data: Path, folder: Path, device: str, threads: int, force: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.run: Run | None = None
        self.alive = True
        self._began = 0.0
        arguments = (other, data, folder, device, threads, force)
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        other.close()

    def train(self, run: Run) -> None:
        """Give it a run; the connection is readable when that has ended."""
        self.run = run
        self._began = time.monotonic()
        with suppress(BrokenPipeError):  # it has died: `end` will tell
            self.connection.send(run)

    def end(self) -> tuple[float, str | None]:
        """The minutes that its run took, and why it failed."""
        self.run = None
        minutes = (time.monotonic() - self._began) / 60
        try:
            return minutes, self.connection.recv()
        except (EOFError, OSError):
            self.kill()
            return minutes, f"its process died (exit code {self._process.exitcode}): was there enough memory?"

    def kill(self) -> None:
        """End the process at once: what it has not saved is lost, what it has saved is whole."""
        self.alive = False
        self._process.kill()
        self._process.join()
        self.connection.close()


def _work(connection: Connection, data: Path, folder: Path, device: str, threads: int, force: bool) -> None:
    """What a process does: train every run it is sent, and answer with None or the reason why it failed."""
    # Ctrl-C is the pool's affair.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_threads(threads)
    while True:
        try:
            run: Run = connection.recv()
        except EOFError:
            return
        connection.send(_train(data, run, folder, device, force))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train(data: Path, run: Run, folder: Path, device: str, force: bool) -> str | None:
    from rearec.training import train

    try:
        train(data, run.folder(folder).path, run.config, run.options, device=device, resume=not force, force=force)
    except UserError as error:
        return str(error)
    except Exception as error:
        # No fault of the user's: whoever mends it needs the whole of it.
        for line in traceback.format_exc().splitlines():
            sys.stderr.write(f"{visible(line)}\n")
        return f"{type(error).__name__}: {error}"
    return None
