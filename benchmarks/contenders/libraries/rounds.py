"""Runs contenders, each in a process of its own, in turn over several rounds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from contenders.libraries.entries import REQUIREMENTS, Entry
from contenders.libraries.environments import interpreter
from contenders.libraries.task import Task

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
)
# A contender's folder: what it was asked for, and what it has said.
ASKED, SAID = "task.json", "said.jsonl"
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
    work: Path | None = None,
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Every contender once in each round, in the order of `entries`, every other round in reverse.

    task: its contender, options, folder and what a recipe changes in its sizes are filled in for each. timeout: seconds
    of one process. jobs: at once; what is measured in more than one at a time is no speed. work: where each contender
    leaves what it has trained and said, in place of folders that go; one that finished the same task there is not asked
    again. done: told of all that is there after each contender.
    """
    outcome, lock = Outcome(), Lock()

    def one(name: str) -> None:
        if name not in pythons or name in outcome.failed:
            return
        entry = entries[name]
        with _folder(work, name) as folder:
            sizes = replace(task.sizes, **entry.recipe.sizes) if entry.recipe else task.sizes
            mine = replace(task, contender=entry.module, options=dict(entry.options), folder=folder, sizes=sizes)
            try:
                record = finished(mine) or run(pythons[name], mine, timeout)
            except Failure as failure:
                record, outcome.failed[name] = failure.record, str(failure)
                say(f"{name}: failed: {failure}")
        if record:
            outcome.records.setdefault(name, []).append(record)
        say(f"{name}: {_brief(record)}")
        with lock:
            done(outcome)

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
    said, errors = task.folder / SAID, task.folder / "stderr.txt"
    (task.folder / ASKED).write_text(task.to_json())
    command = [str(python), "-m", "contenders.libraries.run", task.to_json()]
    with said.open("w") as out, errors.open("w") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=task.folder)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure(f"not done after {timeout:.0f} s", _joined(said)) from None
        finally:
            process.kill()
            process.wait()
    if status:
        lines = errors.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
        raise Failure(f"exit status {status}: {lines[-1]}", _joined(said))
    return _joined(said)


def finished(task: Task) -> Record:
    """What a process said that has done the same task in its folder; nothing where there is none."""
    asked = task.folder / ASKED
    if not asked.is_file() or asked.read_text() != task.to_json():
        return {}
    record = _joined(task.folder / SAID)
    return record if "done" in record else {}


@contextmanager
def _folder(work: Path | None, name: str) -> Iterator[Path]:
    """A contender's own folder: below `work`, or one that goes."""
    if work is None:
        with tempfile.TemporaryDirectory(prefix="peers-") as made:
            yield Path(made)
        return
    folder = work.absolute() / re.sub(r"[^A-Za-z0-9]+", "-", name)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _joined(said: Path) -> Record:
    """Json lines as one record: those of epochs as its curve, and lists, which lie in files that may go, read."""
    record: Record = {}
    for line in said.read_text(errors="replace").splitlines():
        try:
            part = json.loads(line)
        except json.JSONDecodeError:  # a process that was killed stops in mid-line
            break
        if "epoch" in part:
            record.setdefault("curve", []).append(part.pop("epoch"))
        record |= part
    if "lists" in record:
        record["lists"] = {name: np.load(path, allow_pickle=False) for name, path in record["lists"].items()}
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
        trained = record["trained"]
        took = "" if trained["cpu_s"] is None else f" in {trained['cpu_s']:.0f} CPU-s"
        parts.append(f"{trained['epochs']} epochs{took}, valid NDCG@20 {trained['valid_ndcg@20']:.4f}")
    return ", ".join(parts) or "no record"
