"""What the native module says of arguments that are not the members of the kernel's struct."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rearec_kernels import PrefixRows, ReasoningCache, build_info, cached_reason_attention, native

pytestmark = pytest.mark.skipif(native.C is None, reason="an install without the native module")

BEST = (0, 0, 0, 1)  # scores, items, rows, k: no rows, so that nothing is read


def exclusion(count: Any = 0) -> tuple[Any, ...]:
    return 0, 0, 0, count


def table(**changes: Any) -> tuple[Any, ...]:
    values = dict(values=0, is_bfloat16=False, is_rounded=False, items=0, width=1, row_stride=1)
    return tuple({**values, **changes}.values())


def topk_direct(**changes: Any) -> None:
    values = dict(hidden=0, table=table(), best=BEST, parts=1, exclusion=exclusion())
    native.C.topk_direct(*{**values, **changes}.values())


def test_the_members_of_a_struct_are_taken() -> None:
    topk_direct()
    native.C.topk_sort(BEST)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"best": BEST[:3]}, TypeError, r"expected a tuple of 4 values, got \(0, 0, 0\)"),
        ({"exclusion": (*exclusion(), 0)}, TypeError, "expected a tuple of 4 values"),
        ({"another": 0}, TypeError, "expected a tuple of 5 values"),
        ({"best": list(BEST)}, TypeError, "expected a tuple of 4 values"),
        ({"table": table(is_bfloat16=0)}, TypeError, "expected a bool, got 0"),
        ({"table": table(items=1.0)}, TypeError, "float"),
        ({"table": table(items=2**63)}, OverflowError, "too big"),
        ({"parts": 2**31}, ValueError, "out of range"),
        ({"hidden": -1}, OverflowError, "negative"),
        ({"hidden": torch.zeros(1)}, TypeError, "an integer is required"),
    ],
)
def test_another_value_says_so(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        topk_direct(**changes)


def test_a_list_has_to_be_one() -> None:
    with pytest.raises(TypeError, match=r"expected a list, got \(\)"):
        native.C.pack_layers((0, 1, 1, 1, 0.0), (), 0)
    with pytest.raises(ValueError, match="as many tensors as"):
        native.C.pack_layers((0, 1, 1, 1, 0.0), [], 0)


def test_limits_are_those_of_the_kernels() -> None:
    assert build_info()["limits"] == {
        "head_dim": native.MAX_HEAD_DIM, "ensemble_states": native.MAX_ENSEMBLE_STATES
    }  # fmt: skip
    x = torch.zeros(1, 1, 1, native.MAX_HEAD_DIM + 1)
    with pytest.raises(ValueError, match=f"may be {native.MAX_HEAD_DIM} at most, got {native.MAX_HEAD_DIM + 1}"):
        cached_reason_attention(x, x, x, ReasoningCache.from_prefix(x, x, max_tokens=1, rows=PrefixRows()))
