"""Work of one process, or of several that torchrun has started: prints what it took as one line of JSON.

`python benchmarks/process_work.py train --dim 64` is one process; `torchrun --standalone --nproc-per-node 2` before the
file, instead of `python`, is two. Every process computes with one thread.

train: seconds of a step of 512 rows, SASRec, prl, K 2, of the last of two epochs, and the bytes that the loopback
device has carried in it (Linux; nothing else may use it). evaluate: seconds to rank the test rows. memory: the most
that each process has had in memory, by a training of a few steps, erl, K 2, with a million items, and what it had
before; with --shard-catalog processes hold the item table together (Linux).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rearec import ReaRec
from rearec.data.synthetic import paper_shaped
from rearec.distributed import from_first, gather_values, joined, processes
from rearec.evaluation import rank_rows
from rearec.models.config import ReaRecConfig
from rearec.training import TrainingOptions, train

# Users of a set of Beauty's catalogue and lengths: enough for seconds of work.
ITEMS, MEAN_LENGTH = 12_101, 8.9
USERS = {("train", 64): 1500, ("train", 256): 1500, ("evaluate", 64): 10_000, ("evaluate", 256): 4000}
ROWS, EPOCHS = 512, 2
FFN = {64: 128, 256: 300}
# Of the training whose memory is looked at: some steps, next to nothing beside the item table.
FEW_USERS, FEW_ITEMS, FEW_ROWS = 60, 200, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("train", "evaluate", "memory"))
    parser.add_argument("--dim", type=int, choices=FFN, default=64)
    parser.add_argument("--users", type=int, help="of the data, another number than is measured with")
    parser.add_argument("--items", type=int, default=1_000_000, help="of memory")
    parser.add_argument("--shard-catalog", action="store_true", help="of memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.work == "memory":
        with joined(torch.device("cpu")):
            found = most_memory(options.dim, options.items, options.shard_catalog)
            if processes().is_first:
                print(json.dumps({"processes": processes().size, **found}))
        return
    dataset = paper_shaped(options.users or USERS[options.work, options.dim], ITEMS, MEAN_LENGTH)
    config = ReaRecConfig(
        dataset.num_items, method="prl", steps=2, dim=options.dim, ffn=FFN[options.dim], warmup=0, alpha=1.5
    )
    with joined(torch.device("cpu")):
        found = (trained if options.work == "train" else evaluated)(dataset, config)
        if processes().is_first:
            print(json.dumps({"processes": processes().size, **found}))


def trained(dataset: Any, config: ReaRecConfig) -> dict[str, Any]:
    """Of the last epoch."""
    carried: list[int] = []
    epochs: list[dict[str, Any]] = []

    def on_batch(epoch: int, done: int, total: int) -> None:
        # after the first and after the last step of the last epoch
        if epoch == EPOCHS and done in (1, total):
            carried.append(loopback_bytes())

    train(
        dataset, from_first(tempfile.mkdtemp), config, TrainingOptions(epochs=EPOCHS, batch_rows=ROWS, prior="none"),
        logger="none", test=False, force=True, on_batch=on_batch, on_epoch=epochs.append,
    )  # fmt: skip
    last = epochs[-1]
    steps = last["step"] // EPOCHS
    return {
        "seconds": ROWS / last["rows_per_second"],
        "bytes_per_step": (carried[1] - carried[0]) / (steps - 1),
        "parameters": sum(x.numel() for x in ReaRec(config).parameters()),
        "steps": steps,
    }


def loopback_bytes() -> int:
    """What the loopback device has carried since the machine was started; 0 where nothing says so."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[0] == "lo:"), 0)


def evaluated(dataset: Any, config: ReaRecConfig) -> dict[str, Any]:
    """The second time; the first one warms up."""
    torch.manual_seed(0)
    model = ReaRec(config)
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        ranked = rank_rows(model, dataset, "test")
        seconds.append(time.perf_counter() - begin)
    return {"seconds": seconds[-1], "rows": len(ranked.final)}


def most_memory(dim: int, items: int, split: bool) -> dict[str, Any]:
    """Bytes of each process."""
    small = paper_shaped(FEW_USERS, FEW_ITEMS, MEAN_LENGTH)
    spread = np.asarray(small.items).astype(np.int64) * (items // FEW_ITEMS)
    dataset = replace(small, items=spread.astype(small.items.dtype), item_ids=[str(item) for item in range(items)])
    config = ReaRecConfig(items, method="erl", steps=2, dim=dim, ffn=FFN[dim])
    before = resident("VmRSS")
    train(
        dataset, from_first(tempfile.mkdtemp), config,
        TrainingOptions(epochs=1, batch_rows=FEW_ROWS, prior="none", shard_catalog=split), logger="none", test=False,
        force=True,
    )  # fmt: skip
    after = resident("VmHWM")
    return {"before": gather_values(before), "most": gather_values(after)}


def resident(name: str) -> int:
    """Bytes of this process in memory, now (VmRSS) or at most until now (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
