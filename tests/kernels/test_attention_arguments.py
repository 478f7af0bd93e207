"""Errors of PrefixRows, ReasoningCache and cached_reason_attention: one line that names the argument."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rearec_kernels import PrefixRows, ReasoningCache, cached_reason_attention, use_backend


def cache(rows: int = 3, slots: int = 4, heads: int = 2, width: int = 8, max_tokens: int = 2) -> ReasoningCache:
    return ReasoningCache.from_prefix(*torch.zeros(2, rows, slots, heads, width).unbind(), max_tokens=max_tokens)


def q(rows: int = 3, heads: int = 2, width: int = 8) -> torch.Tensor:
    return torch.zeros(rows, heads, width)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(q=q(4)), ValueError, r"q must have shape .* R = 3 and D = 8, got \[4, 1, 2, 8\]"),
        (dict(q=q(width=6)), ValueError, r"q must have shape"),
        (dict(q=q(heads=3)), ValueError, r"q has 3 heads, expected a multiple of the cache's 2"),
        (dict(k=q(heads=4)), ValueError, r"k must have shape \[3, 1, 2, 8\], got \[3, 1, 4, 8\]"),
        (dict(v=torch.zeros(3, 2, 2, 8)), ValueError, r"v must have shape \[3, 1, 2, 8\]"),
        (dict(q=q().long()), TypeError, r"q must be a floating-point tensor, got torch.int64 \[3, 1, 2, 8\]"),
        (dict(v=None), TypeError, r"v must be a floating-point tensor, got NoneType"),
        (dict(cache=q()), TypeError, r"cache must be a ReasoningCache"),
        (dict(dropout_p=1.0), ValueError, r"dropout_p must be in \[0, 1\), got 1.0"),
        (dict(step=1), IndexError, r"step 1 leaves a gap, the cache holds 0"),
        (dict(step=-1), IndexError, r"step -1 leaves a gap"),
        (dict(step=0.0), TypeError, r"step must be an int, got float"),
        (dict(dropout_p="0.1"), TypeError, r"dropout_p must be a number, got str"),
        (dict(softmax_scale=float("nan")), ValueError, r"softmax_scale must be finite, got nan"),
        (dict(seed=1.7, dropout_p=0.5), TypeError, r"seed must be an int, got float"),
        (dict(seed=2**63, dropout_p=0.5), ValueError, r"seed must fit into a signed 64-bit"),
        (dict(seed=torch.zeros(2), dropout_p=0.5), ValueError, r"seed must be an int or int64 \[1\]"),
    ],
)
def test_call(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    defaults = dict(q=q(), k=q(), v=q(), cache=cache())
    with pytest.raises(error, match=message):
        cached_reason_attention(**{**defaults, **arguments})


def test_too_many_tokens() -> None:
    full = cache(max_tokens=1)
    cached_reason_attention(q(), q(), q(), full)
    with pytest.raises(IndexError, match="1 more reasoning tokens at 1 do not fit into max_tokens = 1"):
        cached_reason_attention(q(), q(), q(), full)
    cached_reason_attention(q(), q(), q(), full, step=0)


def test_step_inside_tokens_appended_together() -> None:
    two = cache()
    tokens = torch.zeros(3, 2, 2, 8, requires_grad=True)
    cached_reason_attention(tokens, tokens, tokens, two)
    with pytest.raises(ValueError, match="step 1 does not start where an earlier call's tokens start"):
        cached_reason_attention(q().requires_grad_(), q(), q(), two, step=1)


@pytest.mark.parametrize(
    "k, v, options, error, message",
    [
        (
            torch.zeros(2, 3, 4),
            torch.zeros(2, 3, 4),
            {},
            ValueError,
            r"k must have shape \[S, C, Hkv, D\], got \[2, 3, 4\]",
        ),
        (torch.zeros(2, 3, 1, 4), torch.zeros(2, 3, 1, 5), {}, ValueError, "k and v must agree"),
        (torch.zeros(2, 3, 1, 4), torch.zeros(2, 3, 1, 4).double(), {}, ValueError, "k and v must agree"),
        (torch.zeros(2, 3, 1, 4).int(), torch.zeros(2, 3, 1, 4), {}, TypeError, "k must be a floating-point tensor"),
        (torch.zeros(2, 3, 4, 1).mT, torch.zeros(2, 3, 4, 1).mT, {}, None, ""),
        (torch.zeros(2, 3, 8, 4).mT, torch.zeros(2, 3, 8, 4).mT, {}, ValueError, "last dimension of k must be dense"),
        (
            torch.zeros(2, 3, 1, 4),
            torch.zeros(2, 3, 1, 4),
            {"max_tokens": 0},
            ValueError,
            "max_tokens must be an int of at",
        ),
        (
            torch.zeros(2, 3, 1, 4),
            torch.zeros(2, 3, 1, 4),
            {"rows": 3},
            TypeError,
            "rows must be a PrefixRows, got int",
        ),
    ],
)
def test_cache(
    k: torch.Tensor, v: torch.Tensor, options: dict[str, Any], error: type[Exception] | None, message: str
) -> None:
    if error is None:
        ReasoningCache.from_prefix(k, v, max_tokens=1)
        return
    with pytest.raises(error, match=message):
        ReasoningCache.from_prefix(k, v, **{"max_tokens": 1, **options})


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(start=[0, 0]), TypeError, "start must be an int32 or int64 tensor"),
        (dict(end=torch.zeros(2)), TypeError, "end must be an int32 or int64 tensor"),
        (dict(start=torch.zeros(2).int(), end=torch.zeros(3).int()), ValueError, r"end must have shape \[R\] = \[2\]"),
        (dict(start=torch.zeros(2).int()), ValueError, "2 rows for 3 prefixes need row_prefix"),
        (dict(start=torch.tensor([0, -1, 0])), ValueError, "row 1 has start -1, end 4"),
        (dict(end=torch.tensor([0, 1, 5])), ValueError, r"row 2 has start 0, end 5, .* 0 <= start <= end <= 4"),
        (dict(end=torch.tensor([2**32 + 1, 1, 1])), ValueError, "row 0 has start 0, end 4294967297"),
        (dict(row_prefix=torch.tensor([0, 2**32, 1])), ValueError, "row 1 has .* row_prefix 4294967296"),
        (dict(start=torch.tensor([0, 3, 0]), end=torch.tensor([1, 2, 3])), ValueError, "row 1 has start 3, end 2"),
        (dict(row_prefix=torch.tensor([0, 3])), ValueError, "row 1 .* 0 <= row_prefix < 3"),
    ],
)
def test_rows(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        k, v = torch.zeros(2, 3, 4, 2, 8).unbind()
        ReasoningCache.from_prefix(k, v, max_tokens=1, rows=PrefixRows(**arguments))


def test_rows_that_are_used_on_two_devices() -> None:
    k, on_meta = torch.zeros(3, 4, 2, 8), torch.zeros(3, 4, 2, 8, device="meta")
    rows, given = PrefixRows(), PrefixRows(end=torch.tensor([1, 2, 3]))
    for x in (k, on_meta, k):
        assert ReasoningCache.from_prefix(x, x, max_tokens=1, rows=rows).index.start.device == x.device
    ReasoningCache.from_prefix(k, k, max_tokens=1, rows=given)
    with pytest.raises(ValueError, match="end is on cpu, the prefix on meta"):
        ReasoningCache.from_prefix(on_meta, on_meta, max_tokens=1, rows=given)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_valid_rows_are_grouped_by_prefix(data: st.DataObject) -> None:
    prefixes, slots = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 5))
    count = data.draw(st.integers(0, 12))
    which = data.draw(st.lists(st.integers(0, prefixes - 1), min_size=count, max_size=count))
    rows = PrefixRows(row_prefix=torch.tensor(which, dtype=torch.int64))
    index = rows.index(prefixes, slots, torch.device("cpu"))
    for s in range(prefixes):
        mine = index.order[index.offsets[s] : index.offsets[s + 1]].tolist()
        assert mine == [r for r, prefix in enumerate(which) if prefix == s]
    assert index.start.tolist() == [0] * count and index.end.tolist() == [slots] * count
    assert rows.index(prefixes, slots, torch.device("cpu")) is index


@settings(max_examples=60, deadline=None)
@given(st.integers(-3, 8), st.integers(-3, 8), st.integers(-2, 4))
def test_bad_values_raise_and_good_ones_do_not(start: int, end: int, prefix: int) -> None:
    rows = PrefixRows(torch.tensor([start]), torch.tensor([end]), torch.tensor([prefix]))
    if 0 <= start <= end <= 5 and 0 <= prefix < 3:
        rows.index(3, 5, torch.device("cpu"))
    else:
        with pytest.raises(ValueError, match="row 0 has"):
            rows.index(3, 5, torch.device("cpu"))


def test_select_out_of_range() -> None:
    with pytest.raises(IndexError, match=r"row_ids must be in \[0, 2\], got 0 to 3"):
        cache().select(torch.tensor([0, 3]))
    with pytest.raises(TypeError, match="row_ids must be an int64 tensor"):
        cache().select([0])  # type: ignore[arg-type]


def test_unknown_backend() -> None:
    with (
        pytest.raises(ValueError, match="unknown backend 'gpu'; expected one of reference, cpu, cuda, triton"),
        use_backend("gpu"),
    ):
        pass
    with pytest.raises(ValueError, match="'cuda' cannot run on cpu"), use_backend("cuda"):
        cached_reason_attention(q(), q(), q(), cache())
