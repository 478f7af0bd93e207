"""Random chained reasoning steps, and the attention they should compute: for every test of attention."""

from __future__ import annotations

import torch
from torch import Tensor

from rearec_kernels import PrefixRows, ReasoningCache, cached_reason_attention, use_backend

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

    def __init__(self, shape: tuple[int, ...], device: torch.device | str = "cpu", seed: int = 0) -> None:
        prefixes, slots, rows, heads, kv_heads, width, steps, queries = shape
        generator = torch.Generator().manual_seed(seed)
        self.steps, self.queries = steps, queries

        def random(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64).to(device)

        self.prefix = [random(prefixes, slots, kv_heads, width) for _ in range(2)]
        self.q = [random(rows, queries, heads, width) for _ in range(steps)]
        self.k = [random(rows, queries, kv_heads, width) for _ in range(steps)]
        self.v = [random(rows, queries, kv_heads, width) for _ in range(steps)]
        self.upstream = [random(rows, queries, heads, width) for _ in range(steps)]
        bounds = torch.randint(0, slots + 1, (2, rows), generator=generator).to(device)
        self.start, self.end = bounds.min(0).values, bounds.max(0).values
        self.start[0] = self.end[0]  # one row with an empty prefix
        self.row_prefix = torch.randint(0, prefixes, (rows,), generator=generator).to(device)

    def rows(self) -> PrefixRows:
        return PrefixRows(self.start, self.end, self.row_prefix)

    def leaves(self, dtype: torch.dtype, requires_grad: bool = True) -> list[Tensor]:
        """The prefix's k and v, then q, k and v of each step."""
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
