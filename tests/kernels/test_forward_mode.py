"""Forward-mode AD has the true tangent or raises: a kernel below autograd would drop it without a word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from public_calls import EVERY, LAYER_NORM
from torch import Tensor
from torch.autograd import forward_ad

from rearec_kernels import available_backends, use_backend

BACKENDS = [name for name in available_backends("cpu") if name != "triton"]


def by_dual_numbers(call: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor | None:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(call(forward_ad.make_dual(x, v))).tangent


WAYS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor | None]] = {
    "jvp": lambda call, x, v: torch.func.jvp(call, (x,), (v,))[1],
    "dual numbers": by_dual_numbers,
    "linearize": lambda call, x, v: torch.func.linearize(call, x)[1](v),
    "jvp of compiled": lambda call, x, v: torch.func.jvp(torch.compile(call, backend="eager"), (x,), (v,))[1],
    "compiled dual numbers": lambda call, x, v: by_dual_numbers(torch.compile(call, backend="aot_eager"), x, v),
    "jacfwd": lambda call, x, v: torch.func.jacfwd(call)(x) @ v[0, 0],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize("backend", BACKENDS)
def test_raises(backend: str, call: str, way: str) -> None:
    torch.manual_seed(0)
    x, v = torch.randn(2, 3, 2, 8)
    with use_backend(backend):
        if backend == "reference" and call in LAYER_NORM:  # plain PyTorch
            if way == "jacfwd":
                torch.testing.assert_close(torch.func.jacfwd(EVERY[call])(x), torch.func.jacrev(EVERY[call])(x))
                return
            difference = EVERY[call](x + 1e-3 * v) - EVERY[call](x - 1e-3 * v)
            torch.testing.assert_close(WAYS[way](EVERY[call], x, v), difference / 2e-3, rtol=0.02, atol=0.02)
            return
        with pytest.raises(
            (NotImplementedError, RuntimeError), match=r"has no forward-mode derivative|Cannot access data"
        ):
            WAYS[way](EVERY[call], x, v)


@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_without_a_tangent_are_served_within_a_dual_level(backend: str, call: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 8)
    with use_backend(backend):
        expected = EVERY[call](x)
        with forward_ad.dual_level():
            assert torch.equal(EVERY[call](x), expected)
