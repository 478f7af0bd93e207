"""rearec beside RecTools, RePlay and RecBole: `python benchmarks/peers.py --data DIR --venvs VENVS`.

DIR is a dataset of `rearec prepare` split leave-one-out. Each library gets a virtual environment in VENVS, which pip
fills where it is missing, and each contender a process of its own, in turn over several rounds, with one thread.
Measures speed, or with --quality trains everybody by the same rule, at the same sizes and at each library's best
documented recipe, and evaluates everybody's lists alike. Prints a Markdown table and writes a json, by default into
benchmarks/results, after each contender. Ends with status 1 where a contender failed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from contenders.libraries import quality
from contenders.libraries.command import parse, words
from contenders.libraries.entries import ENTRIES, Entry
from contenders.libraries.ours import dataset_of
from contenders.libraries.quality import Ranks
from contenders.libraries.rounds import Outcome, alternate, install
from contenders.libraries.task import Sequences, Sizes, Task
from measure.machine import commit, processor_name
from report.peers import section

from rearec import UserError, load_dataset
from rearec.data import SequenceDataset
from rearec.files import write_aside
from rearec.run_folder import RunFolder
from rearec_kernels import build_info

HERE = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments, __doc__)
    if not build_info()["native"]:
        raise SystemExit("peers.py: rearec_kernels has no native module here, expected an installed rearec")
    kind = "quality" if options.quality else "speed"
    entries = {name: entry for name, entry in ENTRIES.items() if kind in entry.kinds and _chosen(name, options.only)}
    if not entries and not options.ours:
        raise SystemExit(f"peers.py: --only: no contender of {kind} has such a name, expected of {', '.join(ENTRIES)}")
    pythons, failed = install(entries, options.venvs)
    if options.install:
        for name, why in failed.items():
            print(f"{name}: {why}", file=sys.stderr)
        return int(bool(failed))
    try:
        dataset = load_dataset(options.data, features=False)
        sequences = sequences_of(dataset)
        given = given_runs(options.ours, dataset, options.data)
    except UserError as error:
        raise SystemExit(f"peers.py: {error}") from error
    if options.users:
        sequences = sequences.some(options.users)
    out = options.out or HERE / "results" / f"{datetime.date.today().isoformat()}-peers-{kind}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    pythons |= dict.fromkeys(given, Path(sys.executable))
    record = measure(given | entries, pythons, failed, sequences, options, out)
    print(section(record))
    print(out, file=sys.stderr)
    return int(bool(record["failed"]))


def measure(
    entries: Mapping[str, Entry],
    pythons: Mapping[str, Path],
    failed: Mapping[str, str],
    sequences: Sequences,
    options: argparse.Namespace,
    out: Path,
) -> dict[str, Any]:
    """The record of a run, which is in `out` after each contender.

    failed: contenders that are not installed, with the reason.
    """
    before = os.getloadavg()[0]
    found = Evaluated(failed=dict(failed))
    record: dict[str, Any] = {}

    @cache
    def floors() -> Mapping[str, Ranks]:
        return quality.floors(dataset_of(sequences)) if options.quality else {}

    def keep(outcome: Outcome, last: bool = False) -> None:
        nonlocal record
        found.records, found.failed = dict(outcome.records), {**outcome.failed, **failed}
        record = record_of(entries, found, sequences, floors(), options, before)
        if options.quality and last:  # which takes its time, and says more when all are there
            record["over"] = quality.compared(found.ranks | floors(), record["references"])
        write_aside(out, json.dumps(record, indent=1) + "\n")

    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        file = _sequences_file(sequences, options.work or Path(folder))
        task = Task(
            *("", file, Path(folder)),
            sizes=Sizes(rows=options.rows),
            epochs=options.epochs if options.quality else 0,
            patience=options.patience,
            cpu_seconds=options.cpu_seconds,
            seconds=options.seconds,
            gains=quality.gains_of_places(),
        )
        outcome = alternate(
            *(entries, pythons, task),
            rounds=1 if options.quality else options.rounds,
            timeout=options.timeout or (86_400 if options.quality else 1800),
            jobs=options.jobs if options.quality else 1,
            say=lambda line: print(line, file=sys.stderr, flush=True),
            work=options.work,
            done=keep,
        )
    keep(outcome, last=True)
    return record


def record_of(
    entries: Mapping[str, Entry],
    outcome: Evaluated,
    sequences: Sequences,
    floors: Mapping[str, Ranks],
    options: argparse.Namespace,
    load_before: float,
) -> dict[str, Any]:
    """What a json holds of what is measured so far."""
    sizes = Sizes(rows=options.rows)
    more = evaluate(outcome, sequences, floors) if options.quality else {}
    versions = {name: rounds[0].get("versions", {}) for name, rounds in outcome.records.items()}
    return {
        "kind": "quality" if options.quality else "speed",
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "command": shlex.join(["python", "benchmarks/peers.py", *words(options)]),
        "machine": {
            "processor": processor_name(),
            "amx": _has_amx(),
            "threads": 1,
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "build": build_info(),
        "load": [load_before, os.getloadavg()[0]],
        "data": {
            "name": options.data.name + (f", {options.users:,} users at random" if options.users else ""),
            "users": sequences.num_users,
            "items": sequences.num_items,
            "train_targets": sequences.train_targets,
        },
        "sizes": vars(sizes) | {"batch_rows": sizes.batch_rows(sequences), "batch_users": sizes.batch_users(sequences)},
        "versions": versions,
        "recipes": {name: vars(entry.recipe) for name, entry in entries.items() if entry.recipe},
        "contenders": {
            name: [{key: value for key, value in one.items() if key not in ("versions", "lists")} for one in found]
            for name in entries
            if (found := outcome.records.get(name))
        },
        "failed": outcome.failed,
        **more,
    }


@dataclass
class Evaluated(Outcome):
    """ranks: of the lists that were evaluated, by contender and variant."""

    ranks: dict[str, Ranks] = field(default_factory=dict)


def evaluate(outcome: Evaluated, sequences: Sequences, floors: Mapping[str, Ranks]) -> dict[str, Any]:
    """Metrics by name, floors among them, and with whom all are compared.

    A contender without sound lists has failed; what it had said of its epochs stays.
    """
    valid: dict[str, float] = {}
    for name, (record, *_) in outcome.records.items():
        try:
            for variant, lists in record["lists"].items():
                if name + variant not in outcome.ranks:
                    outcome.ranks[name + variant] = quality.ranks_of(lists, sequences)
            valid[name] = record["trained"]["valid_ndcg@20"]
        except (KeyError, ValueError) as error:
            outcome.failed.setdefault(name, f"no lists that could be evaluated: {error}")
    everybody = {**outcome.ranks, **floors}
    return {
        "quality": {name: quality.metrics(one) for name, one in everybody.items()},
        "references": quality.references(valid),
    }


def given_runs(runs: Mapping[str, Path], dataset: SequenceDataset, data: Path) -> dict[str, Entry]:
    """Contenders of runs that were trained before; UserError for one that is not finished or of other data."""
    found = {}
    for name, path in runs.items():
        run = RunFolder(path)
        run.check_finished()
        run.check_fingerprint(dataset.fingerprint, data)
        found[f"rearec {name}, given"] = Entry("given", {"run": str(path.absolute())}, kinds=("quality",))
    return found


def _sequences_file(sequences: Sequences, folder: Path) -> Path:
    """Where the processes read them; SystemExit where the folder has work on others."""
    file = folder / "sequences.npz"
    if file.is_file():
        before = Sequences.load(file)
        if not (np.array_equal(before.items, sequences.items) and np.array_equal(before.offsets, sequences.offsets)):
            raise SystemExit(f"peers.py: --work: {folder} holds work on other data, expected a folder of its own")
        return file.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    sequences.save(file)
    return file.absolute()


def sequences_of(dataset: SequenceDataset) -> Sequences:
    """The sequences of a dataset that was split leave-one-out, those that are long enough for it.

    Raises UserError where it was split otherwise.
    """
    length = np.diff(dataset.offsets)
    for split, back in (("valid", 2), ("test", 1)):
        rows = np.asarray(dataset.split_rows[split])
        if not len(rows) or (rows[:, 1] != length[rows[:, 0]] - back).any():
            raise UserError(f"the {split} rows are not their users' last items: prepare with --split leave-one-out")
    chosen = np.flatnonzero(length >= 3)
    kept = np.repeat(length >= 3, length)
    offsets = np.concatenate(([0], np.cumsum(length[chosen])))
    return Sequences(np.asarray(dataset.items)[kept].astype(np.int64), offsets.astype(np.int64), dataset.num_items)


def _chosen(name: str, only: list[str] | None) -> bool:
    return only is None or any(name.startswith(begin) for begin in only)


def _has_amx() -> bool:
    try:
        return "amx_tile" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
