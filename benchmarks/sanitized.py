"""A small program for compute-sanitizer: every kernel of attention once over ragged shapes in every dtype, its results
checked against the reference: `python benchmarks/sanitized.py [--device cpu] [--out-of-bounds]`.

Beside ours, only elementwise kernels run on the device: what the sanitizer finds in shared memory is ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from attention_problem import SHAPES, Problem, relative_error
from torch import Tensor

from rearec_kernels import PrefixRows, use_backend

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--out-of-bounds", action="store_true", help="read far outside a prefix, once, and do no more")
    options = parser.parse_args()
    if options.out_of_bounds:
        read_out_of_bounds(options.device)
        return 0
    failures = [
        f"{shape} {dtype}: error {error:.1e}, allowed {allowed:.1e}"
        for i, shape in enumerate(SHAPES)
        for dtype in DTYPES
        for error, allowed in [errors(shape, dtype, options.device, dropout_p=0.4 * (i % 2))]
        if not error <= allowed
    ]
    print("\n".join([*failures, f"{len(SHAPES) * len(DTYPES)} problems, {len(failures)} wrong"]))
    return 1 if failures else 0


def errors(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, dropout_p: float) -> tuple[float, float]:
    """The largest error of outputs and gradients, and the one that is allowed: see test_values_and_gradients."""
    problem = Problem(shape)
    exact = problem.results("reference", torch.float64, dropout_p)
    eager = relative_error(problem.results("reference", dtype, dropout_p), exact)
    with use_backend("cuda") if device.type == "cuda" else nullcontext():
        got = [x.cpu() for x in results(problem, dtype, device, dropout_p)]
    with_gradients, without = got[: len(exact)], got[len(exact) :]
    error = max(relative_error(with_gradients, exact), relative_error(without, exact[: problem.steps]))
    return error, max(2 * eager, 4 * torch.finfo(dtype).eps)


def results(problem: Problem, dtype: torch.dtype, device: torch.device, dropout_p: float) -> list[Tensor]:
    """Outputs and gradients of steps that keep what gradients need, then outputs of steps that append in place."""
    rows = rows_sorted_on_the_host(problem, device)
    leaves = [x.to(device, dtype).requires_grad_() for x in problem.leaves(torch.float64, requires_grad=False)]
    upstream = [x.to(device, dtype) for x in problem.upstream]
    outputs = problem.outputs(leaves, rows, dropout_p)
    gradients = torch.autograd.grad(outputs, leaves, upstream)
    with torch.no_grad():
        appended = problem.outputs(leaves, rows, dropout_p)
    return [*(o.detach() for o in outputs), *gradients, *appended]


def rows_sorted_on_the_host(
    problem: Problem, device: torch.device, change: Callable[[Any], Any] = lambda index: index
) -> PrefixRows:
    """torch sorts in shared memory; the sanitizer has no business there."""
    prefixes, slots = problem.prefix[0].shape[:2]
    index = change(problem.rows().index(prefixes, slots, torch.device("cpu")))
    rows = PrefixRows(problem.start.to(device))
    rows._indices.append((prefixes, slots, type(index)(*(x.to(device) for x in index))))
    return rows


def read_out_of_bounds(device: torch.device) -> None:
    """Proof that the sanitizer looks at our kernels: it must complain about this one."""
    problem = Problem(SHAPES[0])
    far = torch.full_like(problem.row_prefix, 1 << 20, dtype=torch.int32)
    full = torch.full_like(far, problem.prefix[0].shape[1])
    rows = rows_sorted_on_the_host(
        problem, device, lambda index: index._replace(start=torch.zeros_like(full), end=full, row_prefix=far)
    )
    leaves = [x.to(device, torch.float32) for x in problem.leaves(torch.float64, requires_grad=False)]
    with use_backend("cuda"), torch.no_grad():
        problem.outputs(leaves, rows)
    torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
