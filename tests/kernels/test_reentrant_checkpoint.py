"""torch.utils.checkpoint with use_reentrant=True: the gradient without it, or an error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rearec_kernels import (
    ReasoningCache,
    annealed_cross_entropy,
    available_backends,
    cached_reason_attention,
    dropout_add_layer_norm,
    reasoning_info_nce,
    use_backend,
)

BACKENDS = [name for name in available_backends("cpu") if name != "triton"]
STEPS = 3
Wrapped = Callable[..., Tensor]


def plain(f: Wrapped, *arguments: Tensor) -> Tensor:
    return f(*arguments)


def reentrant(f: Wrapped, *arguments: Tensor) -> Tensor:
    return checkpoint(f, *arguments, use_reentrant=True)


def gradients(wrap: Callable[..., Tensor], single: bool, dropout_p: float) -> list[Tensor]:
    """Of chained steps, each within `wrap`, that get q, k and v as arguments."""
    torch.manual_seed(1)
    shape = (3, 3, 4, 2, 8) if single else (3, 3, 4, 1, 2, 8)
    prefix, tokens = torch.randn(4, 5, 2, 8, requires_grad=True), torch.randn(shape, requires_grad=True)
    cache, x = ReasoningCache.from_prefix(prefix, prefix, max_tokens=STEPS), torch.zeros(())
    for t in range(STEPS):

        def step(q: Tensor, k: Tensor, v: Tensor, t: int = t) -> Tensor:
            return cached_reason_attention(q, k, v, cache, step=t, dropout_p=dropout_p, seed=t)

        x = wrap(step, tokens[t, 0] + x, tokens[t, 1], tokens[t, 2])
    x.square().sum().backward()
    assert prefix.grad is not None and tokens.grad is not None
    return [prefix.grad, tokens.grad]


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_step(backend: str, single: bool, dropout_p: float) -> None:
    with use_backend(backend):
        expected = gradients(plain, single, dropout_p)
        for got, right in zip(gradients(reentrant, single, dropout_p), expected, strict=True):
            torch.testing.assert_close(got, right)


def chained(wrap: Callable[..., Tensor], wrapped: set[int]) -> Tensor:
    """The gradient of a projection within the steps, some of which are wrapped: there q, k and v have no history."""
    torch.manual_seed(1)
    prefix, weight = torch.randn(4, 5, 2, 8), torch.randn(16, 48, requires_grad=True)
    cache, x = ReasoningCache.from_prefix(prefix, prefix, max_tokens=STEPS), torch.randn(4, 16, requires_grad=True)
    for t in range(STEPS):

        def step(x: Tensor, t: int = t) -> Tensor:
            q, k, v = (x @ weight).view(4, 3, 2, 8).unbind(1)
            return cached_reason_attention(q, k, v, cache, step=t).flatten(1)

        x = (wrap if t in wrapped else plain)(step, x)
    x.square().sum().backward()
    assert weight.grad is not None
    return weight.grad


@pytest.mark.parametrize("wrapped", [{0, 1, 2}, {0}, {1}, {2}, {0, 1}, {1, 2}], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_that_lose_a_gradient_raise(backend: str, wrapped: set[int]) -> None:
    # Steps that only see recorded ones go through the graph of these within the checkpoint: torch allows that once.
    message = r"use use_reentrant=False|backward through the graph a second time"
    with use_backend(backend), pytest.raises(RuntimeError, match=message):
        chained(reentrant, wrapped)


@pytest.mark.parametrize("wrap", [plain, reentrant])
@pytest.mark.parametrize("backend", BACKENDS)
def test_all_steps_in_one_checkpoint(backend: str, wrap: Callable[..., Tensor]) -> None:
    def rollout(x: Tensor, weight: Tensor, cache: ReasoningCache) -> Tensor:
        for t in range(STEPS):
            q, k, v = (x @ weight).view(4, 3, 2, 8).unbind(1)
            x = cached_reason_attention(q, k, v, cache, step=t).flatten(1)
        return x

    torch.manual_seed(1)
    prefix, given = torch.randn(4, 5, 2, 8), torch.randn(4, 16, requires_grad=True)
    weight = torch.randn(16, 48, requires_grad=True)
    cache = ReasoningCache.from_prefix(prefix, prefix, max_tokens=STEPS)
    with use_backend(backend):
        wrap(lambda x: rollout(x, weight, cache), given).square().sum().backward()
        fresh = ReasoningCache.from_prefix(prefix, prefix, max_tokens=STEPS)
        expected = torch.autograd.grad(rollout(given, weight, fresh).square().sum(), (given, weight))
    for got, right in zip((given.grad, weight.grad), expected, strict=True):
        torch.testing.assert_close(got, right)


@pytest.mark.parametrize("backend", BACKENDS)
def test_constants_from_before_stay_constants(backend: str) -> None:
    """Tokens appended under no_grad, then steps with gradients: no checkpoint, no error."""
    prefix, q = torch.randn(4, 5, 2, 8), torch.randn(4, 2, 8, requires_grad=True)
    cache = ReasoningCache.from_prefix(prefix, prefix, max_tokens=3)
    with use_backend(backend):
        with torch.no_grad():
            cached_reason_attention(q * 2, q * 2, q * 2, cache)
        cached_reason_attention(q, q, q, cache)
        cached_reason_attention(q, q, q, cache, step=1).sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_calls(backend: str) -> None:
    weight, target = torch.randn(9, 8), torch.tensor([0, 1, 2])
    calls: list[Wrapped] = [
        lambda x: annealed_cross_entropy(x, weight, target, temperature=1.0),
        lambda x: reasoning_info_nce(x, x * 2, temperature=1.0, reduction="none"),
        lambda x: dropout_add_layer_norm(x, x, weight[0], weight[1], dropout_p=0.5),
    ]
    with use_backend(backend):
        for call in calls:
            got = []
            for wrap in (plain, reentrant):
                torch.manual_seed(0)
                x = torch.randn(3, 2, 8, requires_grad=True)
                wrap(call, x).square().sum().backward()
                got.append(x.grad)
            torch.testing.assert_close(*got)
