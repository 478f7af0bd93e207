"""cached_reason_attention: values and gradients of every backend against float64, and autograd's harder habits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rearec_kernels import PrefixRows, ReasoningCache, available_backends, cached_reason_attention, use_backend

BACKENDS = available_backends("cpu")
# prefixes S, slots C, rows R, heads H, kv heads, head dim D, steps, new tokens per step Q
SHAPES = [
    (3, 7, 5, 2, 2, 32, 3, 1),
    (1, 1, 1, 1, 1, 5, 1, 3),
    (4, 50, 9, 4, 2, 24, 2, 2),
    (2, 5, 3, 2, 1, 128, 4, 1),
    (2, 17, 8, 3, 3, 256, 2, 1),
    (5, 0, 6, 2, 2, 16, 2, 1),
    (6, 33, 40, 2, 2, 64, 5, 1),
]


class Problem:
    """Random chained steps: step t's query depends on step t - 1's output, as in a rollout."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        prefixes, slots, rows, heads, kv_heads, width, steps, queries = shape
        generator = torch.Generator().manual_seed(seed)
        self.steps, self.queries = steps, queries

        def random(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64)

        self.prefix = [random(prefixes, slots, kv_heads, width) for _ in range(2)]
        self.q = [random(rows, queries, heads, width) for _ in range(steps)]
        self.k = [random(rows, queries, kv_heads, width) for _ in range(steps)]
        self.v = [random(rows, queries, kv_heads, width) for _ in range(steps)]
        self.upstream = [random(rows, queries, heads, width) for _ in range(steps)]
        bounds = torch.randint(0, slots + 1, (2, rows), generator=generator)
        self.start, self.end = bounds.min(0).values, bounds.max(0).values
        self.start[0] = self.end[0]  # one row with an empty prefix
        self.row_prefix = torch.randint(0, prefixes, (rows,), generator=generator)

    def rows(self) -> PrefixRows:
        return PrefixRows(self.start, self.end, self.row_prefix)

    def leaves(self, dtype: torch.dtype, requires_grad: bool = True) -> list[Tensor]:
        tensors = (*self.prefix, *self.q, *self.k, *self.v)
        return [x.to(dtype, copy=True).requires_grad_(requires_grad) for x in tensors]

    def outputs(self, leaves: list[Tensor], rows: PrefixRows | None = None, dropout_p: float = 0.0) -> list[Tensor]:
        n = self.steps
        prefix, q, k, v = leaves[:2], leaves[2 : 2 + n], leaves[2 + n : 2 + 2 * n], leaves[2 + 2 * n :]
        cache = ReasoningCache.from_prefix(*prefix, max_tokens=n * self.queries, rows=rows or self.rows())
        out: list[Tensor] = []
        for step in range(n):
            query = q[step] + 0.1 * out[-1] if out else q[step]
            out.append(cached_reason_attention(query, k[step], v[step], cache, dropout_p=dropout_p, seed=11))
        return out

    def loss(self, outputs: list[Tensor]) -> Tensor:
        return torch.stack([(o.double() * g).sum() for o, g in zip(outputs, self.upstream, strict=True)]).sum()

    def results(self, backend: str, dtype: torch.dtype, dropout_p: float = 0.0) -> list[Tensor]:
        """Outputs, then the gradients of every input."""
        leaves = self.leaves(dtype)
        with use_backend(backend):
            outputs = self.outputs(leaves, dropout_p=dropout_p)
            gradients = torch.autograd.grad(self.loss(outputs), leaves)
        return [*(o.detach() for o in outputs), *gradients]


