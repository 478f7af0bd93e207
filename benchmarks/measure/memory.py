"""How much memory a training step takes at its peak, in a process of its own: `python -m measure.memory WHO`
in benchmarks/.

WHO is a contender of `training_steps` (see --help). ERL with K 2, d 256, N 87,969 items, 512 rows. The optimiser's
state is there before the step, as it is in every step but the first. Prints one json: megabytes resident before the
step, at its peak, and the difference.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import resource
import sys
from functools import partial
from pathlib import Path

import bench_data
import torch
from contenders.careful_model import CarefulModel
from contenders.libraries.clock import peak_memory
from contenders.official import OfficialModel
from contenders.training_steps import CAREFUL, FIXED, PUBLISHED, Ours, Plain, careful_arguments, make_ours, sample

from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec

ROWS, DIM, FFN = 512, 256, 300
DATA = "CDs-like"
WHO = {"ours": "fp32", "ours, bf16": "bf16", CAREFUL: None, PUBLISHED: None, FIXED: None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=WHO)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(json.dumps(measure(options.who)))


def measure(who: str) -> dict[str, float]:
    """Megabytes. The step's batch has rows of average length."""
    torch.manual_seed(0)
    dataset = bench_data.synthetic(DATA)
    config = ReaRecConfig(dataset.num_items, method="erl", steps=2, dim=DIM, ffn=FFN)
    weights = ReaRec(config).state_dict()
    ours = make_ours(dataset, config, weights, ROWS, WHO[who] or "fp32")
    rows = sample(dataset, ours.loader, 1)
    contender: Ours | Plain = ours
    if WHO[who]:
        step = partial(ours.step, rows)
    elif who == CAREFUL:
        contender = Plain(CarefulModel(config), weights, contrastive=False)
        step = partial(contender.step, partial(map, careful_arguments, list(rows.batches())))
    else:
        contender = Plain(OfficialModel(config, mask_fixed=who == FIXED), weights, contrastive=False)
        step = partial(contender.step, lambda: [arguments])
        arguments = rows.left_padded(rows.indices[0], config.max_len)
    _create_optimizer_state(contender.optimizer)
    del ours, weights
    gc.collect()
    _forget_peak()
    before = _resident()
    step()
    peak = peak_memory()
    return {"before_mb": before / 2**20, "peak_mb": peak / 2**20, "step_mb": (peak - before) / 2**20}


def _create_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """By a step with zero gradients, one parameter after the other."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            parameter.grad = None


def _forget_peak() -> None:
    """Gives freed memory back and sets the peak to what is resident, where the system can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
