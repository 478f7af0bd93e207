"""Which backends there are, and that the native one is really in an install that was to have it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from backends import own_registry
from instruction_sets import instruction_sets
from patience import PATIENCE

import rearec_kernels
from rearec_kernels import (
    ReasoningCache,
    available_backends,
    build_info,
    cached_reason_attention,
    dispatch,
    resolve_backend,
    triton_support,
    use_backend,
)
from rearec_kernels.backends import Backend, Serves, find, precisions_of, register

NATIVE = os.environ.get("REAREC_NATIVE") != "0"


def test_native_module_is_loaded_unless_it_was_left_out() -> None:
    assert build_info()["native"] == NATIVE
    native = ("cpu",) if NATIVE else ()
    interpreted = ("triton",) if triton_support.INTERPRETED else ()
    assert available_backends("cpu") == (*native, "reference", *interpreted)


def test_public_names() -> None:
    assert all(hasattr(rearec_kernels, name) for name in rearec_kernels.__all__)
    assert rearec_kernels.__all__ == sorted(rearec_kernels.__all__)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"TRITON_INTERPRET": "0", **environment}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **variables}, timeout=PATIENCE
    )


def test_import_is_quick_beyond_torch_and_pulls_in_little() -> None:
    code = (
        "import time, sys, torch; t = time.process_time(); import rearec_kernels; s = time.process_time() - t;"
        "print(s, [m for m in ('rearec', 'lightning', 'polars', 'matplotlib', 'triton') if m in sys.modules])"
    )
    seconds, modules = run_python(code).stdout.split(maxsplit=1)
    assert float(seconds) < 1.0
    assert modules.strip() == "[]"


def test_slower_fallback_warns_once() -> None:
    if not NATIVE:
        pytest.skip("the reference backend is the only one of this install")
    dispatch._warned.clear()
    k = torch.zeros(2, 3, 1, 4, dtype=torch.float64)
    token = torch.zeros(2, 1, 4, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            cached_reason_attention(token, token, token, ReasoningCache.from_prefix(k, k, max_tokens=1))
    assert [str(w.message) for w in caught] == [
        "cached_reason_attention: backend 'cpu' does not serve torch.float64; using the slower 'reference'"
    ]


def test_importing_an_uncompiled_source_tree_warns(tmp_path: Path) -> None:
    package = Path(rearec_kernels.__file__).parent
    shutil.copytree(package, tmp_path / "rearec_kernels", ignore=shutil.ignore_patterns("_C*", "__pycache__"))
    # An editable install would find its own compiled module for any copy of the package.
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()];"
        "import rearec_kernels; print(rearec_kernels.available_backends('cpu'))"
    )
    for source_tree in (False, True):
        if source_tree:
            (tmp_path / "setup.py").touch()
        done = run_python(code, PYTHONPATH=str(tmp_path))
        assert done.stdout.strip() == "('reference',)"
        assert ("comes from its source tree" in done.stderr) == source_tree


VALUES = """
import torch, rearec_kernels as rk
torch.manual_seed(0)
print(rk.build_info()["isa"])
for dtype in (torch.float32, torch.bfloat16):
    for width in (8, 20, 32, 64, 128, 256):
        # One draw may spare either of them by chance: the errors of several are compared.
        errors = torch.zeros(2, dtype=torch.float64)
        for draw in range(8):
            k, v = (torch.randn(3, 37, 2, width, dtype=torch.float64) for _ in range(2))
            q = torch.randn(3, 4, width, dtype=torch.float64)
            results = []
            for kind, backend in ((torch.float64, "reference"), (dtype, "reference"), (dtype, "cpu")):
                leaves = [x.to(kind).requires_grad_() for x in (k, v, q)]
                with rk.use_backend(backend):
                    cache = rk.ReasoningCache.from_prefix(*leaves[:2], max_tokens=1)
                    new = leaves[2][:, :2]
                    out = rk.cached_reason_attention(leaves[2], new, new, cache, dropout_p=0.2, seed=1 + draw)
                results.append([out.detach(), *torch.autograd.grad(out.double().square().sum(), leaves)])
            exact, *others = results
            for index, got in enumerate(others):
                errors[index] += max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(got, exact))
        eager, native = (errors / 8).tolist()
        assert native <= max(2 * eager, 4 * torch.finfo(dtype).eps), (dtype, width, native, eager)