def dense_attention(problem: Problem) -> list[Tensor]:
    """The same steps without a cache, row by row, in float64: independent of the library."""
    outputs: list[Tensor] = []
    heads, width = problem.q[0].shape[2:]
    group = heads // problem.k[0].shape[2]
    for step in range(problem.steps):
        query = problem.q[step] + 0.1 * outputs[-1] if outputs else problem.q[step]
        out = torch.empty_like(query)
        for r in range(query.shape[0]):
            seen = slice(problem.start[r], problem.end[r])
            for i in range(problem.queries):
                mine = [torch.cat([x[t][r] for t in range(step + 1)])[: step * problem.queries + i + 1] for x in
                        (problem.k, problem.v)]  # fmt: skip
                k, v = (
                    torch.cat([p[problem.row_prefix[r], seen], x]) for p, x in zip(problem.prefix, mine, strict=True)
                )
                for h in range(heads):
                    weights = (k[:, h // group] @ query[r, i, h] * width**-0.5).softmax(0)
                    out[r, i, h] = weights @ v[:, h // group]
        outputs.append(out)
    return outputs


def relative_error(got: list[Tensor], expected: list[Tensor]) -> float:
    """Largest error of each tensor over its largest element. Inputs are of size 1: a tensor that is 0 in exact
    arithmetic (a softmax over one key has no gradient) is measured against a hundredth of that."""
    pairs = zip(got, expected, strict=True)
    return max(((a.double() - b).abs().max() / b.abs().max().clamp_min(1e-2)).item() for a, b in pairs if b.numel())


@pytest.mark.parametrize("shape", SHAPES)
def test_reference_equals_attention_without_a_cache(shape: tuple[int, ...]) -> None:
    problem = Problem(shape)
    with use_backend("reference"):
        got = problem.outputs(problem.leaves(torch.float64, requires_grad=False))
    assert relative_error(got, dense_attention(problem)) < 1e-12


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape: tuple[int, ...], backend: str, dtype: torch.dtype, dropout_p: float) -> None:
    problem = Problem(shape)
    exact = problem.results("reference", torch.float64, dropout_p)
    eager = relative_error(problem.results("reference", dtype, dropout_p), exact)
    got = relative_error(problem.results(backend, dtype, dropout_p), exact)
    # Twice the error of eager PyTorch in the same dtype; below that, a few roundings of the largest element.
    assert got <= max(2 * eager, 4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(2, 3, 3, 2, 1, 2, 2, 2), (3, 2, 4, 1, 1, 3, 3, 1)])
def test_gradcheck(shape: tuple[int, ...], dropout_p: float) -> None:
    problem = Problem(shape)
    with use_backend("reference"):
        assert torch.autograd.gradcheck(
            lambda *leaves: tuple(problem.outputs(list(leaves), dropout_p=dropout_p)), problem.leaves(torch.float64)
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_without_gradients_is_the_same(shape: tuple[int, ...], backend: str, dropout_p: float) -> None:
    problem = Problem(shape)
    with use_backend(backend):
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_prefix_with_any_outer_strides_is_not_copied(backend: str) -> None:
    problem = Problem((3, 7, 5, 2, 2, 32, 3, 1))
    fused = torch.stack(problem.prefix, dim=2).float()  # [S, C, 2, H, D]: K and V interleaved as one projection gives
    transposed = [x.float().transpose(1, 2).contiguous().transpose(1, 2) for x in problem.prefix]
    with use_backend(backend):
        expected = problem.outputs(problem.leaves(torch.float32, requires_grad=False))
        for k, v in (fused.unbind(2), transposed):
            leaves = [k, v, *problem.leaves(torch.float32, requires_grad=False)[2:]]
            for a, b in zip(problem.outputs(leaves), expected, strict=True):
                assert torch.equal(a, b)
        cache = ReasoningCache.from_prefix(*fused.unbind(2), max_tokens=1)
        assert cache.prefix_k.data_ptr() == fused.data_ptr()


@pytest.mark.parametrize("backend", BACKENDS)
def test_retain_graph_and_a_second_backward(backend: str) -> None:
    problem = Problem(SHAPES[0])
    leaves = problem.leaves(torch.float32)
    with use_backend(backend):
        loss = problem.loss(problem.outputs(leaves))
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    second = torch.autograd.grad(2 * loss, leaves)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(2 * a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_whose_output_is_unused(backend: str) -> None:
    problem = Problem((3, 7, 5, 2, 2, 32, 3, 1))

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        leaves = problem.leaves(dtype)
        outputs = problem.outputs(leaves)
        loss = (outputs[0].double() * problem.upstream[0]).sum()  # steps 1 and 2 reach no loss
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)]

    with use_backend("reference"):
        exact = gradients(torch.float64)
    with use_backend(backend):
        assert relative_error(gradients(torch.float32), exact) < 1e-5
    assert all(g.abs().max() == 0 for g in exact[3:5])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (5,), (8,), (0, 8)])
