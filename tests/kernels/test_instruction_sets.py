"""Losses, retrieval and the rollout under every instruction set that this machine can run, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from instruction_sets import instruction_sets
from patience import PATIENCE

from rearec_kernels import available_backends

LOSSES = """
import torch, rearec_kernels as rk
from rearec_kernels import native
torch.manual_seed(0)
print(rk.build_info()["isa"])
native.MULTIPLIES_BF16 = native.TILES is not None  # by tiles also where something else is faster
target = torch.randint(0, 1037, (40,))
for steps in range(1, 8):
    exact_inputs = torch.randn(40, steps, 24).double(), torch.randn(1037, 24).double() / 4
    def compute(backend, dtype, precision):
        h, e = (x.to(dtype).requires_grad_() for x in exact_inputs)
        contrast = e[:40 * steps].view(40, steps, 24)
        options = dict(temperature=0.3, precision=precision)
        with rk.use_backend(backend):
            losses = [
                rk.annealed_cross_entropy(h, e, target, **options),
                rk.annealed_cross_entropy(h, e, target, **{**options, "temperature": 0.07}, reduction="none").mean(),
                rk.ensemble_reasoning_loss(h, e, target, kl_weight=0.1, **options).loss,
                rk.ensemble_reasoning_loss(h, e, target, kl_weight=0.1, kl_form="paper", **options).loss,
                rk.reasoning_info_nce(h, contrast, row_group=target // 99, **options),
            ]
        return [x for loss in losses for x in (loss.detach(), *torch.autograd.grad(loss, (h, e)))]
    exact = compute("reference", torch.float64, "fp32")
    for precision in ("fp32", "bf16", "bf16x3"):
        results = [compute(backend, torch.float32, precision) for backend in ("reference", "cpu")]
        for right, eager, ours in zip(exact, *results):
            error = lambda got: ((got.double() - right).abs().max() / right.abs().max()).item()
            assert error(ours) <= 2 * error(eager) + 1e-6, (steps, precision, error(ours), error(eager))
"""

RETRIEVAL = """
import torch, rearec_kernels as rk
from rearec_kernels import native
torch.manual_seed(0)
print(rk.build_info()["isa"])
native.MULTIPLIES_BF16 = native.TILES is not None  # by tiles also where something else is faster
weight = torch.randint(-2, 3, (1037, 27)).float()  # sums of small integers are exact in any order
exclude = torch.randint(0, 1037, (200,))
for rows in (1, 2, 3, 4, 5, 6, 7, 8, 30):
    hidden, target = torch.randint(-2, 3, (rows, 27)).float(), torch.randint(0, 1037, (rows,))
    for table in (weight, weight.bfloat16()):
        results = []
        for backend in ("reference", "cpu"):
            with rk.use_backend(backend):
                results.append([*rk.catalog_topk(hidden, table, 13, exclude=exclude),
                                rk.catalog_rank(hidden, table, target, exclude=exclude)])
        assert all(torch.equal(a, b) for a, b in zip(*results)), (rows, table.dtype)
        for precision in ("fp32", "bf16"):
            prepared = rk.prepare_catalog(table, precision)
            got = rk.catalog_topk(hidden, prepared, 13, exclude=exclude, precision=precision)
            assert all(torch.equal(a, b) for a, b in zip(got, results[0])), (rows, table.dtype, precision)
"""

ROLLOUT = """
import torch, rearec_kernels as rk
from layer_stack import LayerStack
torch.manual_seed(0)
print(rk.build_info()["isa"])
for rows in (1, 2, 5, 12, 13, 15, 29, 100):
    for dim, heads, ffn in ((64, 2, 100), (48, 3, 33), (70, 1, 16), (512, 2, 5)):
        problem = LayerStack.random(rows, dim=dim, heads=heads, ffn=ffn)
        results = []
        for backend, dtype in (("reference", torch.float64), ("reference", torch.float32), ("cpu", torch.float32)):
            with rk.use_backend(backend), torch.no_grad():
                results.append(problem.to(dtype).states(2).double())
        exact, eager, native = results
        error = lambda got: ((got - exact).abs().max() / exact.abs().max()).item()
        assert error(native) <= 2 * error(eager) + 1e-6, (rows, dim, error(native), error(eager))
"""


@pytest.mark.skipif("cpu" not in available_backends("cpu"), reason="no native module in this install")
@pytest.mark.parametrize("code", [LOSSES, RETRIEVAL, ROLLOUT], ids=["losses", "retrieval", "rollout"])
@pytest.mark.parametrize("isa", instruction_sets())
def test_every_instruction_set_of_this_machine_is_right(isa: str, code: str) -> None:
    environment = {**os.environ, "REAREC_CPU_ISA": isa, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa
