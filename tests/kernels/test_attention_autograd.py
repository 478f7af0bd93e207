"""cached_reason_attention under autograd's harder habits: repeated, partial, checkpointed, compiled, under autocast."""

from __future__ import annotations

import pytest
import torch
from attention_problem import SHAPES, Problem, relative_error
from backends import Backend
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rearec_kernels import MaskRows, ReasoningCache, cached_reason_attention, use_backend


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(2, 3, 3, 2, 1, 2, 2, 2), (3, 2, 4, 1, 1, 3, 3, 1)])
def test_gradcheck(shape: tuple[int, ...], dropout_p: float) -> None:
    problem = Problem(shape)
    with use_backend("reference"):
        assert torch.autograd.gradcheck(
            lambda *leaves: tuple(problem.outputs(list(leaves), dropout_p=dropout_p)), problem.leaves(torch.float64)
        )


def test_retain_graph_and_a_second_backward(backend: Backend) -> None:
    problem = Problem(SHAPES[0], backend.device)
    leaves = problem.leaves(torch.float32)
    with use_backend(backend.name):
        loss = problem.loss(problem.outputs(leaves))
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    second = torch.autograd.grad(2 * loss, leaves)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(2 * a, b, rtol=1e-6, atol=1e-6)


def test_a_step_whose_output_is_unused(backend: Backend) -> None:
    problem = Problem((3, 7, 5, 2, 2, 32, 3, 1), backend.device)

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        leaves = problem.leaves(dtype)
        outputs = problem.outputs(leaves)
        loss = (outputs[0].double() * problem.upstream[0]).sum()  # steps 1 and 2 reach no loss
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)]

    with use_backend("reference"):
        exact = gradients(torch.float64)
    with use_backend(backend.name):
        assert relative_error(gradients(torch.float32), exact) < 1e-5
    assert all(g.abs().max() == 0 for g in exact[3:5])


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (5,), (8,), (0, 8)])
def test_only_some_inputs_require_gradients(backend: Backend, wanted: tuple[int, ...]) -> None:
    problem = Problem(SHAPES[0], backend.device)
    everything = problem.results(backend.name, torch.float32)[problem.steps :]
    leaves = problem.leaves(torch.float32, requires_grad=False)
    for i in wanted:
        leaves[i].requires_grad_(True)
    with use_backend(backend.name):
        gradients = torch.autograd.grad(problem.loss(problem.outputs(leaves)), [leaves[i] for i in wanted])
    for i, gradient in zip(wanted, gradients, strict=True):
        torch.testing.assert_close(gradient, everything[i], rtol=1e-6, atol=1e-6)


