"""The native module under the address and undefined-behaviour sanitizers: all ops, in ragged shapes, with gradients."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
import pytest

import rearec_kernels
from rearec_kernels import native

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = [
    *("-O1", "-g1", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fopenmp", "-fno-omit-frame-pointer"),
    *(
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-sanitize=nonnull-attribute",  # memset and memcpy of no bytes at a null pointer: an empty prefix
        "-DREAREC_ISA_COUNT=1",
        "-DREAREC_ISA=baseline",
        "-DREAREC_ENGINE=portable",
    ),
    *(f"-I{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"), CSRC)),
]
COMPUTE = """
import itertools, torch
import rearec_kernels as rk
from rearec_kernels import native
from attention_problem import SHAPES, Problem
from layer_stack import LayerStack
from public_calls import EVERY
from rearec_kernels.compat import flash_attn_with_kvcache

assert rk.build_info()["isas"] == ["baseline"], "not the module that was built for this test"
for dtype, shape, p in itertools.product((torch.float32, torch.bfloat16), SHAPES, (0.0, 0.3)):
    Problem(shape).results("cpu", dtype, p)
    with torch.no_grad():
        Problem(shape).outputs(Problem(shape).leaves(dtype), dropout_p=p)
for call in EVERY.values():
    call(torch.randn(3, 2, 8))
target = lambda rows, items: torch.where(torch.rand(rows) < 0.2, -100, torch.randint(0, items, (rows,)))
for rows, steps, items, width in [(1, 1, 1, 1), (7, 3, 33, 5), (40, 2, 1001, 64), (300, 1, 70, 33)]:
    for dtype, precision, native.MULTIPLIES_BF16 in [  # the last: by tiles, or by chunks
        *itertools.product((torch.float32, torch.bfloat16), ("fp32", "bf16"), (False,)),
        *itertools.product((torch.float32, torch.bfloat16), ("bf16", "bf16x3"), (True,)),
    ]:
        h, w = (torch.randn(*size).to(dtype).requires_grad_() for size in [(rows, steps, width), (items, width)])
        options = dict(temperature=0.5, precision=precision)
        y, group = target(rows, items), torch.randint(0, 3, (rows,))
        losses = [rk.annealed_cross_entropy(h, w, y, reduction=r, **options).sum() for r in ("mean", "none")]
        for form in ("official", "paper"):
            losses.append(rk.ensemble_reasoning_loss(h, w, y, kl_weight=0.1, kl_form=form, **options).loss)
        for reduction in ("mean", "none"):
            contrast = rk.reasoning_info_nce(h, h.detach(), row_group=group, reduction=reduction, **options)
            losses.append(contrast.sum())
        sum(loss.float() for loss in losses).backward()
        as_score = "fp32" if precision == "bf16x3" else precision
        prepared = rk.prepare_catalog(w.detach(), as_score)
        for exclude in (None, torch.tensor([0]), (torch.arange(rows + 1), torch.randint(0, items, (rows,)))):
            for k in (1, 9, items + 3):
                rk.catalog_topk(h[:, 0], w, k, exclude=exclude, precision=as_score)
                rk.catalog_topk(h[:, 0], prepared, k, exclude=exclude, precision=as_score)
            for catalog in (w, prepared):
                rk.catalog_rank(h[:, 0], catalog, y.clamp(min=0), exclude=exclude, precision=as_score)
        x = h.detach().flatten(0, 1).requires_grad_()
        norm = torch.randn(2, width, requires_grad=True)
        rk.dropout_add_layer_norm(x, x.detach(), *norm.unbind(), dropout_p=0.2, output_dropout_p=0.1).sum().backward()
with torch.no_grad():
    for rows, slots, heads, dim, ffn in [(1, 9, 2, 16, 12), (13, 7, 3, 48, 100), (60, 3, 1, 33, 1), (5, 0, 2, 64, 31)]:
        LayerStack.random(rows, slots, heads=heads, dim=dim, ffn=ffn, steps=3).to(torch.float32).states(3)
    caches = [torch.randn(4, 9, 2, 17) for _ in range(2)]
    flash_attn_with_kvcache(torch.randn(3, 2, 4, 17), *caches, torch.randn(3, 2, 2, 17), torch.randn(3, 2, 2, 17),
                            cache_seqlens=torch.tensor([0, 3, 7]), cache_batch_idx=torch.tensor([3, 0, 1]), causal=True)
print("clean")
"""


@pytest.mark.skipif(native.C is None, reason="an install without the native module")
@pytest.mark.skipif(sys.platform != "linux", reason="preloads the sanitizer's library as Linux does")
def test_clean(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    library = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(library).is_absolute():
        pytest.skip("g++ has no address sanitizer here")
    package = tmp_path / "rearec_kernels"
    source = Path(rearec_kernels.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("_C*", "__pycache__"))

    def build(*arguments: str) -> None:
        done = subprocess.run([compiler, *FLAGS, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def build_object(source: Path, out: Path) -> None:
        # pybind11's templates are most of the bindings, and take half as long without optimisation
        build("-c", str(source), "-o", str(out), *(["-O0"] if source == bindings else []))

    # the bindings as one file, as setup.py does: each of them takes half a minute for pybind11's headers and templates
    bindings = tmp_path / "bindings.cpp"
    bindings.write_text(
        "".join(
            f'#include "{path}"\n'
            for folder in ("bindings", "bindings/tiles")
            for path in sorted(CSRC.glob(f"{folder}/*.cpp"))
        )
    )
    folders = ("cpu/tiles", "cpu", "cpu/runtime")
    sources = [bindings, *(path for folder in folders for path in sorted(CSRC.glob(f"{folder}/*.cpp")))]
    objects = [tmp_path / f"{path.parent.name}-{path.name}.o" for path in sources]
    with ThreadPoolExecutor(2) as pool:
        [*pool.map(build_object, sources, objects)]
    extension = package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    build("-shared", *map(str, objects), "-o", str(extension))

    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "TRITON_INTERPRET": "0",
        "LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1",
    }  # fmt: skip
    # An editable install would find its own compiled module for any copy of the package.
    first = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
    done = subprocess.run([sys.executable, "-c", first + COMPUTE], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "clean", done.stderr[-5000:]
