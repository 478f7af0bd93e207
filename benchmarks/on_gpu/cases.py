"""What is measured: contenders and targets of every case."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from compare import verdict

from on_gpu.attention import Shape, chain_with_gradients, input_sets, one_step
from on_gpu.catalog_cases import loss_cases, retrieval_cases
from on_gpu.comparison import Case, Targets, bandwidth_share, compare_contenders
from on_gpu.rollout import build_model, random_batch, rollouts
from on_gpu.sizes import Sizes
from on_gpu.timing import Clock, copy_bandwidth
from rearec.models import ReaRecConfig

# (must, aim): how many times as long as ours the contender takes, and the share of the copy bandwidth.
FORWARD_TARGETS: Targets = {("time", "naive"): (8, 15), ("time", "SDPA"): (2, 4), ("time", "FlashAttention"): (1, 1.3)}
BANDWIDTH_TARGET = (0.75, 0.90)
TRAINING_TARGETS: Targets = {("time", "naive"): (6, 12), ("time", "SDPA"): (3, 6)}

# Largest distance to ours, as a part of ours: about three times what plain PyTorch's rounding of scores and
# probabilities makes (0.006 and 0.0008), and in float32 far below what TF32 makes.
AGREEMENT = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2.5e-3}
BYTE_RATE = 4e12  # per second: no call is faster, which tells how many of them a replay needs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def cases(stage: str, clock: Clock, sizes: Sizes) -> Iterator[Case]:
    """The cases of a measuring stage."""
    dtypes, lengths = DTYPES.items(), (("ragged", True), ("full", False))
    attention = partial(Shape, slots=sizes.slots, heads=sizes.heads, width=sizes.width)
    if stage == "ceilings":
        yield Case("copy within the device's memory", lambda _: {"copy_gb_per_s": _copy_gb_per_s(clock, sizes)})
    elif stage == "forward":
        for rows, (name, dtype), (length, ragged) in itertools.product(sizes.forward_rows, dtypes, lengths):
            shape = attention(rows, rows, steps=1, dtype=dtype, ragged=ragged)
            yield Case(f"R {rows} {name} {length}", partial(_forward, clock, sizes, shape, FORWARD_TARGETS))
    elif stage == "shared":
        rows, prefixes = sizes.shared
        for name, dtype in dtypes:
            shape = attention(rows, prefixes, steps=1, dtype=dtype, ragged=True)
            yield Case(f"R {rows} S {prefixes} {name} ragged", partial(_forward, clock, sizes, shape, {}))
    elif stage == "training":
        names = ("float32", "bfloat16")
        for rows, name, (length, ragged) in itertools.product(sizes.training_rows, names, lengths):
            shape = attention(rows, rows, steps=sizes.steps, dtype=DTYPES[name], ragged=ragged)
            yield Case(f"R {rows} {name} {length}", partial(_training, clock, sizes, shape))
    elif stage == "losses":
        yield from loss_cases(clock, sizes)
    elif stage == "retrieval":
        yield from retrieval_cases(clock, sizes)
    elif stage == "rollout":
        for (rows, target), name in itertools.product(sizes.rollout, ("float32", "bfloat16")):
            yield Case(f"R {rows} {name}", partial(_rollout, clock, sizes, rows, DTYPES[name], target))
    else:
        raise ValueError(f"{stage}: no such stage")


def _copy_gb_per_s(clock: Clock, sizes: Sizes) -> float:
    return copy_bandwidth(clock, sizes.copied_bytes) / 1e9


def _forward(clock: Clock, sizes: Sizes, shape: Shape, targets: Targets, seconds: float) -> dict[str, Any]:
    """One step without gradients. Judged by replays: launching a single call takes longer than computing it."""
    sets = input_sets(shape, clock.device, clock.rotated_bytes)
    size = sum(s.step_bytes() for s in sets) // len(sets)
    with torch.no_grad():
        contenders, absent = one_step(sets)
        found = compare_contenders(
            clock, sizes, contenders, AGREEMENT[shape.dtype], seconds, size / BYTE_RATE, {"replays": targets}
        )
        bandwidth = bandwidth_share(found, size, "copy", _copy_gb_per_s(clock, sizes))
    if targets:
        must, aim = BANDWIDTH_TARGET
        bandwidth |= {"must": must, "aim": aim, "verdict": verdict(bandwidth["share"], must, aim)}
    return found | {"bandwidth": bandwidth, "absent": absent}


def _training(clock: Clock, sizes: Sizes, shape: Shape, seconds: float) -> dict[str, Any]:
    """Several steps and their gradients; launched one by one, as in training, and replayed."""
    sets = input_sets(shape, clock.device, clock.rotated_bytes)
    size = 10 * sets[0].step_bytes()  # a rough count: K and V read by every pass, their gradients written
    targets = {"calls": TRAINING_TARGETS, "replays": TRAINING_TARGETS}
    contenders, bound = chain_with_gradients(sets), AGREEMENT[shape.dtype]
    return compare_contenders(clock, sizes, contenders, bound, seconds, size / BYTE_RATE, targets, memory=True)


def _rollout(
    clock: Clock, sizes: Sizes, rows: int, dtype: torch.dtype, target: tuple[float, float], seconds: float
) -> dict[str, Any]:
    """A model's whole forward pass, as one call from an idle device: what answering a request takes."""
    dim = sizes.heads * sizes.width
    config = ReaRecConfig(
        sizes.items, method="prl", steps=sizes.steps, dim=dim, layers=2, heads=sizes.heads, max_len=sizes.slots
    )
    model = build_model(config, clock.device, dtype)
    made = rollouts(model, [random_batch(config, rows, clock.device, seed) for seed in range(sizes.batches)])
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="the model cannot be captured")
        for call in made.contenders["ours"]:
            call()
        if clock.device.type == "cuda" and made.graphed.num_graphs != 1:
            raise RuntimeError(f"the rollout became {made.graphed.num_graphs} graphs, expected 1")
        targets = {"calls": {("time", "naive"): target}}
        return compare_contenders(clock, sizes, made.contenders, AGREEMENT[dtype], seconds, None, targets)