def test_activation_checkpointing(backend: Backend) -> None:
    problem = Problem(SHAPES[0], backend.device)

    def gradients(checkpointed: bool) -> tuple[Tensor, ...]:
        leaves = problem.leaves(torch.float32)
        (pk, pv), n = leaves[:2], problem.steps
        scale = torch.ones((), requires_grad=True, device=backend.device)
        cache = ReasoningCache.from_prefix(pk * scale, pv * scale, max_tokens=n, rows=problem.rows())

        def run(step: int, x: Tensor) -> Tensor:
            q, k, v = leaves[2 + step], leaves[2 + n + step], leaves[2 + 2 * n + step]
            return cached_reason_attention(
                (q + 0.1 * x).tanh(), k.tanh(), v.tanh(), cache, step=step, dropout_p=0.2, seed=3
            )

        x, total = torch.zeros_like(leaves[2]), leaves[2].new_zeros(())
        for step in range(n):
            x = checkpoint(run, step, x, use_reentrant=False) if checkpointed else run(step, x)
            total = total + (x * problem.upstream[step].float()).sum()
        return torch.autograd.grad(total, [*leaves, scale])

    with use_backend(backend.name):
        for a, b in zip(gradients(False), gradients(True), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_running_a_step_twice_counts_both(backend: Backend) -> None:
    """Two different uses of one slot must not mix their factors: the prefix gradient is the sum of both."""
    problem = Problem((2, 6, 4, 2, 2, 16, 2, 1), backend.device)

    def gradient(twice: bool) -> tuple[Tensor, ...]:
        leaves = problem.leaves(torch.float32)
        totals = []
        cache = ReasoningCache.from_prefix(*leaves[:2], max_tokens=2, rows=problem.rows())
        for q, upstream in zip(leaves[2:4], problem.upstream, strict=True):
            if not twice:
                cache = ReasoningCache.from_prefix(*leaves[:2], max_tokens=2, rows=problem.rows())
            out = cached_reason_attention(q, leaves[4], leaves[6], cache, step=0)
            totals.append((out * upstream.float()).sum())
        return torch.autograd.grad(totals[0] + totals[1], leaves[:5])

    with use_backend(backend.name):
        for a, b in zip(gradient(True), gradient(False), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_double_backward_raises(backend: Backend) -> None:
    problem = Problem(SHAPES[0], backend.device)
    leaves = problem.leaves(torch.float32)
    with use_backend(backend.name):
        gradients = torch.autograd.grad(problem.loss(problem.outputs(leaves)), leaves, create_graph=True)
    for gradient in (gradients[0], gradients[3]):
        with pytest.raises(RuntimeError, match="differentiated once"):
            gradient.sum().backward(retain_graph=True)


def test_steps_without_gradients_then_with(backend: Backend) -> None:
    problem = Problem((3, 7, 5, 2, 2, 32, 3, 1), backend.device)

    def run(dtype: torch.dtype) -> list[Tensor]:
        leaves = problem.leaves(dtype)
        cache = ReasoningCache.from_prefix(*leaves[:2], max_tokens=3, rows=problem.rows())
        with torch.no_grad():
            cached_reason_attention(leaves[2], leaves[5], leaves[8], cache)
        outs = [cached_reason_attention(leaves[2 + t], leaves[5 + t], leaves[8 + t], cache) for t in (1, 2)]
        loss = torch.stack([(o.double() * problem.upstream[t]).sum() for t, o in enumerate(outs)]).sum()
        wanted = [leaves[i] for i in (0, 1, 3, 4, 6, 7, 9, 10)]
        return [*outs, *torch.autograd.grad(loss, wanted)]

    with use_backend("reference"):
        exact = run(torch.float64)
    with use_backend(backend.name):
        assert relative_error(run(torch.float32), exact) < 1e-5


def test_mixed_dtypes_of_autocast(backend: Backend) -> None:
    problem = Problem(SHAPES[0], backend.device)
    with use_backend("reference"):
        exact = problem.outputs(problem.leaves(torch.float64, requires_grad=False))
    leaves = [x.bfloat16() if i < 2 else x for i, x in enumerate(problem.leaves(torch.float32))]
    with use_backend(backend.name):
        outputs = problem.outputs(leaves)
    assert all(o.dtype == torch.float32 for o in outputs)
    assert relative_error(outputs, exact) < 0.05
    gradients = torch.autograd.grad(problem.loss(outputs), leaves)
    assert [g.dtype for g in gradients] == [x.dtype for x in leaves]


def test_autocast_does_not_lower_the_precision_inside(backend: Backend) -> None:
    problem = Problem(SHAPES[0], backend.device)
    expected = problem.results(backend.name, torch.float32)
    with torch.autocast(backend.device.type, dtype=torch.bfloat16):
        got = problem.results(backend.name, torch.float32)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_torch_compile_fullgraph(backend: Backend) -> None:
    problem = Problem(SHAPES[0], backend.device)
    rows = problem.rows()

    def train(*leaves: Tensor) -> Tensor:
        return torch.stack([o.square().sum() for o in problem.outputs(list(leaves), rows)]).sum()

    def infer(*leaves: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return problem.outputs(list(leaves), rows)

    torch._dynamo.reset()
    leaves = problem.leaves(torch.float32)
    with use_backend(backend.name):
        expected = torch.autograd.grad(train(*leaves), leaves)
        got = torch.autograd.grad(torch.compile(train, fullgraph=True, backend="aot_eager")(*leaves), leaves)
        plain, compiled = infer(*leaves), torch.compile(infer, fullgraph=True, backend="aot_eager")(*leaves)
    for a, b in zip([*got, *compiled], [*expected, *plain], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_opcheck(backend: Backend) -> None:
    problem = Problem((2, 6, 4, 4, 2, 16, 2, 1), backend.device)
    pk, pv, q0, q1, k0, k1, v0, v1 = problem.leaves(torch.float32)
    *rows, offsets = problem.rows().index(2, 6, pk.device)
    seed, mask_rows = torch.tensor([7], device=backend.device), MaskRows(3, 2, 7)
    ops = torch.ops.rearec
    opened = (pk, pv, offsets, 2, 1, 4, *rows, backend.name)
    flat = ops.attention_open_prefix(*opened)
    carriers = [x.detach().requires_grad_() for x in flat[:4]]
    forward = (
        q1,
        [k0, k1],
        [v0, v1],
        pk.detach(),
        pv.detach(),
        carriers,
        0.25,
        0.3,
        seed,
        True,
        *rows,
        *mask_rows,
        backend.name,
    )
    torch.library.opcheck(ops.attention_open_prefix, opened)
    torch.library.opcheck(ops.attention, forward)
    plain = [x.detach() if isinstance(x, Tensor) else x for x in forward]
    plain[1:3], plain[5], plain[9] = [[k0.detach(), k1.detach()], [v0.detach(), v1.detach()]], [], False
    torch.library.opcheck(ops.attention, tuple(plain))
    with torch.no_grad():
        out, prefix_probs, token_probs = ops.attention(*forward)
        saved = (pk.detach(), pv.detach(), prefix_probs, token_probs, 0.25, 0.3, *rows, backend.name)
        tokens = ([k0.detach(), k1.detach()], [v0.detach(), v1.detach()])
        torch.library.opcheck(ops.attention_backward, (torch.ones_like(out), q1.detach(), *tokens, *saved))
        _, _, _, dscores = ops.attention_backward(torch.ones_like(out), q1, *tokens, *saved)
        factors = ([dscores], [prefix_probs], [q1.detach()], [torch.ones_like(q1)])
        prefix = (pk.detach(), pv.detach(), offsets, *rows)
        torch.library.opcheck(ops.attention_prefix_gradient, (*factors, *prefix, backend.name))
        buffers = [torch.zeros(4, 2, 2, 16, device=backend.device) for _ in range(2)]
        decode = (q0, k0, v0, pk, pv, *buffers, 0, 0.25, 0.3, seed, *rows, *mask_rows, backend.name)
        torch.library.opcheck(ops.attention_decode, tuple(x.detach() if isinstance(x, Tensor) else x for x in decode))
