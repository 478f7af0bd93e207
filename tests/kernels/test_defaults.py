"""torch.set_default_dtype and torch.set_default_device are the user's: no result, mask or gradient depends on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from public_calls import DIFFERENTIABLE, EVERY, LAYER_NORM
from torch import Tensor

from rearec_kernels import (
    PrefixRows,
    ReasoningCache,
    annealed_temperatures,
    available_backends,
    cached_reason_attention,
    catalog_rank,
    catalog_topk,
    dropout_add_layer_norm,
    ensemble_reasoning_loss,
    use_backend,
)
from rearec_kernels.compat import flash_attn_with_kvcache

BACKENDS = available_backends("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
DEFAULTS = [torch.bfloat16, torch.float16, torch.float64, "meta"]


@contextmanager
def default(what: torch.dtype | str) -> Iterator[None]:
    before = torch.get_default_dtype()
    set_to = torch.set_default_dtype if isinstance(what, torch.dtype) else torch.set_default_device
    set_to(what)  # type: ignore[operator]
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)


def cpu_randn(*size: int) -> Tensor:
    return torch.randn(size, dtype=torch.float32, device="cpu")


def results(name: str) -> list[Tensor]:
    torch.manual_seed(0)
    x = cpu_randn(3, 2, 8).requires_grad_(name in {**DIFFERENTIABLE, **LAYER_NORM})
    out = EVERY[name](x)
    gradient = torch.autograd.grad(out.square().sum(), x) if x.requires_grad else ()
    return [out.detach(), *gradient]


@cache
def usual(backend: str, name: str) -> list[Tensor]:
    """The results without another default, which those with any are compared with."""
    with use_backend(backend):
        return results(name)


# What Triton serves.
SERVED = [(b, name) for b in BACKENDS for name in EVERY if b != "triton" or "rollout" not in name]


@pytest.mark.parametrize("what", DEFAULTS, ids=str)
@pytest.mark.parametrize(("backend", "name"), SERVED)
def test_every_call(backend: str, name: str, what: torch.dtype | str) -> None:
    expected = usual(backend, name)
    with use_backend(backend), default(what):
        got = results(name)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and a.device == b.device
        assert torch.equal(a, b)


def index(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device="cpu")


def results_of_options(backend: str) -> list[Tensor]:
    """With dropout, excluded items and ignored rows."""
    torch.manual_seed(0)
    k, q, table = (cpu_randn(*size).requires_grad_() for size in [(3, 5, 1, 8), (4, 2, 8), (300, 8)])
    rows = PrefixRows(index(0, 1, 0, 2), None, index(0, 1, 1, 2))
    out = []
    for p in (0.0, 0.4):
        cache = ReasoningCache.from_prefix(k, k, max_tokens=1, rows=rows)
        attended = cached_reason_attention(q, q[:, :1], q[:, 1:], cache, dropout_p=p, seed=1)
        out += [attended.detach(), *torch.autograd.grad(attended.square().sum(), (k, q))]
    for form in ("official", "paper"):
        loss = ensemble_reasoning_loss(q, table, index(1, -100, 7, 299), temperature=0.5, kl_weight=0.1, kl_form=form)
        out += [*(x.detach() for x in loss), *torch.autograd.grad(loss.loss, (q, table))]
    hidden, items = q[:, 0].detach(), table.detach()
    for exclude in (index(3, 4), (index(0, 1, 1, 2, 2), index(5, 6))):
        out += [*catalog_topk(hidden, items, 7, exclude=exclude)]
        out += [catalog_rank(hidden, items, index(1, 2, 3, 4), exclude=exclude)]
    caches = [cpu_randn(4, 6, 1, 8) for _ in range(2)]
    out.append(flash_attn_with_kvcache(q[:, None].detach(), *caches, cache_seqlens=3, causal=True))
    if backend != "triton":
        out.append(dropout_add_layer_norm(hidden, None, items[0], items[1], dropout_p=0.3, seed=2))
    return [*out, annealed_temperatures(1.0, 2.0, 3)]


@cache
def usual_of_options(backend: str) -> list[Tensor]:
    with use_backend(backend):
        return results_of_options(backend)


@pytest.mark.parametrize("what", DEFAULTS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_exclusion_and_ignored_rows(backend: str, what: torch.dtype | str) -> None:
    expected = usual_of_options(backend)
    with use_backend(backend), default(what):
        got = results_of_options(backend)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and a.device == b.device
        assert torch.equal(a, b)


@pytest.mark.parametrize("what", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "triton"])
def test_ranks_that_a_short_dtype_cannot_hold(backend: str, what: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden, table, target = cpu_randn(6, 4), cpu_randn(100_000, 4), torch.randint(0, 100_000, (6,))
    with use_backend(backend):
        expected = catalog_rank(hidden, table, target)
        with default(what):
            got = catalog_rank(hidden, table, target)
    assert got.dtype == torch.float32 and torch.equal(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_and_ranks_are_float32(backend: str, dtype: torch.dtype) -> None:
    hidden, table = torch.randn(3, 8).to(dtype), torch.randn(50, 8).to(dtype)
    served = {"reference": DTYPES, "cpu": DTYPES[:2]}.get(backend, DTYPES[:3])
    if dtype not in served:
        with use_backend(backend), pytest.raises(ValueError, match="does not serve torch"):
            catalog_topk(hidden, table, 4)
        return
    with use_backend(backend):
        scores, items = catalog_topk(hidden, table, 4)
        ranks = catalog_rank(hidden, table, items[:, 1])
    assert (scores.dtype, items.dtype, ranks.dtype) == (torch.float32, torch.int64, torch.float32)
    # Exact but for scores that tie in a short dtype's products.
    assert (ranks - 1).abs().max() <= 0.5