def test_only_some_inputs_require_gradients(backend: str, wanted: tuple[int, ...]) -> None:
    problem = Problem(SHAPES[0])
    everything = problem.results(backend, torch.float32)[problem.steps :]
    leaves = problem.leaves(torch.float32, requires_grad=False)
    for i in wanted:
        leaves[i].requires_grad_(True)
    with use_backend(backend):
        gradients = torch.autograd.grad(problem.loss(problem.outputs(leaves)), [leaves[i] for i in wanted])
    for i, gradient in zip(wanted, gradients, strict=True):
        torch.testing.assert_close(gradient, everything[i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_activation_checkpointing(backend: str) -> None:
    problem = Problem(SHAPES[0])

    def gradients(checkpointed: bool) -> tuple[Tensor, ...]:
        leaves = problem.leaves(torch.float32)
        (pk, pv), n = leaves[:2], problem.steps
        scale = torch.ones((), requires_grad=True)
        cache = ReasoningCache.from_prefix(pk * scale, pv * scale, max_tokens=n, rows=problem.rows())

        def run(step: int, x: Tensor) -> Tensor:
            q, k, v = leaves[2 + step], leaves[2 + n + step], leaves[2 + 2 * n + step]
            return cached_reason_attention(
                (q + 0.1 * x).tanh(), k.tanh(), v.tanh(), cache, step=step, dropout_p=0.2, seed=3
            )

        x, total = torch.zeros_like(leaves[2]), torch.zeros(())
        for step in range(n):
            x = checkpoint(run, step, x, use_reentrant=False) if checkpointed else run(step, x)
            total = total + (x * problem.upstream[step].float()).sum()
        return torch.autograd.grad(total, [*leaves, scale])

    with use_backend(backend):
        for a, b in zip(gradients(False), gradients(True), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_running_a_step_twice_counts_both(backend: str) -> None:
    """Two different uses of one slot must not mix their factors: the prefix gradient is the sum of both."""
    problem = Problem((2, 6, 4, 2, 2, 16, 2, 1))

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

    with use_backend(backend):
        for a, b in zip(gradient(True), gradient(False), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_double_backward_raises(backend: str) -> None:
    problem = Problem(SHAPES[0])
    leaves = problem.leaves(torch.float32)
    with use_backend(backend):
        gradients = torch.autograd.grad(problem.loss(problem.outputs(leaves)), leaves, create_graph=True)
    for gradient in (gradients[0], gradients[3]):
        with pytest.raises(RuntimeError, match="differentiated once"):
            gradient.sum().backward(retain_graph=True)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_select_continues_with_the_chosen_rows(backend: str, requires_grad: bool) -> None:
    problem = Problem((3, 7, 5, 2, 2, 32, 3, 1))
    ids = torch.tensor([3, 1, 1])
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
    with use_backend(backend):
        assert relative_error(run(torch.float32, select=True), exact) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_without_gradients_then_with(backend: str) -> None:
    problem = Problem((3, 7, 5, 2, 2, 32, 3, 1))

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
    with use_backend(backend):
        assert relative_error(run(torch.float32), exact) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_reset_and_one_row_per_call(backend: str) -> None:
    problem = Problem((1, 9, 1, 2, 2, 32, 2, 1))
    leaves = problem.leaves(torch.float32, requires_grad=False)
    with use_backend(backend):
        cache = ReasoningCache.from_prefix(*leaves[:2], max_tokens=2)
        first = [cached_reason_attention(leaves[2 + t], leaves[4 + t], leaves[6 + t], cache) for t in range(2)]
        cache.reset()
        assert cache.length == 0
        again = [cached_reason_attention(leaves[2 + t], leaves[4 + t], leaves[6 + t], cache) for t in range(2)]
        cache.reset()
        three_dimensional = cached_reason_attention(leaves[2][:, 0], leaves[4][:, 0], leaves[6][:, 0], cache)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(three_dimensional, first[0][:, 0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_new_tokens_are_causal_among_themselves(backend: str) -> None:
    together = Problem((2, 6, 4, 2, 2, 16, 1, 3))
    leaves = together.leaves(torch.float32, requires_grad=False)
    with use_backend(backend):
        expected = together.outputs(leaves)[0]
        cache = ReasoningCache.from_prefix(*leaves[:2], max_tokens=3, rows=together.rows())
        for i in range(3):
            one = cached_reason_attention(*(x[:, i] for x in leaves[2:]), cache)
            torch.testing.assert_close(one, expected[:, i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_scores_stay_finite(backend: str) -> None:
    problem = Problem(SHAPES[0])
    leaves = [x.detach() * 40 for x in problem.leaves(torch.float32, requires_grad=False)]
    with use_backend(backend):
        got = problem.outputs(leaves)
    with use_backend("reference"):
        exact = problem.outputs([x.double() for x in leaves])
    assert all(torch.isfinite(x).all() for x in got)
    assert relative_error(got, exact) < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_row(backend: str) -> None:
    problem = Problem((5, 7, 5, 2, 2, 32, 1, 1))
    leaves = problem.leaves(torch.float32, requires_grad=False)
    leaves[2][2] = float("nan")
    with use_backend(backend):
        out = problem.outputs(leaves)[0]
    assert torch.isnan(out[2]).all()
    assert torch.isfinite(out[[0, 1, 3, 4]]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixed_dtypes_of_autocast(backend: str) -> None:
    problem = Problem(SHAPES[0])
    with use_backend("reference"):
        exact = problem.outputs(problem.leaves(torch.float64, requires_grad=False))
    leaves = [x.bfloat16() if i < 2 else x for i, x in enumerate(problem.leaves(torch.float32))]
    with use_backend(backend):
        outputs = problem.outputs(leaves)
    assert all(o.dtype == torch.float32 for o in outputs)
    assert relative_error(outputs, exact) < 0.05
    gradients = torch.autograd.grad(problem.loss(outputs), leaves)
    assert [g.dtype for g in gradients] == [x.dtype for x in leaves]


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_does_not_lower_the_precision_inside(backend: str) -> None:
    problem = Problem(SHAPES[0])
    expected = problem.results(backend, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = problem.results(backend, torch.float32)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_bitwise_equal_between_runs_and_thread_counts(threads: int) -> None:
    problem = Problem((16, 50, 64, 2, 2, 64, 3, 1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = problem.results(BACKENDS[0], torch.float32, dropout_p=0.1)
        torch.set_num_threads(1)
        expected = problem.results(BACKENDS[0], torch.float32, dropout_p=0.1)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_torch_compile_fullgraph(backend: str) -> None:
    problem = Problem(SHAPES[0])
    rows = problem.rows()

    def train(*leaves: Tensor) -> Tensor:
        return torch.stack([o.square().sum() for o in problem.outputs(list(leaves), rows)]).sum()

    def infer(*leaves: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return problem.outputs(list(leaves), rows)

    torch._dynamo.reset()
    leaves = problem.leaves(torch.float32)
    with use_backend(backend):
        expected = torch.autograd.grad(train(*leaves), leaves)
        got = torch.autograd.grad(torch.compile(train, fullgraph=True, backend="aot_eager")(*leaves), leaves)
        plain, compiled = infer(*leaves), torch.compile(infer, fullgraph=True, backend="aot_eager")(*leaves)
    for a, b in zip([*got, *compiled], [*expected, *plain], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend: str) -> None:
    problem = Problem((2, 6, 4, 4, 2, 16, 2, 1))
    index = problem.rows().index(2, 6, torch.device("cpu"))
    pk, pv, q0, q1, k0, k1, v0, v1 = problem.leaves(torch.float32)
    seed = torch.tensor([7])
    ops = torch.ops.rearec
    flat = ops.attention_open_prefix(pk, pv, *index, 2, 1, 4, backend)
    carriers = [x.detach().requires_grad_() for x in flat[:4]]
    forward = (q1, [k0, k1], [v0, v1], pk.detach(), pv.detach(), carriers, *index[:4], 0.25, 0.3, seed, True, backend)
    torch.library.opcheck(ops.attention_open_prefix, (pk, pv, *index, 2, 1, 4, backend))
    torch.library.opcheck(ops.attention, forward)
    plain = [x.detach() if isinstance(x, Tensor) else x for x in forward]
    plain[1:3], plain[5], plain[-2] = [[k0.detach(), k1.detach()], [v0.detach(), v1.detach()]], [], False
    torch.library.opcheck(ops.attention, tuple(plain))
    with torch.no_grad():
        out, prefix_probs, token_probs = ops.attention(*forward)
        saved = (pk.detach(), pv.detach(), prefix_probs, token_probs, *index[:4], 0.25, 0.3, backend)
        tokens = ([k0.detach(), k1.detach()], [v0.detach(), v1.detach()])
        torch.library.opcheck(ops.attention_backward, (torch.ones_like(out), q1.detach(), *tokens, *saved))
        _, _, _, dscores = ops.attention_backward(torch.ones_like(out), q1, *tokens, *saved)
        factors = ([dscores], [prefix_probs], [q1.detach()], [torch.ones_like(q1)])
        torch.library.opcheck(ops.attention_prefix_gradient, (*factors, pk.detach(), pv.detach(), *index, backend))
        buffers = [torch.zeros(4, 2, 2, 16) for _ in range(2)]
        decode = (q0, k0, v0, pk, pv, *buffers, *index[:4], 0, 0.25, 0.3, seed, backend)
        torch.library.opcheck(ops.attention_decode, tuple(x.detach() if isinstance(x, Tensor) else x for x in decode))
