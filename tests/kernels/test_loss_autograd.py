"""What all losses promise about autograd, torch.compile, autocast, threads and repetition."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from backends import catalog_backends
from torch import Tensor
from torch.library import opcheck
from torch.utils.checkpoint import checkpoint

from rearec_kernels import (
    annealed_cross_entropy,
    annealed_temperatures,
    ensemble_reasoning_loss,
    reasoning_info_nce,
    use_backend,
)

BACKENDS = catalog_backends()
pytestmark = pytest.mark.usefixtures("tensors_on_device")
NATIVE = "cpu" in BACKENDS
ROWS, STEPS, WIDTH, ITEMS = 10, 3, 8, 50
TARGET = torch.arange(ROWS) * 4
TARGET[3] = -100
GROUP = torch.arange(ROWS) // 2
SOFT = torch.arange(ROWS * 4).view(ROWS, 4) * 7 % ITEMS, torch.linspace(0, 1, ROWS * 4).view(ROWS, 4)
SOFT[0][1::2, 1], SOFT[0][2] = SOFT[0][1::2, 0], -1
LOG_INCLUSION = torch.full((ITEMS,), -2.0).index_fill(0, TARGET.clamp(min=0), 0.0)

Loss = Callable[[Tensor, Tensor], Tensor]


def contrastive(reduction: str) -> Loss:
    # The first rows of the table stand for the clean states.
    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        clean = weight[: ROWS * STEPS].view(ROWS, STEPS, WIDTH)
        return reasoning_info_nce(
            hidden, clean, temperature=0.4, row_group=GROUP.to(hidden.device), reduction=reduction
        )

    return loss


def soft(device: torch.device) -> tuple[Tensor, Tensor]:
    items, mass = SOFT
    return items.to(device), mass.to(device)


SCALAR_LOSSES: dict[str, Loss] = {
    "annealed": lambda h, e: annealed_cross_entropy(
        h, e, TARGET.to(h.device), temperature=[0.9, 0.6, 0.4], step_weight=[0.5, 0.5, 1]
    ),
    "soft": lambda h, e: annealed_cross_entropy(
        h, e, TARGET.to(h.device), temperature=[0.9, 0.6, 0.4], soft_target=soft(h.device)
    ),
    "ensemble": lambda h, e: ensemble_reasoning_loss(h, e, TARGET.to(h.device), temperature=0.4, kl_weight=0.2).loss,
    "ensemble_paper": lambda h, e: (
        ensemble_reasoning_loss(h, e, TARGET.to(h.device), temperature=0.4, kl_weight=0.2, kl_form="paper").loss
    ),
    "contrastive": contrastive("mean"),
    "annealed_sampled": lambda h, e: annealed_cross_entropy(
        h, e, TARGET.to(h.device), temperature=[0.9, 0.6, 0.4], log_inclusion=LOG_INCLUSION.to(h.device)
    ),
}
ROW_LOSSES: dict[str, Loss] = {
    "annealed_rows": lambda h, e: annealed_cross_entropy(
        h, e, TARGET.to(h.device), temperature=[0.9, 0.6, 0.4], reduction="none"
    ),
    "soft_rows": lambda h, e: annealed_cross_entropy(
        h, e, None, temperature=[0.9, 0.6, 0.4], soft_target=soft(h.device), reduction="none"
    ),
    "contrastive_rows": contrastive("none"),
}
LOSSES = {**SCALAR_LOSSES, **ROW_LOSSES}

every_loss = pytest.mark.parametrize("name", LOSSES)
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def leaves(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    hidden, weight = (torch.randn(s, generator=generator) for s in ((ROWS, STEPS, WIDTH), (ITEMS, WIDTH)))
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


def total(loss: Tensor) -> Tensor:
    """A scalar with a different upstream gradient for every row and step."""
    return (
        (loss * torch.linspace(0.5, 2, loss.numel(), device=loss.device).view(loss.shape)).sum() if loss.dim() else loss
    )


@every_loss
@every_backend
def test_retained_graph_gives_the_same_gradients_again(backend: str, name: str) -> None:
    inputs = leaves()
    with use_backend(backend):
        loss = total(LOSSES[name](*inputs))
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    kept = [g.clone() for g in first]
    for gradient in first:
        gradient.fill_(float("nan"))  # what a caller does with its gradients is none of the graph's business
    for a, b in zip(torch.autograd.grad(loss, inputs), kept, strict=True):
        assert torch.equal(a, b)


@every_loss
@every_backend
def test_backward_twice_accumulates(backend: str, name: str) -> None:
    hidden, weight = leaves()
    with use_backend(backend):
        loss = total(LOSSES[name](hidden, weight))
    expected = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    loss.backward(retain_graph=True)
    loss.backward()
    for x, g in zip((hidden, weight), expected, strict=True):
        assert torch.equal(x.grad, 2 * g)


@every_loss
@every_backend
def test_upstream_gradient_scales(backend: str, name: str) -> None:
    inputs = leaves()
    with use_backend(backend):
        one = torch.autograd.grad(total(LOSSES[name](*inputs)), inputs)
        scaled = torch.autograd.grad(-2.5 * total(LOSSES[name](*inputs)), inputs)
    for a, b in zip(scaled, one, strict=True):
        torch.testing.assert_close(a, -2.5 * b)


@pytest.mark.parametrize("name", ROW_LOSSES)
@every_backend
def test_each_row_and_step_has_its_own_upstream_gradient(backend: str, name: str) -> None:
    inputs = leaves()
    upstream = torch.randn(ROWS, STEPS)
    with use_backend(backend):
        losses = LOSSES[name](*inputs)
        together = torch.autograd.grad(losses, inputs, upstream, retain_graph=True)
        separate = [torch.zeros_like(x) for x in inputs]
        for r in range(ROWS):
            for t in range(STEPS):
                for sum_of, g in zip(
                    separate, torch.autograd.grad(losses[r, t], inputs, retain_graph=True), strict=True
                ):
                    sum_of += upstream[r, t] * g
    for a, b in zip(together, separate, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


@every_loss
@every_backend
def test_only_what_requires_a_gradient_gets_one(backend: str, name: str) -> None:
    both = leaves()
    with use_backend(backend):
        expected = torch.autograd.grad(total(LOSSES[name](*both)), both)
        for i in (0, 1):
            inputs = [x.detach().requires_grad_(i == j) for j, x in enumerate(both)]
            loss = total(LOSSES[name](*inputs))
            loss.backward()
            assert inputs[1 - i].grad is None
            torch.testing.assert_close(inputs[i].grad, expected[i])
        assert not LOSSES[name](*(x.detach() for x in both)).requires_grad


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """Those of the native passes over chunks of logits: the kernel, and what it is told of the chunk."""
    from rearec_kernels.cpu import chunked_softmax

    native, found = chunked_softmax.native.C, []

    def recorded(kernel: str) -> Callable[..., None]:
        return lambda chunk, numbers: found.append((kernel, chunk)) or getattr(native, kernel)(chunk, numbers)

    module = SimpleNamespace(**{**vars(native), **{name: recorded(name) for name in ("cross_entropy", "ensemble")}})
    monkeypatch.setattr(chunked_softmax, "native", SimpleNamespace(C=module))
    return found


@every_loss
@pytest.mark.skipif(not NATIVE, reason="no native module in this install")
def test_no_gradient_is_computed_that_nobody_needs(name: str, calls: list[tuple[str, tuple[Any, ...]]]) -> None:
    hidden, weight = leaves()
    with torch.no_grad():
        LOSSES[name](hidden, weight)
    LOSSES[name](hidden.detach(), weight.detach())
    kernel = "ensemble" if name.startswith("ensemble") else "cross_entropy"
    assert {(kernel, *chunk[-3:-1]) for kernel, chunk in calls} == {(kernel, True, False)}  # statistics, gradient


@every_loss
@every_backend
def test_differentiating_twice_is_an_error(backend: str, name: str) -> None:
    inputs = leaves()
    with use_backend(backend):
        gradients = torch.autograd.grad(total(LOSSES[name](*inputs)), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        sum(g.square().sum() for g in gradients).backward()


@every_loss
@every_backend
def test_activation_checkpointing(backend: str, name: str) -> None:
    inputs = leaves()
    with use_backend(backend):
        expected = torch.autograd.grad(total(LOSSES[name](*inputs)), inputs)
        for use_reentrant, factor in itertools.product((False, True), (1, 4)):
            x = leaves()
            loss = total(checkpoint(LOSSES[name], *x, use_reentrant=use_reentrant))
            (factor * loss).backward()
            for a, b in zip(x, expected, strict=True):
                torch.testing.assert_close(a.grad, factor * b)


@pytest.mark.parametrize("name", LOSSES)
@every_backend
def test_gradients_that_a_user_writes_to_are_the_users(backend: str, name: str) -> None:
    x = leaves()
    with use_backend(backend):
        loss = total(LOSSES[name](*x))
        loss.backward(retain_graph=True)
        expected = [a.grad.clone() for a in x]
        for a in x:
            a.grad.zero_()  # as optimisers and clipping do
        for factor in (1, 4):
            (factor * loss).backward(retain_graph=True)
            for a, b in zip(x, expected, strict=True):
                torch.testing.assert_close(a.grad, factor * b)
                a.grad = None


@pytest.mark.parametrize("name", ROW_LOSSES)
@every_backend
def test_activation_checkpointing_may_recompute_with_another_backend(backend: str, name: str) -> None:
    """As it does on a GPU, where backward passes run in threads of their own, in which no `use_backend` is in force."""
    for other in {"reference"} if leaves()[0].is_cuda else {"reference", BACKENDS[0]}:
        for first, second in ((backend, other), (other, backend)):
            inputs = leaves()
            with use_backend(first):
                expected = torch.autograd.grad(total(LOSSES[name](*inputs)), inputs)
                x = leaves()
                loss = total(checkpoint(LOSSES[name], *x, use_reentrant=False))
            with use_backend(second):
                loss.backward()
            for a, b in zip(x, expected, strict=True):
                # Two backends round the same sums in another order: by what the largest of them is.
                torch.testing.assert_close(a.grad, b, rtol=1e-5, atol=1e-5 * max(1.0, float(b.abs().max())))


@every_loss
@every_backend
def test_inference_mode(backend: str, name: str) -> None:
    inputs = leaves()
    with use_backend(backend):
        expected = LOSSES[name](*inputs)
        with torch.inference_mode():
            torch.testing.assert_close(LOSSES[name](*inputs), expected.detach())


@every_loss
@every_backend
def test_compiles_into_one_graph(backend: str, name: str) -> None:
    torch._dynamo.reset()
    inputs = leaves()

    def scaled(hidden: Tensor, weight: Tensor) -> Tensor:
        return total(LOSSES[name](hidden * 2, weight))

    with use_backend(backend):
        compiled = torch.compile(scaled, fullgraph=True, backend="aot_eager")
        got, expected = ([loss := f(*inputs), *torch.autograd.grad(loss, inputs)] for f in (compiled, scaled))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_temperatures_made_inside_a_compiled_function_and_changed_between_calls() -> None:
    torch._dynamo.reset()
    inputs = leaves()

    def loss(hidden: Tensor, weight: Tensor, tau: float) -> Tensor:
        annealed = annealed_cross_entropy(
            hidden, weight, TARGET, temperature=annealed_temperatures(tau, 1.5, STEPS - 1), step_weight=[tau, 1, 1]
        )
        return annealed + ensemble_reasoning_loss(hidden, weight, TARGET, temperature=tau, kl_weight=tau).loss

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for tau in (0.5, 0.7, 0.9):
        torch.testing.assert_close(compiled(*inputs, tau), loss(*inputs, tau))


@every_loss
@every_backend
def test_mixed_dtypes_of_autocast(backend: str, name: str) -> None:
    hidden, weight = leaves()
    with use_backend(backend):
        rounded = hidden.detach().bfloat16().requires_grad_()
        expected = LOSSES[name](rounded.float(), weight)
        with torch.autocast(hidden.device.type, dtype=torch.bfloat16):
            # Autocast has rounded the states; the loss itself stays in float32.
            loss = LOSSES[name](rounded, weight)
        torch.testing.assert_close(loss, expected)
        gradients = torch.autograd.grad(total(loss), (rounded, weight))
        assert [g.dtype for g in gradients] == [torch.bfloat16, torch.float32]
        torch.testing.assert_close(gradients[1], torch.autograd.grad(total(expected), weight)[0])


@every_loss
@every_backend
def test_fp32_stays_fp32_when_torch_is_allowed_less(backend: str, name: str) -> None:
    inputs = leaves()
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    with use_backend(backend):
        expected = torch.autograd.grad(total(LOSSES[name](*inputs)), inputs)
        try:
            matmul.fp32_precision = "bf16"
            got = torch.autograd.grad(total(LOSSES[name](*inputs)), inputs)
            assert matmul.fp32_precision == "bf16"
        finally:
            matmul.fp32_precision = before
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@every_loss
@every_backend
def test_same_bits_every_time(backend: str, name: str) -> None:
    inputs = leaves()
    with use_backend(backend):
        runs = [[loss := LOSSES[name](*inputs), *torch.autograd.grad(total(loss), inputs)] for _ in range(3)]
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@every_loss
@pytest.mark.skipif(not NATIVE, reason="no native module in this install")
def test_threads_follow_torch_and_change_nothing_but_rounding(
    name: str, set_threads: Callable[[int], None], calls: list[tuple[str, tuple[Any, ...]]]
) -> None:
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        calls.clear()
        inputs = leaves()
        results.append([loss := LOSSES[name](*inputs), *torch.autograd.grad(total(loss), inputs)])
        assert {chunk[-1] for _, chunk in calls} == {threads}
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            # each is promised to be so near to float64: statistics are sums over the parts of the threads
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@every_backend
def test_operators_keep_what_torch_library_expects(backend: str, dtype: torch.dtype, precision: str) -> None:
    if backend != "reference" and dtype == torch.float64:
        pytest.skip(f"the backend {backend} does not serve float64")
    hidden, weight = leaves(dtype)
    clean = torch.randn(ROWS, STEPS, WIDTH).to(dtype).requires_grad_()
    values = [torch.tensor(x, dtype=torch.float64, device="cpu") for x in ([0.9, 0.6, 0.4], [1.0] * STEPS)]
    target, group = TARGET.to(hidden.device), GROUP.to(hidden.device)
    annealed = (hidden, weight, target, -100, *values, precision)
    info_nce = (hidden, clean, group, 0, 0.4, precision)
    ensemble = (hidden, weight, target, -100, 0.4, 0.2)
    ops = torch.ops.rearec
    items, mass = soft(hidden.device)
    for soft_target in (
        (None, None, None),
        (items, mass, None),
        (items.int(), mass[:, None].repeat(1, STEPS, 1), mass.sum(1, keepdim=True).repeat(1, STEPS)),
    ):
        opcheck(ops.annealed_cross_entropy, (*annealed, *soft_target, True, True, backend))
        opcheck(ops.annealed_cross_entropy_rows, (*annealed, *soft_target, backend))
    for form in ("official", "paper"):
        opcheck(ops.ensemble_reasoning_loss, (*ensemble, form, precision, True, True, backend))
        detached = (hidden.detach(), weight.detach(), *ensemble[2:], form, precision)
        opcheck(ops.ensemble_sums, (*detached, backend))
        opcheck(ops.ensemble_gradients, (*ops.ensemble_sums(*detached, backend), *detached, True, True, backend))
    opcheck(ops.reasoning_info_nce, (*info_nce, True, True, backend))
    opcheck(ops.reasoning_info_nce, (hidden[2:-1], clean, None, 2, 0.4, precision, True, True, backend))
    opcheck(ops.reasoning_info_nce_rows, (*info_nce, backend))
    opcheck(
        ops.annealed_cross_entropy,
        (hidden.detach(), weight.detach(), *annealed[2:], None, None, None, False, False, backend),
    )
