"""Which contenders compute what ours computes: only those are timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# One call per set of inputs.
Calls = Sequence[Callable[[], Any]]


class Disagreement(ArithmeticError):
    """A contender's result is not ours."""


def agreeing(
    contenders: Mapping[str, Calls],
    bound: float | Callable[[str], float],
    compared: Callable[[Any], Sequence[Tensor]] = lambda result: result,
) -> tuple[dict[str, Calls], dict[str, str], dict[str, str]]:
    """Ours and the contenders that compute the same; those that fail or do not, each with the reason; and those that
    do not fit into the memory of the device.

    The first call of each set of inputs, which compiles and tunes, is made here. Ours raises what it raises.

    Args:
        bound: the largest distance of a result to ours, as a part of ours; or that of a contender, by its name.
        compared: of a call's result on the first set of inputs, the tensors that have to agree.
    """
    good, failed, too_large = {"ours": contenders["ours"]}, {}, {}
    expected = [x.detach().float() for x in compared(contenders["ours"][0]())]
    for call in contenders["ours"][1:]:
        call()
    for who, calls in contenders.items():
        if who == "ours":
            continue
        try:
            _check(compared(calls[0]()), expected, bound if isinstance(bound, float) else bound(who))
            for call in calls[1:]:
                call()
        except torch.OutOfMemoryError as error:
            too_large[who] = f"does not fit: {in_a_line(error)}"
            torch.cuda.empty_cache()  # the blocks it got before it failed are of no use to the others
        except Exception as error:  # theirs: it is named, and the others go on
            failed[who] = in_a_line(error)
        else:
            good[who] = calls
    return good, failed, too_large


def in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _check(got: Sequence[Tensor], expected: Sequence[Tensor], bound: float) -> None:
    for a, b in zip(got, expected, strict=True):
        distance = float((a.detach().float() - b).norm() / b.norm())
        if not distance <= bound:  # nan neither
            raise Disagreement(f"differs from ours by {distance:.1e}, expected {bound:.0e} at most")
