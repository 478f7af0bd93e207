"""What is measured: sizes, contenders and targets of every case."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from compare import compare, verdict

from on_gpu.attention import Calls, Shape, chain_with_gradients, input_sets, one_step
from on_gpu.rollout import build_model, random_batch, rollouts
from on_gpu.timing import Clock, Replay, copy_bandwidth, in_turn
from rearec.models import ReaRecConfig

Targets = Mapping[tuple[str, str], tuple[float, float]]
# Seconds to spend on it -> what was measured.
Measure = Callable[[float], dict[str, Any]]

# (must, aim): how many times as long as ours the contender takes, and the share of the copy bandwidth.
FORWARD_TARGETS: Targets = {("time", "naive"): (8, 15), ("time", "SDPA"): (2, 4), ("time", "FlashAttention"): (1, 1.3)}
BANDWIDTH_TARGET = (0.75, 0.90)
TRAINING_TARGETS: Targets = {("time", "naive"): (6, 12), ("time", "SDPA"): (3, 6)}

# Largest distance to ours, as a part of ours: about three times what plain PyTorch's rounding of scores and
# probabilities makes (0.006 and 0.0008), and in float32 far below what TF32 makes.
AGREEMENT = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2.5e-3}

# A replay is to last this long, reckoned from its bytes at this rate.
REPLAY_SECONDS, REPLAY_RATE = 1.5e-3, 4e12


@dataclass(frozen=True)
class Sizes:
    forward_rows: tuple[int, ...]
    shared: tuple[int, int]  # rows, prefixes
    training_rows: tuple[int, ...]
    rollout: tuple[tuple[int, tuple[float, float]], ...]  # rows, the target against naive
    slots: int
    heads: int
    width: int
    steps: int
    items: int
    copied_bytes: int
    batches: int
    replayed_calls: int  # at most, or one per input set
    least_runs: int


FULL = Sizes(
    forward_rows=(2048, 8192, 32768),
    shared=(2048, 256),
    training_rows=(2048, 512),
    rollout=((1, (3, 5)), (256, (3, 4)), (2048, (1.5, 3))),
    slots=50,
    heads=2,
    width=128,
    steps=3,
    items=10_000,
    copied_bytes=4 << 30,
    batches=4,
    replayed_calls=100,
    least_runs=5,
)
DRY = Sizes(
    forward_rows=(3,),
    shared=(6, 2),
    training_rows=(4,),
    rollout=((1, (3, 5)), (3, (1.5, 3))),
    slots=7,
    heads=2,
    width=8,
    steps=3,
    items=20,
    copied_bytes=1 << 16,
    batches=2,
    replayed_calls=4,
    least_runs=2,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Case:
    name: str
    measure: Measure


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
        found = _compare(clock, sizes, contenders, shape.dtype, seconds, size, {"replays": targets})
        copy_gb_per_s = _copy_gb_per_s(clock, sizes)
    rate = size / found.get("replays", found["calls"])["median_ms"]["ours"] / 1e6
    bandwidth = {"bytes": size, "gb_per_s": rate, "copy_gb_per_s": copy_gb_per_s, "share": rate / copy_gb_per_s}
    if targets:
        must, aim = BANDWIDTH_TARGET
        bandwidth |= {"must": must, "aim": aim, "verdict": verdict(bandwidth["share"], must, aim)}
    return found | {"bandwidth": bandwidth, "absent": absent}


def _training(clock: Clock, sizes: Sizes, shape: Shape, seconds: float) -> dict[str, Any]:
    """Several steps and their gradients; launched one by one, as in training, and replayed."""
    sets = input_sets(shape, clock.device, clock.rotated_bytes)
    size = 10 * sets[0].step_bytes()  # a rough count: K and V read by every pass, their gradients written
    targets = {"calls": TRAINING_TARGETS, "replays": TRAINING_TARGETS}
    return _compare(clock, sizes, chain_with_gradients(sets), shape.dtype, seconds, size, targets, memory=True)


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
        return _compare(clock, sizes, made.contenders, dtype, seconds, None, {"calls": {("time", "naive"): target}})


def _compare(
    clock: Clock,
    sizes: Sizes,
    contenders: dict[str, Calls],
    dtype: torch.dtype,
    seconds: float,
    replay_bytes: int | None,
    targets: Mapping[str, Targets],
    memory: bool = False,
) -> dict[str, Any]:
    """Times of single calls from an idle device ("calls") and, unless replay_bytes is None, of replays of many
    ("replays").

    A contender that fails or disagrees with ours is left out and named in "errors", one that cannot be captured in
    "not_captured"; that ours cannot is an error, and then there are no replays.
    """
    errors: dict[str, str] = {}
    agreeing = _agreeing(contenders, AGREEMENT[dtype], errors)
    found: dict[str, Any] = {"errors": errors}
    share = seconds if replay_bytes is None else seconds / 2

    def timed(kind: str, calls: dict[str, Any], **options: Any) -> None:
        known = {key: value for key, value in targets.get(kind, {}).items() if key[1] in calls}
        found[kind] = compare(
            kind, calls, targets=known, seconds=share, least_runs=sizes.least_runs, **options
        ).record()

    calls = {who: in_turn(calls) for who, calls in agreeing.items()}
    timed("calls", calls, time_call=clock.call_seconds, memory_of=clock.peak_memory if memory else None)
    if replay_bytes is not None:
        replays: dict[str, Replay] = {}
        not_captured = found["not_captured"] = {}
        for who, each in agreeing.items():
            wanted = min(sizes.replayed_calls, math.ceil(REPLAY_SECONDS * REPLAY_RATE / replay_bytes))
            try:
                replays[who] = clock.capture(each, math.ceil(wanted / len(each)) * len(each))
            except Exception as error:
                not_captured[who] = _in_a_line(error)
        if "ours" in not_captured:
            errors["ours"] = f"cannot be captured: {not_captured['ours']}"
        else:
            timed("replays", replays, time_call=clock.replay_seconds, memory_of=None)
    return found


def _agreeing(contenders: dict[str, Calls], bound: float, errors: dict[str, str]) -> dict[str, Calls]:
    """Ours and the contenders that compute the same; the first call of each input set."""
    good = {"ours": contenders["ours"]}
    expected = contenders["ours"][0]()
    for call in contenders["ours"][1:]:
        call()
    for who, calls in contenders.items():
        if who == "ours":
            continue
        try:
            for got, ours in zip(calls[0](), expected, strict=True):
                distance = float((got.float() - ours.float()).norm() / ours.float().norm())
                if not distance <= bound:  # nan neither
                    raise ArithmeticError(f"differs from ours by {distance:.1e}, expected {bound:.0e} at most")
            for call in calls[1:]:
                call()
            good[who] = calls
        except Exception as error:
            errors[who] = _in_a_line(error)
    return good


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
