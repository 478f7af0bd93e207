"""How long `rearec train` takes to its first step, and in how much memory: `python benchmarks/training_start.py`.

For each size a prepared dataset is written (lengths and items as in `big_table.py`, a test and a validation row for
each sequence of three items or more) and the command run on it in a process of its own, which ends itself in the midst
of its first epoch. Counted are, from the start of the process to its first step, wall time and processor time; the
memory that is the process's own then and some steps later (RssAnon), and the most that it has had resident, mapped
files with it (VmHWM, Linux). `--users` and `--items` hold their numbers, so that nothing but the interactions grows.
Prints a line for each size and writes one json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import big_table
import numpy as np
import torch
from measure import machine

import rearec
from rearec.data import SequenceDataset, save_dataset

# Of the training, so that a step is quick with a million items too: the start is what is measured.
OPTIONS = "--dim 16 --ffn 16 --layers 1 --negatives 100 --batch-size 512 --logger none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--powers", type=int, nargs="+", choices=big_table.SHAPES, default=list(big_table.SHAPES))
    parser.add_argument("--users", type=int, help="as many for every size")
    parser.add_argument("--items", type=int, help="as many for every size")
    parser.add_argument("--steps", type=int, default=300, help="after the first one, before the process ends")
    parser.add_argument("--options", default=OPTIONS, help="of the training, in one text")
    parser.add_argument("--work", type=Path, help="a folder for the datasets, which need 14 bytes for an interaction")
    parser.add_argument("--json", type=Path, help="write this file")
    parser.add_argument("--train", nargs=3, metavar=("BEGAN", "DATA", "OUT"), help="of the process that is measured")
    options = parser.parse_args()
    if options.train:
        train(*options.train, options.steps, options.options.split())
        return
    found = []
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        for power in options.powers:
            shape = big_table.SHAPES[power]
            shape = replace(shape, users=options.users or shape.users, items=options.items or shape.items)
            found.append(measure(shape, Path(work), options))
            print(json.dumps(found[-1]), flush=True)
    cpu = torch.device("cpu")
    record = {
        "date": f"{date.today()}",
        "commit": machine.commit(),
        "command": "python benchmarks/training_start.py " + " ".join(sys.argv[1:]),
        "options": options.options,
        "machine": machine.describe(cpu, torch.get_num_threads()),
        "versions": machine.versions(cpu),
        "starts": found,
    }
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


def measure(shape: big_table.Shape, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What the start of a training on data of one size took."""
    data, out = work / "data", work / "run"
    dataset = generate(shape)
    save_dataset(dataset, data)
    sizes = {"interactions": len(dataset.items), "users": dataset.num_users, "items": dataset.num_items}
    sizes["training_rows"] = len(dataset.rows("train"))
    del dataset
    command = [sys.executable, __file__, "--train", repr(time.time()), str(data), str(out)]
    command += ["--steps", str(options.steps), f"--options={options.options}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    shutil.rmtree(data)
    shutil.rmtree(out)
    return {**sizes, **json.loads(done.stdout.splitlines()[-1]), "load_average": os.getloadavg()[0]}


def train(began: str, data: str, out: str, steps: int, options: list[str]) -> None:
    """The command, which prints what is measured and ends the process in its training."""
    from rearec.cli.app import main as rearec_command
    from rearec.training import TrainingModule

    found: dict[str, Any] = {}
    training_step = TrainingModule.training_step

    def watched(module: TrainingModule, batch: rearec.data.Batch, batch_idx: int) -> torch.Tensor:
        if batch_idx == 0:
            used = resource.getrusage(resource.RUSAGE_SELF)
            found["wall_s"] = round(time.time() - float(began), 1)
            found["cpu_s"] = round(used.ru_utime + used.ru_stime, 1)
            found["own_mb"] = megabytes("RssAnon")
            found["batches"] = module.trainer.num_training_batches
        if batch_idx == steps:
            found.update(steps=steps, own_mb_then=megabytes("RssAnon"), peak_mb=megabytes("VmHWM"))
            print(json.dumps(found), flush=True)
            os._exit(0)
        return training_step(module, batch, batch_idx)

    TrainingModule.training_step = watched  # type: ignore[method-assign]
    sys.argv = ["rearec", "train", data, "--out", out, *options]
    rearec_command()


def generate(shape: big_table.Shape, seed: int = 0) -> SequenceDataset:
    """A dataset with about so many interactions; users whom nobody drew do not occur."""
    rng = np.random.default_rng((seed, shape.interactions))
    weights = np.minimum(1 / rng.random(shape.users) ** (1 / (shape.length_exponent - 1)), shape.users**0.5)
    lengths = rng.poisson(weights * (shape.interactions / weights.sum()))
    lengths = lengths[lengths > 0].astype(np.int64)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    items = np.empty(offsets[-1], dtype=np.int32)
    for begin in range(0, len(items), 1 << 22):
        part = items[begin : begin + (1 << 22)]
        # ranks whose logarithm is uniform follow Zipf's law
        part[:] = np.exp(rng.random(len(part)) * np.log(shape.items)).astype(np.int32) - 1
    held_out = np.flatnonzero(lengths >= 3)
    of_train = np.where(lengths >= 3, lengths - 3, lengths - 1)
    train = np.empty((int(of_train.sum()), 2), dtype=np.int32)
    train[:, 0] = np.repeat(np.arange(len(lengths), dtype=np.int32), of_train)
    train[:, 1] = np.arange(len(train)) - np.repeat(np.cumsum(of_train) - of_train, of_train) + 1
    valid, test = (np.stack([held_out, lengths[held_out] - back], axis=1).astype(np.int32) for back in (2, 1))
    return SequenceDataset(
        items=items,
        offsets=offsets,
        sequence_user=np.arange(len(lengths), dtype=np.int32),
        split_rows={"train": train, "valid": valid, "test": test},
        item_ids=[str(item) for item in range(shape.items)],
        user_ids=[str(user) for user in range(len(lengths))],
        statistics={},
    )


def megabytes(name: str) -> int:
    """Of this process."""
    _, _, rest = Path("/proc/self/status").read_text().partition(f"{name}:")
    return round(int(rest.split()[0]) * 1024 / 10**6)


if __name__ == "__main__":
    main()
