"""rearec beside RecTools, RePlay and RecBole: `python benchmarks/peers.py --data DIR --venvs VENVS`.

DIR is a dataset of `rearec prepare` split leave-one-out. Each library gets a virtual environment in VENVS, which pip
fills where it is missing, and each contender a process of its own, in turn over several rounds, with one thread.
Measures speed, or with --quality trains for the same epochs and evaluates everybody's lists alike. Prints a Markdown
table and writes a json, by default into benchmarks/results. Ends with status 1 where a contender failed.
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
from pathlib import Path
from typing import Any

import numpy as np
from contenders.libraries.entries import ENTRIES, Entry
from contenders.libraries.quality import evaluated
from contenders.libraries.rounds import Outcome, alternate, install
from contenders.libraries.task import Sequences, Sizes, Task
from measure.machine import commit, processor_name
from report.peers import section

from rearec import UserError, load_dataset
from rearec.data import SequenceDataset
from rearec_kernels import build_info

HERE = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if not build_info()["native"]:
        raise SystemExit("peers.py: rearec_kernels has no native module here, expected an installed rearec")
    kind = "quality" if options.quality else "speed"
    entries = {name: entry for name, entry in ENTRIES.items() if kind in entry.kinds and _chosen(name, options.only)}
    if not entries:
        raise SystemExit(f"peers.py: --only: no contender of {kind} has such a name, expected of {', '.join(ENTRIES)}")
    pythons, failed = install(entries, options.venvs)
    if options.install:
        for name, why in failed.items():
            print(f"{name}: {why}", file=sys.stderr)
        return int(bool(failed))
    try:
        sequences = sequences_of(load_dataset(options.data, features=False))
    except UserError as error:
        raise SystemExit(f"peers.py: {error}") from error
    if options.users:
        sequences = sequences.some(options.users)
    out = options.out or HERE / "results" / f"{datetime.date.today().isoformat()}-peers-{kind}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    record = measure(entries, pythons, failed, sequences, options)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(section(record))
    print(out, file=sys.stderr)
    return int(bool(record["failed"]))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="peers.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="a prepared dataset")
    parser.add_argument("--venvs", type=Path, metavar="VENVS", required=True, help="folder of virtual environments")
    parser.add_argument("--out", type=Path, help="the json (default: benchmarks/results/DATE-peers-KIND.json)")
    parser.add_argument("--install", action="store_true", help="make the environments, measure nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contenders whose names begin so")
    parser.add_argument("--users", type=int, help="so many users drawn at random (default: all)")
    parser.add_argument("--rows", type=int, default=Sizes.rows, help="of a batch, about (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of one process (default: %(default)s)")
    speed = parser.add_argument_group("speed")
    speed.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    speed.add_argument("--seconds", type=float, default=8, help="CPU-seconds of training (default: %(default)s)")
    quality = parser.add_argument_group("quality")
    quality.add_argument("--quality", action="store_true", help="measure quality in the place of speed")
    quality.add_argument("--epochs", type=int, default=20, help="for everybody (default: %(default)s)")
    quality.add_argument("--jobs", type=int, default=1, help="processes at once (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name in ("rounds", "epochs", "jobs", "rows", "seconds", "timeout"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name}: got {getattr(options, name)}, expected more than 0")
    if options.users is not None and options.users < 1:
        parser.error(f"--users: got {options.users}, expected 1 or more")
    return options


def measure(
    entries: Mapping[str, Entry],
    pythons: Mapping[str, Path],
    failed: Mapping[str, str],
    sequences: Sequences,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """The record of a run; failed: contenders that are not installed, with the reason."""
    before = os.getloadavg()[0]
    sizes = Sizes(rows=options.rows)
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        file = Path(folder) / "sequences.npz"
        sequences.save(file)
        task = Task(
            "",
            file,
            Path(folder),
            sizes=sizes,
            epochs=options.epochs if options.quality else 0,
            seconds=options.seconds,
        )
        outcome = alternate(
            *(entries, pythons, task),
            rounds=1 if options.quality else options.rounds,
            timeout=options.timeout,
            jobs=options.jobs if options.quality else 1,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    outcome.failed |= failed
    if options.quality:
        evaluate(outcome, sequences)
    versions = {name: rounds[0].get("versions", {}) for name, rounds in outcome.records.items()}
    return {
        "kind": "quality" if options.quality else "speed",
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "command": shlex.join(["python", "benchmarks/peers.py", *_words(options)]),
        "machine": {
            "processor": processor_name(),
            "amx": _has_amx(),
            "threads": 1,
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "build": build_info(),
        "load": [before, os.getloadavg()[0]],
        "data": {
            "name": options.data.name + (f", {options.users:,} users at random" if options.users else ""),
            "users": sequences.num_users,
            "items": sequences.num_items,
            "train_targets": sequences.train_targets,
        },
        "sizes": vars(sizes) | {"batch_rows": sizes.batch_rows(sequences), "batch_users": sizes.batch_users(sequences)},
        "versions": {name: found for name, found in versions.items() if name not in ("popularity", "Markov")},
        "contenders": {
            name: [{key: value for key, value in one.items() if key not in ("versions", "lists")} for one in found]
            for name in entries
            if (found := outcome.records.get(name))
        },
        "failed": outcome.failed,
    }


def evaluate(outcome: Outcome, sequences: Sequences) -> None:
    """Adds the metrics of the lists; a contender without sound ones has failed, and its records are dropped."""
    for name, rounds in list(outcome.records.items()):
        try:
            for record in rounds:
                record["quality"] = evaluated(record["lists"], sequences)
        except (KeyError, ValueError) as error:
            outcome.failed.setdefault(name, f"no lists that could be evaluated: {error}")
            del outcome.records[name]


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


def _words(options: argparse.Namespace) -> list[str]:
    """The command line as one would type it, with folders by their names alone."""
    words = ["--data", options.data.name, "--venvs", options.venvs.name]
    for name in ("users", "only"):
        if value := getattr(options, name):
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    if options.rows != Sizes.rows:
        words += ["--rows", str(options.rows)]
    if options.quality:
        return [*words, "--quality", "--epochs", str(options.epochs)]
    return [*words, "--rounds", str(options.rounds), "--seconds", f"{options.seconds:g}"]


def _has_amx() -> bool:
    try:
        return "amx_tile" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
