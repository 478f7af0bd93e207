"""Every way that the CUDA launchers spread attention over a device, and every layout of a head over a warp's lanes."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from attention_problem import Problem, relative_error
from backends import simulated_cuda

from rearec_kernels import use_backend

pytestmark = pytest.mark.cuda_on_cpu

# prefixes, slots, rows, heads, kv heads: a prefix for each row, few prefixes for many rows, heads that share.
SHARINGS = [(6, 41, 5, 2, 2), (2, 41, 19, 2, 2), (5, 23, 4, 6, 2)]


@pytest.fixture(params=[1, 132])
def schedule(request: pytest.FixtureRequest, simulated_launchers: ModuleType) -> Iterator[None]:
    """A device that one tile fills, where every warp has a tile of its own, and one where tiles are split."""
    simulated_launchers.set_multiprocessors(request.param)
    with simulated_cuda(simulated_launchers):
        yield
    simulated_launchers.set_multiprocessors(132)


@pytest.mark.usefixtures("schedule")
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [1, 20, 64, 120, 256])
def test_values_and_gradients(width: int, dtype: torch.dtype, sharing: tuple[int, ...]) -> None:
    problem = Problem((*sharing, width, 2, 1))
    exact = problem.results("reference", torch.float64, dropout_p=0.2)
    eager = relative_error(problem.results("reference", dtype, dropout_p=0.2), exact)
    got = relative_error(problem.results("cuda", dtype, dropout_p=0.2), exact)
    assert got <= max(2 * eager, 4 * torch.finfo(dtype).eps)


@pytest.mark.usefixtures("schedule")
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("width", [32, 256])
def test_garbage_in_slots_that_a_row_does_not_see_does_no_harm(width: int, sharing: tuple[int, ...]) -> None:
    """NaN in what a neighbour of the tile sees, or nobody, must not reach the row."""
    problem = Problem((*sharing, width, 2, 1))
    leaves = problem.leaves(torch.float32)
    with use_backend("cuda"):
        expected = torch.autograd.grad(problem.loss(problem.outputs(leaves)), leaves)
    slot = torch.arange(sharing[1])
    seen = torch.zeros(sharing[0], sharing[1], dtype=torch.bool)
    for start, end, prefix in zip(problem.start, problem.end, problem.row_prefix, strict=True):
        seen[prefix] |= (slot >= start) & (slot < end)
    row = int((problem.end - problem.start).argmax())
    only_others = seen.clone()
    only_others[problem.row_prefix[row], problem.start[row] : problem.end[row]] = False
    poisoned = problem.leaves(torch.float32)
    with torch.no_grad():
        for x in poisoned[:2]:
            x[~seen | only_others] = float("nan")
    with use_backend("cuda"):
        outputs = problem.outputs(poisoned)
        gradients = torch.autograd.grad(problem.loss(outputs), poisoned)
    assert all(torch.isfinite(o[row]).all() for o in outputs)
    for got, correct in zip(gradients[2:], expected[2:], strict=True):
        torch.testing.assert_close(got[row], correct[row], rtol=1e-5, atol=1e-5)