"""


@pytest.mark.skipif(not NATIVE, reason="no native module in this install")
@pytest.mark.parametrize("isa", instruction_sets())
def test_every_instruction_set_of_this_machine_computes_the_same(isa: str) -> None:
    done = run_python(VALUES, REAREC_CPU_ISA=isa)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa


@pytest.mark.skipif(not NATIVE, reason="no native module in this install")
def test_an_unusable_instruction_set_is_an_error() -> None:
    done = run_python("import rearec_kernels", REAREC_CPU_ISA="sse9")
    assert done.returncode == 1
    assert "ImportError: REAREC_CPU_ISA=sse9: this build on this machine can use baseline" in done.stderr


@pytest.mark.skipif(not triton_support.INSTALLED, reason="triton is not installed")
def test_triton_takes_tensors_of_a_cpu_in_its_interpreter_only_and_if_asked_for() -> None:
    code = (
        "import torch, rearec_kernels as rk; h, e = torch.ones(2, 1, 4), torch.ones(3, 4);"
        "print(rk.available_backends('cpu')[-1], rk.resolve_backend('catalog_topk', h.device, h.dtype) == 'triton')\n"
        "with rk.use_backend('triton'): print(rk.annealed_cross_entropy(h, e, torch.ones(2).long(), temperature=1))"
    )
    done = run_python(code, TRITON_INTERPRET="1")
    assert done.stdout.split() == ["triton", "False", "tensor(1.0986)"], done.stderr
    refused = run_python(code)
    assert refused.returncode == 1 and refused.stdout.split() == ["reference", "False"]
    assert "backend 'triton' cannot run on cpu (only in Triton's interpreter: TRITON_INTERPRET=1)" in refused.stderr


@pytest.mark.parametrize(
    ("op", "dtype", "options", "expected"),
    [
        ("annealed_cross_entropy", torch.float32, {}, "triton"),
        ("cached_reason_attention", torch.float32, {"head_dim": 64}, "cuda"),
        ("cached_reason_attention", torch.float32, {"head_dim": 512}, "triton"),
        ("annealed_cross_entropy", torch.float64, {"precision": "bf16"}, "reference"),
        ("annealed_cross_entropy", torch.float32, {"precision": "bf16"}, "triton"),
        ("annealed_cross_entropy", torch.float32, {"precision": "fp32"}, "reference"),
        ("ensemble_reasoning_loss", torch.bfloat16, {"precision": "fp32"}, "reference"),
        ("ensemble_reasoning_loss", torch.float32, {"states": 8}, "triton"),
        ("ensemble_reasoning_loss", torch.float32, {"states": 9}, "reference"),
        ("catalog_topk", torch.bfloat16, {"k": 512}, "triton"),
        ("catalog_topk", torch.bfloat16, {"k": 513}, "reference"),
    ],
)
def test_a_gpu_takes_the_fastest_backend_that_serves_a_call(
    op: str, dtype: torch.dtype, options: dict[str, Any], expected: str, every_backend_runs: None
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chosen = resolve_backend(op, torch.device("cuda"), dtype, **options)
    assert chosen == expected
    # A warning where something of this call keeps the fastest away, not where that never serves it.
    refused = expected == "reference" and options.get("precision") != "fp32"
    assert bool(caught) == (refused or options.get("head_dim") == 512)


@pytest.fixture
def every_backend_runs() -> Iterator[None]:
    """On every device, and as if nobody had been warned; the CUDA kernels take heads of 256 at most."""
    dispatch._warned.clear()
    with own_registry():
        for name in ("cpu", "cuda", "triton"):
            register(replace(find(name), obstacle=lambda device: None))
        register(replace(find("cuda"), serves={"cached_reason_attention": Serves(limits={"head_dim": 256})}))
        yield


def test_a_backend_that_is_registered_is_preferred_to_the_reference(every_backend_runs: None) -> None:
    meta, call = torch.device("meta"), ("catalog_topk", torch.device("meta"), torch.float32)
    assert resolve_backend(*call) == "reference"
    register(Backend("toy", ("meta",), lambda device: None, {"catalog_topk": Serves(limits={"k": 4})}))
    assert resolve_backend(*call) == resolve_backend(*call, k=4) == "toy"
    assert resolve_backend("catalog_rank", meta, torch.float32) == "reference"
    with pytest.warns(UserWarning, match="backend 'toy' does not serve k = 5, at most 4; using the slower 'reference'"):
        assert resolve_backend(*call, k=5) == "reference"
    with (
        use_backend("toy"),
        pytest.raises(ValueError, match="catalog_topk: backend 'toy' does not serve k = 5, at mos"),
    ):
        resolve_backend(*call, k=5)
    register(Backend("toy", ("meta",), lambda device: "broken", {}))
    assert resolve_backend(*call) == "reference"
    with use_backend("toy"), pytest.raises(ValueError, match=r"backend 'toy' cannot run on meta \(broken\)"):
        resolve_backend(*call)


def test_what_torch_computes_as_well_is_no_refusal(every_backend_runs: None) -> None:
    """LayerNorm where no kernel serves it: even with a backend that was asked for, without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("cpu", "cuda", "triton", "reference", None):
            for dtype in (torch.float16, torch.float64):
                if name is None:
                    assert resolve_backend("dropout_add_layer_norm", torch.device("cpu"), dtype) == "reference"
                    continue
                with use_backend(name):
                    assert resolve_backend("dropout_add_layer_norm", torch.device("cpu"), dtype) == "reference"


def test_a_backend_is_chosen_for_the_block_and_the_thread(every_backend_runs: None) -> None:
    call = ("catalog_topk", torch.device("cpu"), torch.float32)
    default = resolve_backend(*call)
    with use_backend("reference"):
        with pytest.raises(KeyError), use_backend("triton"):
            assert resolve_backend(*call) == "triton"
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(resolve_backend, *call).result() == default
            raise KeyError
        assert resolve_backend(*call) == "reference"
    assert resolve_backend(*call) == default == "cpu"


def test_calls_and_sizes_that_do_not_exist() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match="resolve_backend: no public call is named 'attention'"):
        resolve_backend("attention", cpu, torch.float32)
    with pytest.raises(TypeError, match="unknown size 'width'; expected one of head_dim, states, k"):
        resolve_backend("cached_reason_attention", cpu, torch.float32, width=3)


def test_every_public_call_has_the_precisions_of_its_backends() -> None:
    assert precisions_of("annealed_cross_entropy") == ("fp32", "tf32", "bf16", "bf16x3")
    assert precisions_of("catalog_topk") == ("fp32", "tf32", "bf16")
    assert precisions_of("cached_reason_attention") == ()


def test_precisions_that_a_backend_does_not_serve() -> None:
    tensors = torch.ones(2, 1, 4), torch.ones(3, 4), torch.zeros(2, dtype=torch.int64)
    with use_backend("reference"), pytest.raises(ValueError, match="precision 'tf32' needs a GPU"):
        rearec_kernels.annealed_cross_entropy(*tensors, temperature=1.0, precision="tf32")
    if triton_support.INTERPRETED:
        with use_backend("triton"):
            losses = [
                rearec_kernels.annealed_cross_entropy(*tensors, temperature=1.0, precision=precision)
                for precision in ("fp32", "tf32")
            ]
        assert torch.equal(*losses)


def test_backend_by_environment_variable() -> None:
    code = (
        "import torch, rearec_kernels as rk; k = torch.zeros(1, 1, 1, 4);"
        "rk.cached_reason_attention(k[0], k[0], k[0], rk.ReasoningCache.from_prefix(k, k, max_tokens=1))"
    )
    assert run_python(code, REAREC_BACKEND="reference").returncode == 0
    failed = run_python(code, REAREC_BACKEND="quick")
    assert "REAREC_BACKEND: unknown backend 'quick'" in failed.stderr
