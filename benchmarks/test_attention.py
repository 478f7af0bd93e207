"""Reasoning steps over a prefix of 50 slots, H 2, D 128: forward, and forward + backward."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from contenders.attention_inputs import Inputs, Shape, steps_without_gradients, training_steps
from measure.compare import Target
from measure.contest import Contest
from measure.yardsticks import copies

# Largest distance to ours, as a part of ours: about three times what plain PyTorch's rounding of scores and
# probabilities makes (0.006 and 0.0008), and in float32 far below what TF32 makes.
AGREEMENT = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2.5e-3}
BYTE_RATE = 4e12  # per second: no call on a GPU is faster, which tells how many of them a replay needs
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    device: str
    shape: Shape
    targets: Sequence[Target] = ()

    @property
    def name(self) -> str:
        shape = self.shape
        shared = f", {shape.rows_per_prefix} rows a prefix" if shape.rows_per_prefix > 1 else ""
        dtype = "" if shape.dtype == torch.float32 else f", {str(shape.dtype).removeprefix('torch.')}"
        return f"{shape.steps} step{'s' * (shape.steps > 1)}, R {shape.rows}, {shape.lengths} lengths{shared}{dtype}"


def _cases(device: str, rows: Sequence[int], targets: Any, **sizes: Any) -> list[Case]:
    lengths = ("full", "ragged")
    return [
        Case(device, Shape(r, ragged=n == "ragged", **sizes), targets(r, n))
        for r, n in itertools.product(rows, lengths)
    ]


def _cpu_forward(rows: int, lengths: str) -> list[Target]:
    careful = Target("SDPA", 1.1, 1.25) if lengths == "full" else Target("SDPA", 1.5, 2.0)
    return [Target("naive", 7.0, 14.0), careful] if rows >= 512 else []


def _cpu_training(rows: int, lengths: str) -> list[Target]:
    others = [Target(who, 4.0, 6.5) for who in ("SDPA", "PyTorch, split")]
    return [Target("naive", 6.0, 9.0), *others] if rows >= 512 else []


ON_A_GPU = [
    Target("naive", 8, 15), Target("SDPA", 2, 4), Target("FlashAttention", 1, 1.3),
    Target("copying as many bytes", 0.75, 0.90, kind="bandwidth"),
]  # fmt: skip
TRAINING_ON_A_GPU = [Target("naive", 6, 12), Target("SDPA", 3, 6)]

FORWARD = [
    *_cases("cpu", (32, 512, 2048), _cpu_forward, steps=3),
    *(
        case
        for dtype in DTYPES
        for case in _cases("cuda", (2048, 8192, 32768), lambda *_: ON_A_GPU, steps=1, dtype=dtype)
    ),
    *(Case("cuda", Shape(2048, 1, ragged=True, dtype=dtype, rows_per_prefix=8)) for dtype in DTYPES),
]
TRAINING = [
    *_cases("cpu", (32, 512, 2048), _cpu_training, steps=3),
    *(
        case
        for dtype in DTYPES[:2]
        for case in _cases("cuda", (2048, 512), lambda *_: TRAINING_ON_A_GPU, steps=3, dtype=dtype)
    ),
]


def _inputs(contest: Contest, case: Case) -> tuple[Case, list[Inputs]]:
    case = replace(case, shape=contest.size(case.shape))
    return case, contest.sets(partial(Inputs, case.shape, contest.device), lambda s: s.step_bytes())


@pytest.mark.parametrize("case", FORWARD, ids=lambda case: f"{case.device}, {case.name}")
def test_forward(case: Case, contest: Contest) -> None:
    """Without gradients. On a GPU judged by replays: launching a call takes longer than computing it."""
    case, sets = _inputs(contest, case)
    size = sum(s.step_bytes() for s in sets) // len(sets)
    with torch.no_grad(), contest.backend("cuda"):
        contenders, absent = steps_without_gradients(sets)
        contest(
            f"attention forward, {case.name}",
            contenders,
            bound=AGREEMENT[case.shape.dtype],
            targets=case.targets,
            absent=absent,
            yardsticks=copies(contest, size) if contest.device.type == "cuda" else {},
            call_seconds=size / BYTE_RATE,
            judged_by="replays",
            seconds=3,
        )


@pytest.mark.parametrize("case", TRAINING, ids=lambda case: f"{case.device}, {case.name}")
def test_forward_backward(case: Case, contest: Contest) -> None:
    case, sets = _inputs(contest, case)
    with contest.backend("cuda"):
        contest(
            f"attention forward + backward, {case.name}",
            training_steps(sets),
            bound=AGREEMENT[case.shape.dtype],
            targets=case.targets,
            # a rough count: K and V read by every pass, their gradients written
            call_seconds=10 * sets[0].step_bytes() / BYTE_RATE,
            seconds=3,
            least_runs=3,
        )
