"""What a query does not see may be anything, NaN too: neither its output nor a gradient knows of it, on any backend."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from backends import Backend
from torch import Tensor

from rearec_kernels import (
    PrefixRows,
    ReasoningCache,
    annealed_cross_entropy,
    available_backends,
    cached_reason_attention,
    ensemble_reasoning_loss,
    use_backend,
)
from rearec_kernels.compat import flash_attn_with_kvcache

pytestmark = pytest.mark.filterwarnings("ignore:.*using the slower 'reference'")

PREFIXES, SLOTS, ROWS, HEADS, KV_HEADS, WIDTH, STEPS = 3, 6, 4, 2, 1, 8, 2
START, END, ROW_PREFIX = torch.tensor([1, 2, 0, 3]), torch.tensor([4, 5, 0, 3]), torch.tensor([0, 0, 1, 2])
SEEN = torch.zeros(PREFIXES, SLOTS, dtype=torch.bool)
for first, last, prefix in zip(START, END, ROW_PREFIX, strict=True):
    SEEN[prefix, first:last] = True
NAMES = ("prefix k", "prefix v", "q 0", "q 1", "k 0", "k 1", "v 0", "v 1")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def served(backend: str, dtype: torch.dtype) -> bool:
    return dtype in {"reference": DTYPES, "cpu": DTYPES[:2]}.get(backend, DTYPES[:3])


class Steps:
    """Two steps over prefixes and tokens. `hidden`: what lies in the slots that no row sees; with two queries a step,
    also in the second token of row 2's second step, and in the first query of row 1's."""

    def __init__(self, dtype: torch.dtype, queries: int, hidden: float, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(1)

        def random(*size: int) -> Tensor:
            return torch.randn(size, generator=generator).to(device, dtype)

        self.prefix = [random(PREFIXES, SLOTS, KV_HEADS, WIDTH) for _ in range(2)]
        for x in self.prefix:
            x[~SEEN.to(device)] = hidden
        self.q = [random(ROWS, queries, HEADS, WIDTH) for _ in range(STEPS)]
        self.k, self.v = ([random(ROWS, queries, KV_HEADS, WIDTH) for _ in range(STEPS)] for _ in range(2))
        self.upstream = [random(ROWS, queries, HEADS, WIDTH) for _ in range(STEPS)]
        if queries > 1:
            self.k[1][2, 1] = self.v[1][2, 1] = self.q[1][1, 0] = hidden
            self.upstream[1][2, 1] = self.upstream[1][1, 0] = 0.0
        self.rows = [x.to(device) for x in (START, END, ROW_PREFIX)]

    def outputs(self, dropout_p: float) -> list[Tensor]:
        cache = ReasoningCache.from_prefix(*self.prefix, max_tokens=8, rows=PrefixRows(*self.rows))
        steps = zip(self.q, self.k, self.v, strict=True)
        return [cached_reason_attention(*step, cache, dropout_p=dropout_p, seed=5) for step in steps]

    def gradients(self, dropout_p: float) -> list[Tensor]:
        leaves = [*self.prefix, *self.q, *self.k, *self.v]
        for x in leaves:
            x.requires_grad_()
        pairs = zip(self.outputs(dropout_p), self.upstream, strict=True)
        # What is not a number is not part of the loss, and nothing comes back from it.
        return [*torch.autograd.grad(sum((out * g).nan_to_num(0, 0, 0).sum() for out, g in pairs), leaves)]


def expected_to_differ(queries: int) -> dict[str, list[Any]]:
    """What the two rows with NaN among what they do see are right to spoil."""
    if queries == 1:
        return {}
    slots = [(0, slice(2, 5)), (1,)]
    whole, part = [(1,), (2,)], [(1, 0), (2,)]
    return {
        "prefix k": slots, "prefix v": slots, "q 1": [(1, 0), (2, 1)], "output 1": [(1, 0), (2, 1)],
        "k 0": whole, "v 0": whole, "k 1": part, "v 1": part,
    }  # fmt: skip


@pytest.mark.parametrize(("hidden", "dropout_p"), [(float("nan"), 0.0), (float("nan"), 0.3), (float("inf"), 0.3)])
@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention(dtype: torch.dtype, queries: int, dropout_p: float, hidden: float, backend: Backend) -> None:
    def results(value: float) -> dict[str, Tensor]:
        with use_backend(backend.name):
            with torch.no_grad():
                plain = Steps(dtype, queries, value, backend.device).outputs(dropout_p)
            gradients = Steps(dtype, queries, value, backend.device).gradients(dropout_p)
        return {**{f"output {i}": x for i, x in enumerate(plain)}, **dict(zip(NAMES, gradients, strict=True))}

    if not served(backend.name, dtype):
        with pytest.raises(ValueError, match="does not serve torch"):
            results(0.0)
        return
    exempt, clean = expected_to_differ(queries), results(0.0)
    for name, got in results(hidden).items():
        expected = clean[name]
        for where in exempt.get(name, []):
            got[where] = expected[where] = 0.0
        torch.testing.assert_close(got, expected, msg=lambda text, name=name: f"{name}: {text}")
        if name.startswith("prefix"):
            assert got[~SEEN.to(got.device)].abs().max() == 0


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tail_of_a_kv_cache(dtype: torch.dtype, causal: bool, backend: Backend) -> None:
    """A cache as torch.empty may leave it, behind its sequence lengths and before its left padding."""
    device = backend.device
    k = torch.full((2, 8, 2, 16), float("nan"), dtype=dtype, device=device)
    v, left = k.clone(), torch.tensor([1, 0], dtype=torch.int32, device=device)
    k[0, 1:3] = v[0, 1:3] = k[1, :4] = v[1, :4] = 1
    ones, lengths = torch.ones(2, 2, 4, 16, dtype=dtype, device=device), torch.tensor([3, 4], device=device)
    refused = nullcontext() if served(backend.name, dtype) else pytest.raises(ValueError, match="does not serve torch")
    with refused, use_backend(backend.name):
        out = flash_attn_with_kvcache(ones, k, v, cache_seqlens=lengths, cache_leftpad=left, causal=causal)
        assert torch.equal(out, ones)


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "mean": lambda h, w, y: annealed_cross_entropy(h, w, y, temperature=0.5),
    "none": lambda h, w, y: annealed_cross_entropy(h, w, y, temperature=0.5, reduction="none").sum(),
    "official": lambda h, w, y: ensemble_reasoning_loss(h, w, y, temperature=0.5, kl_weight=0.1).loss,
    "paper": lambda h, w, y: (
        ensemble_reasoning_loss(h, w, y, temperature=0.5, kl_weight=0.1, kl_form="paper", precision="bf16").loss
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("hidden", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", available_backends("cpu"))
def test_ignored_rows_of_losses(backend: str, dtype: torch.dtype, hidden: float, loss: str) -> None:
    target = torch.tensor([3, -100, 0, -100])

    def results(value: float) -> list[Tensor]:
        torch.manual_seed(0)
        rows, table = torch.randn(4, 3, 8).to(dtype), torch.randn(20, 8).to(dtype).requires_grad_()
        rows[target < 0] = value
        with use_backend(backend):
            total = LOSSES[loss](rows.requires_grad_(), table, target)
            return [total.detach(), *torch.autograd.grad(total, (rows, table))]

    if not served(backend, dtype):
        with pytest.raises(ValueError, match="does not serve torch"):
            results(0.0)
        return
    for got, expected in zip(results(hidden), results(0.0), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
