"""Time of a step in a process of its own: `python benchmarks/busy_steps.py WHAT --threads N`.

WHAT is "loss" (annealed_cross_entropy of 512 x 3 states over 7,139 items, d 16, with torch's operators before it) or
"training" (prl, K 2, d 16, 2,048 rows). Prints one json: seconds of a step, the median, and the processor time of one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from rearec_kernels import annealed_cross_entropy

LEAST_STEPS = 5


def loss_step() -> Callable[[], None]:
    inner, weight = torch.randn(64, 16), torch.randn(7139, 16, requires_grad=True)
    target = torch.randint(0, 7139, (512,))

    def step() -> None:
        states = torch.randn(512, 3, 16, requires_grad=True)
        F.layer_norm(torch.relu(states.detach().reshape(-1, 16) @ inner.T), (64,))
        annealed_cross_entropy(states, weight, target, temperature=[0.07] * 3).backward()

    return step


def training_step() -> Callable[[], None]:
    from contenders.training_steps import make_ours, sample

    from rearec.data.synthetic import paper_shaped
    from rearec.models.config import ReaRecConfig
    from rearec.reasoning import ReaRec

    dataset = paper_shaped(3000, 7139, 9.0)
    config = ReaRecConfig(dataset.num_items, method="prl", steps=2, dim=16, ffn=32)
    ours = make_ours(dataset, config, ReaRec(config).state_dict(), 2048, "fp32")
    rows = sample(dataset, ours.loader, 1)
    return lambda: ours.step(rows) and None


STEPS = {"loss": loss_step, "training": training_step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=STEPS)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    step = STEPS[options.what]()
    for _ in range(3):
        step()
    times: list[float] = []
    spent, end = time.process_time(), time.perf_counter() + options.seconds
    while len(times) < LEAST_STEPS or time.perf_counter() < end:
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    processor = (time.process_time() - spent) / len(times)
    print(json.dumps({"seconds": statistics.median(times), "mean": statistics.mean(times), "processor": processor}))


if __name__ == "__main__":
    main()
