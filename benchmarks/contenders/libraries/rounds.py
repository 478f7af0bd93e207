"""Runs contenders, each in a process of its own, in turn over several rounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from contenders.libraries.entries import REQUIREMENTS, Entry
from contenders.libraries.environments import interpreter
from contenders.libraries.task import Task

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
)
Record = dict[str, Any]
Say = Callable[[str], None]


@dataclass
class Outcome:
    """records: of each contender, one a round. failed: contenders with the reason; they sit out further rounds."""

    records: dict[str, list[Record]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class Failure(Exception):
    """A contender's process did not end as it should; what it had reported before is in `record`."""

    def __init__(self, reason: str, record: Record) -> None:
        super().__init__(reason)
        self.record = record


def install(entries: Mapping[str, Entry], venvs: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The interpreter of each contender, and those that could not be installed with the reason."""
    pythons, failed = {}, {}
    for name, entry in entries.items():
        try:
            pythons[name] = (
                Path(sys.executable)
                if entry.environment is None
                else interpreter(venvs.absolute() / entry.environment, REQUIREMENTS[entry.environment])
            )
        except (RuntimeError, OSError) as error:
            failed[name] = f"not installed: {error}"
    return pythons, failed


def alternate(
    entries: Mapping[str, Entry],
    pythons: Mapping[str, Path],
    task: Task,
    *,
    rounds: int,
    timeout: float,
    jobs: int = 1,
    say: Say = lambda line: None,
) -> Outcome:
    """Every contender once in each round, in the order of `entries`, every other round in reverse.

    task: its contender, options and folder are filled in for each. timeout: seconds of one process. jobs: at once;
    what is measured in more than one at a time is no speed.
    """
    outcome = Outcome()

    def one(name: str) -> None:
        if name not in pythons or name in outcome.failed:
            return
        entry = entries[name]
        with tempfile.TemporaryDirectory(prefix="peers-") as folder:
            mine = replace(task, contender=entry.module, options=dict(entry.options), folder=Path(folder))
            try:
                record = run(pythons[name], mine, timeout)
            except Failure as failure:
                record, outcome.failed[name] = failure.record, str(failure)
                say(f"{name}: failed: {failure}")
        if record:
            outcome.records.setdefault(name, []).append(record)
        say(f"{name}: {_brief(record)}")

    for turn in range(rounds):
        say(f"round {turn + 1} of {rounds}, load {os.getloadavg()[0]:.1f}")
        names: Sequence[str] = [*entries] if turn % 2 == 0 else [*entries][::-1]
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, names))
    return outcome


def run(python: Path, task: Task, timeout: float) -> Record:
    """What one process reports. Raises Failure."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ONE_THREAD
    # the interpreter that measures may have rearec from there; that of another library has nothing to look for in it
    ours = os.environ.get("PYTHONPATH", "") if python == Path(sys.executable) else ""
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), ours]))
    command = [str(python), "-m", "contenders.libraries.run", task.to_json()]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, cwd=task.folder, timeout=timeout
        )
    except subprocess.TimeoutExpired as expired:
        printed = expired.stdout or b""
        text = printed if isinstance(printed, str) else printed.decode(errors="replace")
        raise Failure(f"not done after {timeout:.0f} s", _joined(text)) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing was said"]
        raise Failure(f"exit status {done.returncode}: {lines[-1]}", _joined(done.stdout))
    return _joined(done.stdout)


def _joined(printed: str) -> Record:
    """Json lines as one record; the lists, which lie in a file that will be gone, read."""
    record: Record = {}
    for line in printed.splitlines():
        try:
            record |= json.loads(line)
        except json.JSONDecodeError:  # a process that was killed stops in mid-line
            break
    if "lists" in record:
        record["lists"] = np.load(record["lists"], allow_pickle=False)
    return record


def _brief(record: Record) -> str:
    parts = []
    if "training" in record:
        training = record["training"]
        parts.append(f"{training['targets'] / training['cpu_s']:,.0f} targets per CPU-second")
        parts.append(f"{training['cpu_s'] / training['wall_s']:.0%} of a core")
    if "answers" in record:
        parts.append(f"{record['answers']['users'] / record['answers']['cpu_s']:,.0f} users per CPU-second")
    if "one_user" in record:
        parts.append(f"one user {record['one_user']['cpu_ms']:.2f} ms CPU")
    if "trained" in record:
        parts.append(f"{record['trained']['epochs']} epochs in {record['trained']['cpu_s']:.0f} CPU-s")
    return ", ".join(parts) or "no record"
