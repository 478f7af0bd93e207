"""Large tensors of the CPU backend lie in memory that is used again once they are dead, and never before."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
import torch
from patience import PATIENCE

from rearec_kernels import PrefixRows, ReasoningCache, available_backends, cached_reason_attention

pytestmark = pytest.mark.skipif("cpu" not in available_backends("cpu"), reason="no native module in this install")

LARGE = (1100, 1024)  # 4.3 MiB of float32


def test_memory_comes_back_when_the_last_tensor_over_it_dies() -> None:
    from rearec_kernels.cpu.memory import empty

    first = empty(LARGE)
    view, address = first[3:], first.data_ptr()
    del first
    gc.collect()
    other = empty(LARGE)
    assert other.data_ptr() != address  # the view still needs it
    del view
    gc.collect()
    again = empty(LARGE)
    assert again.data_ptr() == address
    assert not again._is_view() and again.is_contiguous() and again.shape == LARGE
    assert empty(LARGE).data_ptr() != address


def test_gradients_of_two_batches_do_not_share_memory() -> None:
    def gradients(seed: int) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(seed)
        k, v = (torch.randn(1100, 16, 1, 64, requires_grad=True) for _ in range(2))
        q = torch.randn(1100, 1, 64)
        cache = ReasoningCache.from_prefix(k, v, max_tokens=1, rows=PrefixRows())
        return torch.autograd.grad(cached_reason_attention(q, q, q, cache).sum(), (k, v))

    first = gradients(0)
    kept = [g.clone() for g in first]
    second = gradients(1)
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))
    assert len({g.data_ptr() for g in (*first, *second)}) == 4


def test_what_is_kept_is_bounded() -> None:
    from rearec_kernels import _C
    from rearec_kernels.cpu import memory

    tensors = [memory.empty((16 << 20,)) for _ in range(12)]  # 64 MiB each
    assert all(t.numel() == 16 << 20 for t in tensors)
    del tensors
    gc.collect()
    assert 0 < _C.recycled_bytes() <= memory._limit
    with memory.without_recycling():
        assert _C.recycled_bytes() == 0
        assert memory.empty(LARGE).numel() == 1100 * 1024
    assert _C.recycled_bytes() == 0


@pytest.mark.parametrize(
    "value, message", [("0", ""), ("lots", "REAREC_CPU_CACHE_MB must be a whole number of megabytes")]
)
def test_environment_variable(value: str, message: str) -> None:
    code = (
        "from rearec_kernels import _C; from rearec_kernels.cpu.memory import empty;"
        "x = empty((1100, 1024)); del x; assert _C.recycled_bytes() == 0"
    )
    environment = {**os.environ, "REAREC_CPU_CACHE_MB": value}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=PATIENCE
    )
    assert (done.returncode == 0) == (not message)
    assert message in done.stderr
