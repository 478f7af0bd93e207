"""Index tensors that a caller hands in: copied, so that writing them later changes nothing, and looked at inside the
op, so that torch.compile does not lose the check."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rearec_kernels import (
    PrefixRows,
    ReasoningCache,
    annealed_cross_entropy,
    annealed_temperatures,
    cached_reason_attention,
    catalog_rank,
    catalog_topk,
    dropout_add_layer_norm,
    ensemble_reasoning_loss,
    reasoning_info_nce,
    use_backend,
)
from rearec_kernels.compat import flash_attn_with_kvcache
from rearec_kernels.dispatch import available_backends

BACKENDS = [name for name in available_backends("cpu") if name != "triton"]
FAR = -(10**9)


def prefix() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(3, 6, 1, 4), torch.randn(3, 1, 4)


@pytest.mark.parametrize("write", [lambda x: x.add_(3), lambda x: x.fill_(FAR), lambda x: x.data.fill_(FAR)])
@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("name", ["start", "end", "row_prefix"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_are_copies(
    backend: str, name: str, dtype: torch.dtype, used_before: bool, write: Callable[[Tensor], object]
) -> None:
    k, q = prefix()
    given = torch.tensor([2, 1, 0], dtype=dtype)
    rows = PrefixRows(**{name: given})  # type: ignore[arg-type]

    def attend(rows: PrefixRows) -> Tensor:
        cache = ReasoningCache.from_prefix(k, k, max_tokens=1, rows=rows)
        return cached_reason_attention(q, q, q, cache)

    with use_backend(backend), torch.no_grad():
        expected = attend(PrefixRows(**{name: given.clone()}))  # type: ignore[arg-type]
        if used_before:
            attend(rows)
        write(given)
        assert torch.equal(attend(rows), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_backward_pass_reads_is_a_copy(backend: str, dtype: torch.dtype) -> None:
    """Targets, hard and soft, groups, temperatures and seeds, in memory that NumPy shares: it counts no writes."""
    torch.manual_seed(0)
    hidden, clean, weight = torch.randn(3, 2, 8), torch.randn(3, 2, 8), torch.randn(9, 8)

    def gradients(destroy: bool) -> list[Tensor]:
        target, group = torch.tensor([1, 8, 3], dtype=dtype), torch.tensor([0, 1, 1], dtype=dtype)
        items, mass = torch.tensor([[2, 3], [-1, 8], [4, 4]], dtype=dtype), torch.full((3, 2), 0.5)
        tau, share, seed = annealed_temperatures(1.0, 2.0, 1), torch.ones(2).double(), torch.tensor([7])
        h, e, u = (x.clone().requires_grad_() for x in (hidden, weight, clean))
        with use_backend(backend):
            losses = [
                annealed_cross_entropy(h, e, target, temperature=tau, step_weight=share, reduction="none"),
                annealed_cross_entropy(h, e, None, temperature=tau, soft_target=(items, mass), reduction="none"),
                reasoning_info_nce(h, u, temperature=0.5, row_group=group, reduction="none"),
                dropout_add_layer_norm(h, u, e[0], e[1], dropout_p=0.5, seed=seed),
            ]
            if destroy:
                for x in (target, items, mass, group, tau, share, seed):
                    x.numpy()[:] = FAR
            return [*torch.autograd.grad(sum(loss.square().sum() for loss in losses), (h, e, u))]

    for got, expected in zip(gradients(destroy=True), gradients(destroy=False), strict=True):
        assert torch.equal(got, expected)


H, W, TARGET, K4 = torch.randn(3, 2, 8), torch.randn(9, 8), torch.tensor([0, 1, 2]), torch.randn(3, 5, 2, 8)


def attend_rows(name: str) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        cache = ReasoningCache.from_prefix(K4, K4, max_tokens=1, rows=PrefixRows(**{name: x}))  # type: ignore[arg-type]
        return cached_reason_attention(H, H, H, cache)

    return call


def select(x: Tensor) -> Tensor:
    cache = ReasoningCache.from_prefix(K4, K4, max_tokens=1)
    return cached_reason_attention(H, H, H, cache.select(x))


def decode(name: str) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        return flash_attn_with_kvcache(H[:, None], K4, K4, **{name: x})  # type: ignore[arg-type]

    return call


def row_offsets(x: Tensor) -> tuple[Tensor, Tensor]:
    """Parts of four items."""
    return torch.cat([torch.zeros(1, dtype=x.dtype), x, torch.tensor([4], dtype=x.dtype)]), torch.arange(4)


def soft(x: Tensor) -> tuple[Tensor, Tensor]:
    """-1 is for no item."""
    return torch.stack([x - 1, x - 1], 1), torch.ones(3, 2)


# A call that takes three values, and the largest of them that is good.
CALLS: dict[str, tuple[Callable[[Tensor], object], int]] = {
    "start": (attend_rows("start"), 5),
    "end": (attend_rows("end"), 5),
    "row_prefix": (attend_rows("row_prefix"), 2),
    "select": (select, 2),
    "cache_seqlens": (decode("cache_seqlens"), 5),
    "cache_batch_idx": (decode("cache_batch_idx"), 2),
    "cache_leftpad": (decode("cache_leftpad"), 5),
    "cross-entropy": (lambda x: annealed_cross_entropy(H, W, x, temperature=1.0), 8),
    "cross-entropy rows": (lambda x: annealed_cross_entropy(H, W, x, temperature=1.0, reduction="none"), 8),
    "soft target": (lambda x: annealed_cross_entropy(H, W, None, temperature=1.0, soft_target=soft(x)), 9),
    "soft target rows": (
        lambda x: annealed_cross_entropy(H, W, None, temperature=1.0, soft_target=soft(x), reduction="none"),
        9,
    ),
    "ensemble": (lambda x: ensemble_reasoning_loss(H, W, x, temperature=1.0, kl_weight=0.1).loss, 8),
    "rank": (lambda x: catalog_rank(H[:, 0], W, x), 8),
    "exclude for all": (lambda x: catalog_topk(H[:, 0], W, 2, exclude=x), 8),
    "exclude per row": (lambda x: catalog_rank(H[:, 0], W, TARGET, exclude=(torch.tensor([0, 1, 2, 3]), x)), 8),
    "exclude offsets": (lambda x: catalog_topk(H[:, 0], W, 2, exclude=row_offsets(x[:2])), 4),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("call", CALLS)
def test_values_are_looked_at(call: str, dtype: torch.dtype, compiled: bool) -> None:
    """Close beside the range, where foreign memory would answer, and far from it, where there is none."""
    function, largest = CALLS[call]
    run = torch.compile(function, backend="eager") if compiled else function
    wrong = [-1, largest + 1, FAR, -FAR] + ([2**32] if dtype == torch.int64 else [])
    with torch.no_grad():
        run(torch.tensor([0, 1, 2], dtype=dtype))
        for value in wrong:
            with pytest.raises((ValueError, IndexError), match=r"expected|must be in|must rise"):
                run(torch.tensor([0, value, 2], dtype=dtype))


def test_compiled_rows_do_not_crash_the_process() -> None:
    """In a process of its own, and by the compiler that a user has by default."""
    code = """
import torch, rearec_kernels as rk
def attend(k, q, start):
    cache = rk.ReasoningCache.from_prefix(k, k, max_tokens=1, rows=rk.PrefixRows(start=start))
    return rk.cached_reason_attention(q, q, q, cache)
compiled, k, q = torch.compile(attend, backend="aot_eager"), torch.randn(3, 5, 2, 8), torch.randn(3, 2, 8)
with torch.no_grad():
    compiled(k, q, torch.tensor([0, 1, 2]))
    for wrong in (-3, -10**9):
        try:
            compiled(k, q, torch.tensor([0, wrong, 2]))
        except ValueError as error:
            print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("PrefixRows: row 1 has start -") == 2
