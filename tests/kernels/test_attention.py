"""cached_reason_attention: values and gradients of every backend against float64."""

from __future__ import annotations

import pytest
import torch
from attention_problem import SHAPES, Problem, dense_attention, relative_error
from backends import Backend
from torch import Tensor

from rearec_kernels import ReasoningCache, cached_reason_attention, use_backend


@pytest.mark.parametrize("shape", SHAPES)
def test_reference_equals_attention_without_a_cache(shape: tuple[int, ...]) -> None:
    problem = Problem(shape)
    with use_backend("reference"):
        got = problem.outputs(problem.leaves(torch.float64, requires_grad=False))
    assert relative_error(got, dense_attention(problem)) < 1e-12


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape: tuple[int, ...], backend: Backend, dtype: torch.dtype, dropout_p: float) -> None:
    problem = Problem(shape, backend.device)
    exact = problem.results("reference", torch.float64, dropout_p)
    eager = relative_error(problem.results("reference", dtype, dropout_p), exact)
    got = relative_error(problem.results(backend.name, dtype, dropout_p), exact)
    # Twice the error of eager PyTorch in the same dtype; below that, a few roundings of the largest element.
    assert got <= max(2 * eager, 4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_without_gradients_is_the_same(shape: tuple[int, ...], backend: Backend, dropout_p: float) -> None:
    problem = Problem(shape, backend.device)
    with use_backend(backend.name):
        expected = problem.outputs(problem.leaves(torch.float32), dropout_p=dropout_p)
        plain = problem.outputs(problem.leaves(torch.float32, requires_grad=False), dropout_p=dropout_p)
        with torch.no_grad():
            no_grad = problem.outputs(problem.leaves(torch.float32), dropout_p=dropout_p)
        with torch.inference_mode():
            inference = problem.outputs(problem.leaves(torch.float32), dropout_p=dropout_p)
    for a, b, c, d in zip(expected, plain, no_grad, inference, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        assert torch.equal(b, c) and torch.equal(b, d)
        assert a.requires_grad and not b.requires_grad and not c.requires_grad


def test_prefix_with_any_outer_strides_is_not_copied(backend: Backend) -> None:
    problem = Problem((3, 7, 5, 2, 2, 32, 3, 1), backend.device)
    fused = torch.stack(problem.prefix, dim=2).float()  # [S, C, 2, H, D]: K and V interleaved as one projection gives
    transposed = [x.float().transpose(1, 2).contiguous().transpose(1, 2) for x in problem.prefix]
    with use_backend(backend.name):
        expected = problem.outputs(problem.leaves(torch.float32, requires_grad=False))
        for k, v in (fused.unbind(2), transposed):
            leaves = [k, v, *problem.leaves(torch.float32, requires_grad=False)[2:]]
            for a, b in zip(problem.outputs(leaves), expected, strict=True):
                assert torch.equal(a, b)
        cache = ReasoningCache.from_prefix(*fused.unbind(2), max_tokens=1)
        assert cache.prefix_k.data_ptr() == fused.data_ptr()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_one_row_of_a_fused_projection(backend: Backend, requires_grad: bool) -> None:
    """A tensor with a dimension of size 1 counts as dense whatever that dimension's stride is."""
    torch.manual_seed(0)
    fused = torch.randn(1, 1, 3, 2, 16, device=backend.device, requires_grad=requires_grad)
    prefix = torch.randn(2, 1, 4, 2, 16, device=backend.device)
    q, _, v = fused.unbind(2)
    k = torch.randn(1, 1, 2, 16, device=backend.device)
    assert v.is_contiguous() and v.stride() != k.stride()

    def two_steps(dtype: torch.dtype) -> list[Tensor]:
        cache = ReasoningCache.from_prefix(*prefix.to(dtype), max_tokens=2)
        inputs = [x if x.dtype == dtype else x.to(dtype) for x in (q, k, v)]
        return [cached_reason_attention(*inputs, cache).detach() for _ in range(2)]

    with use_backend("reference"):
        exact = two_steps(torch.float64)
    with use_backend(backend.name):
        assert relative_error(two_steps(torch.float32), exact) < 1e-5


def test_offsets_beyond_32_bits(backend: Backend) -> None:
    """Prefixes that lie 2^31 elements apart; the memory between them is never touched."""
    problem = Problem((2, 6, 3, 2, 2, 32, 2, 1), backend.device)
    leaves = problem.leaves(torch.bfloat16, requires_grad=False)
    shape = leaves[0].shape
    storage = torch.empty(2**31 + 2 * leaves[0].numel(), dtype=torch.bfloat16, device=backend.device)
    far = [storage[offset:].as_strided(shape, (2**31, *leaves[0].stride()[1:])) for offset in (0, leaves[0].numel())]
    for x, near in zip(far, leaves, strict=False):
        x.copy_(near)
    with use_backend(backend.name):
        expected = problem.outputs(leaves)
        got = problem.outputs([*far, *leaves[2:]])
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_select_continues_with_the_chosen_rows(backend: Backend, requires_grad: bool) -> None:
    problem = Problem((3, 7, 5, 2, 2, 32, 3, 1), backend.device)
    ids = torch.tensor([3, 1, 1], device=backend.device)
    n = problem.steps

    def run(dtype: torch.dtype, select: bool) -> list[Tensor]:
        leaves = problem.leaves(dtype, requires_grad)
        q, k, v = leaves[2 : 2 + n], leaves[2 + n : 2 + 2 * n], leaves[2 + 2 * n :]
        cache = ReasoningCache.from_prefix(*leaves[:2], max_tokens=n, rows=problem.rows())
        outs = [cached_reason_attention(q[0], k[0], v[0], cache)[ids]]
        if select:
            cache = cache.select(ids)
        for t in range(1, n):
            inputs = [x[t][ids] if select else x[t] for x in (q, k, v)]
            out = cached_reason_attention(*inputs, cache)
            outs.append(out if select else out[ids])
        if not requires_grad:
            return outs
        loss = torch.stack([(o.double() * g[ids]).sum() for o, g in zip(outs, problem.upstream, strict=True)]).sum()
        return [*outs, *torch.autograd.grad(loss, leaves)]

    with use_backend("reference"):
        exact = run(torch.float64, select=False)
    with use_backend(backend.name):
        assert relative_error(run(torch.float32, select=True), exact) < 1e-5


def test_reset_and_one_row_per_call(backend: Backend) -> None:
    problem = Problem((1, 9, 1, 2, 2, 32, 2, 1), backend.device)
    leaves = problem.leaves(torch.float32, requires_grad=False)
    with use_backend(backend.name):
        cache = ReasoningCache.from_prefix(*leaves[:2], max_tokens=2)
        first = [cached_reason_attention(leaves[2 + t], leaves[4 + t], leaves[6 + t], cache) for t in range(2)]
        cache.reset()
        assert cache.length == 0
        again = [cached_reason_attention(leaves[2 + t], leaves[4 + t], leaves[6 + t], cache) for t in range(2)]
        cache.reset()
        three_dimensional = cached_reason_attention(leaves[2][:, 0], leaves[4][:, 0], leaves[6][:, 0], cache)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(three_dimensional, first[0][:, 0])


def test_several_new_tokens_are_causal_among_themselves(backend: Backend) -> None:
    together = Problem((2, 6, 4, 2, 2, 16, 1, 3), backend.device)
    leaves = together.leaves(torch.float32, requires_grad=False)
    with use_backend(backend.name):
        expected = together.outputs(leaves)[0]
        cache = ReasoningCache.from_prefix(*leaves[:2], max_tokens=3, rows=together.rows())
        for i in range(3):
            one = cached_reason_attention(*(x[:, i] for x in leaves[2:]), cache)
            torch.testing.assert_close(one, expected[:, i], rtol=0, atol=1e-6)


def test_extreme_scores_stay_finite(backend: Backend) -> None:
    problem = Problem(SHAPES[0], backend.device)
    leaves = [x.detach() * 40 for x in problem.leaves(torch.float32, requires_grad=False)]
    with use_backend(backend.name):
        got = problem.outputs(leaves)
    with use_backend("reference"):
        exact = problem.outputs([x.double() for x in leaves])
    assert all(torch.isfinite(x).all() for x in got)
    assert relative_error(got, exact) < 1e-4


def test_nan_stays_in_its_row(backend: Backend) -> None:
    problem = Problem((5, 7, 5, 2, 2, 32, 1, 1), backend.device)
    leaves = problem.leaves(torch.float32, requires_grad=False)
    leaves[2][2] = float("nan")
    with use_backend(backend.name):
        out = problem.outputs(leaves)[0]
    assert torch.isnan(out[2]).all()
    assert torch.isfinite(out[[0, 1, 3, 4]]).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_bitwise_equal_between_runs_and_thread_counts(threads: int, backend: Backend) -> None:
    problem = Problem((16, 50, 64, 2, 2, 64, 3, 1), backend.device)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = problem.results(backend.name, torch.float32, dropout_p=0.1)
        torch.set_num_threads(1)
        expected = problem.results(backend.name, torch.float32, dropout_p=0.1)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
