"""Kernels in other kinds of processes: python -O, after a fork, in subinterpreters, and wrapped by DDP and FSDP."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPUTE = """
import sys, torch, rearec_kernels as rk
def compute():
    generator = torch.Generator().manual_seed(0)
    h, w = (torch.randn(*size, generator=generator).requires_grad_() for size in [(64, 3, 32), (3000, 32)])
    k, q = (torch.randn(*size, generator=generator).requires_grad_() for size in [(64, 20, 2, 32), (64, 2, 32)])
    loss = rk.annealed_cross_entropy(h, w, torch.arange(64), temperature=0.5)
    cache = rk.ReasoningCache.from_prefix(k, k, max_tokens=1, rows=rk.PrefixRows(start=torch.arange(64) % 20))
    loss = loss + rk.cached_reason_attention(q, q, q, cache, dropout_p=0.1, seed=1).square().sum()
    gradients = torch.autograd.grad(loss, (h, w, k, q))
    best = rk.catalog_topk(h[:, 0].detach(), w.detach(), 9)[0]
    return [loss.item(), best.sum().item(), *(g.abs().sum().item() for g in gradients)]
"""


def run(code: str, *options: str, timeout: float = 200, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environ)


def test_without_assertions() -> None:
    """Under -O no check is lost: none is an assertion."""
    code = COMPUTE + (
        "print(compute())\n"
        "for wrong in (dict(start=torch.tensor([-1])), dict(row_prefix=torch.tensor([5]))):\n"
        "    k = torch.zeros(1, 2, 1, 4)\n"
        "    try: rk.ReasoningCache.from_prefix(k, k, max_tokens=1, rows=rk.PrefixRows(**wrong))\n"
        "    except ValueError as error: print(error)\n"
    )
    plain, optimised = run(code), run(code, "-OO")
    assert plain.returncode == optimised.returncode == 0, optimised.stderr
    assert optimised.stdout == plain.stdout
    assert plain.stdout.count("PrefixRows: row 0 has") == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("threads", [1, 2])
def test_after_a_fork(threads: int) -> None:
    """A child computes what its parent did, also one of many threads as long as it takes one itself, which is what
    torch's own operators ask of a child too (and what a DataLoader gives to its workers)."""
    code = COMPUTE + (
        f"import os, time; torch.set_num_threads({threads}); expected = compute()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    torch.set_num_threads(1)\n"
        "    got = torch.tensor(compute())\n"
        "    os._exit(0 if torch.allclose(got, torch.tensor(expected), rtol=1e-4) else 3)\n"
        "deadline = time.time() + 100\n"
        "while time.time() < deadline:\n"
        "    done, status = os.waitpid(child, os.WNOHANG)\n"
        "    if done: print('child', os.waitstatus_to_exitcode(status)); break\n"
        "    time.sleep(0.05)\n"
        "else: os.kill(child, 9)\n"
    )
    done = run(code)
    assert done.stdout.strip() == "child 0", done.stderr


@pytest.mark.parametrize("first", ["", "import torch"], ids=["alone", "torch in the main interpreter"])
def test_a_subinterpreter_is_refused(first: str) -> None:
    code = f"""
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
{first}
import os, sys
inner = "import sys; sys.path[:0] = " + repr(sys.path) + '''
try:
    import rearec_kernels
except ImportError as error:
    print(error, flush=True)
'''
problem = interpreters.run_string(interpreters.create(), inner)
print(problem or "", flush=True)
os._exit(0)
"""
    done = run(code)
    assert "rearec_kernels cannot be used in a subinterpreter" in done.stdout, done.stderr
    assert done.returncode == 0


WRAPPED = (
    COMPUTE
    + """
import os
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.table = nn.Linear(16, 16), nn.Embedding(40, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, x, target):
        k = self.inner(x).unflatten(-1, (2, 8))
        cache = rk.ReasoningCache.from_prefix(k, k, max_tokens=2)
        h = [x[:, -1]]
        for _ in range(2):
            q = self.inner(h[-1]).unflatten(-1, (2, 8))
            y = rk.cached_reason_attention(q, q, q, cache).flatten(1)
            h.append(rk.dropout_add_layer_norm(y, h[-1], self.norm.weight, self.norm.bias))
        return rk.annealed_cross_entropy(torch.stack(h, 1), self.table.weight, target, temperature=0.5)

def build():
    torch.manual_seed(0)
    return Model()

def main():
    dist.init_process_group("gloo")
    rank, kind = dist.get_rank(), sys.argv[1]
    torch.manual_seed(1)
    x, target = torch.randn(8, 5, 16), torch.randint(0, 40, (8,))
    single = build()
    plain = torch.optim.SGD(single.parameters(), lr=0.05)
    model = build()
    if kind == "ddp":
        wrapped = DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        wrapped = fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05)
    for _ in range(3):
        plain.zero_grad(); single(x, target).backward(); plain.step()
        part = slice(4 * rank, 4 * rank + 4)
        optimizer.zero_grad(); wrapped(x[part], target[part]).backward(); optimizer.step()
    for got, expected in zip(wrapped.parameters(), single.parameters(), strict=True):
        got = got.full_tensor() if hasattr(got, "full_tensor") else got
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    dist.barrier()
    print("same", flush=True)
    dist.destroy_process_group()
    os._exit(0)

main()
"""
)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_wrapped_for_several_processes(kind: str, tmp_path: Path) -> None:
    """Three steps of two processes, half the rows each, against one process."""
    script, store = tmp_path / "train.py", tmp_path / "store"
    script.write_text(
        WRAPPED.replace('"gloo"', f'"gloo", init_method="file://{store}", rank=int(sys.argv[2]), world_size=2')
    )
    environ = {
        **os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), kind, str(rank)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        out, error = process.communicate(timeout=200)
        # Not the exit status: torch's threads of a group that ends abort the process now and then.
        assert out.strip().endswith("same"), error
