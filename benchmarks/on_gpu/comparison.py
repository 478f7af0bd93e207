"""Several contenders side by side, those that agree with ours: times of single calls and of replays, peak memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from compare import compare
from torch import Tensor

from on_gpu.sizes import Sizes
from on_gpu.timing import Clock, Replay, in_turn

Results = Sequence[Tensor]
# One call per input set.
Calls = list[Callable[[], Results]]
# (kind, contender): (must, aim), how many times as much as ours the contender takes.
Targets = Mapping[tuple[str, str], tuple[float, float]]

# Seconds to spend on it -> what was measured.
Measure = Callable[[float], dict[str, Any]]

REPLAY_SECONDS = 1.5e-3  # that a replay is to last at least


@dataclass(frozen=True)
class Case:
    name: str
    measure: Measure


def compare_contenders(
    clock: Clock,
    sizes: Sizes,
    contenders: dict[str, Calls],
    bound: float,
    seconds: float,
    expected_seconds: float | None,
    targets: Mapping[str, Targets],
    *,
    memory: bool = False,
    yardsticks: Mapping[str, Calls] | None = None,
    compared: Callable[[Results], Results] = lambda results: results,
    capture_may_fail: bool = False,
) -> dict[str, Any]:
    """Times of single calls from an idle device ("calls") and, unless expected_seconds is None, of replays of many
    ("replays").

    A contender that fails or disagrees with ours is left out and named in "errors", one that does not fit into the
    device's memory in "out_of_memory", one that cannot be captured in "not_captured". When ours cannot, there are no
    replays, and that is an error unless capture_may_fail.

    Args:
        bound: largest distance of a result to ours, as a part of ours.
        expected_seconds: of one call of ours, roughly; says how many of them a replay makes.
        yardsticks: timed like contenders, but they compute something else.
        compared: of a call's results on the first input set, what has to agree.
    """
    errors: dict[str, str] = {}
    out_of_memory: dict[str, str] = {}
    agreeing = _agreeing(contenders, bound, compared, errors, out_of_memory)
    for who, calls in (yardsticks or {}).items():
        for call in calls:
            call()
        agreeing[who] = calls
    found: dict[str, Any] = {"errors": errors, "out_of_memory": out_of_memory}
    share = seconds if expected_seconds is None else seconds / 2

    def timed(kind: str, calls: dict[str, Any], **options: Any) -> None:
        known = {key: value for key, value in targets.get(kind, {}).items() if key[1] in calls}
        found[kind] = compare(
            kind, calls, targets=known, seconds=share, least_runs=sizes.least_runs, **options
        ).record()

    turns = {who: in_turn(calls) for who, calls in agreeing.items()}
    timed("calls", turns, time_call=clock.call_seconds, memory_of=clock.peak_memory if memory else None)
    if expected_seconds is not None:
        replays: dict[str, Replay] = {}
        not_captured = found["not_captured"] = {}
        for who, each in agreeing.items():
            wanted = min(sizes.replayed_calls, math.ceil(REPLAY_SECONDS / expected_seconds))
            try:
                replays[who] = clock.capture(each, math.ceil(wanted / len(each)) * len(each))
            except Exception as error:
                not_captured[who] = _in_a_line(error)
        if "ours" not in not_captured:
            timed("replays", replays, time_call=clock.replay_seconds, memory_of=None)
        elif not capture_may_fail:
            errors["ours"] = f"cannot be captured: {not_captured['ours']}"
    return found


def median_ms(found: dict[str, Any], *others: str) -> dict[str, float]:
    """Of the replays, or of the calls where ours or one of `others` was not replayed."""
    replayed = found.get("replays", {"median_ms": {}})["median_ms"]
    return replayed if {"ours", *others} <= set(replayed) else found["calls"]["median_ms"]


def bandwidth_share(found: dict[str, Any], size: int, ceiling: str, ceiling_gb_per_s: float) -> dict[str, Any]:
    """`size` bytes per call of ours, beside what copying or reading reaches."""
    rate = size / median_ms(found)["ours"] / 1e6
    share = rate / ceiling_gb_per_s
    return {
        "bytes": size,
        "gb_per_s": rate,
        "ceiling": ceiling,
        "ceiling_gb_per_s": ceiling_gb_per_s,
        "share": share,
    }


def _agreeing(
    contenders: dict[str, Calls],
    bound: float,
    compared: Callable[[Results], Results],
    errors: dict[str, str],
    out_of_memory: dict[str, str],
) -> dict[str, Calls]:
    """Ours and the contenders that compute the same; the first call of each input set, which compiles and tunes."""
    good = {"ours": contenders["ours"]}
    expected = compared(contenders["ours"][0]())
    for call in contenders["ours"][1:]:
        call()
    for who, calls in contenders.items():
        if who == "ours":
            continue
        try:
            for got, ours in zip(compared(calls[0]()), expected, strict=True):
                distance = float((got.float() - ours.float()).norm() / ours.float().norm())
                if not distance <= bound:  # nan neither
                    raise ArithmeticError(f"differs from ours by {distance:.1e}, expected {bound:.0e} at most")
            for call in calls[1:]:
                call()
            good[who] = calls
        except torch.OutOfMemoryError as error:
            out_of_memory[who] = _in_a_line(error)
        except Exception as error:
            errors[who] = _in_a_line(error)
        if who in out_of_memory and torch.cuda.is_available():
            torch.cuda.empty_cache()  # the blocks it got before it failed are of no use to the others
    return good


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
