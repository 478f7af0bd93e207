"""The Triton kernels as machine code: compiled without a GPU, no spilled registers, tensor cores where they belong.

What is compiled is every kernel's preferred config at the paper's sizes. REAREC_OTHER_TRITON names a folder with
another release of Triton (`pip install --target`), for which the same is checked on one architecture.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from backends import catalog_backends
from patience import PATIENCE

SCRIPT = Path(__file__).parents[1] / "support" / "ahead_of_time.py"
# Another release is compiled for one of the architectures that the installed one is compiled for.
ARCHS = {"installed": (80, 90, 100), "other": (90,)}
# Bytes of shared memory that a block may have.
MOST_SHARED = {80: 166_912, 90: 232_448, 100: 232_448}
FOLDERS = {"installed": None, "other": os.environ.get("REAREC_OTHER_TRITON")}

if not any("triton" in str(backend) for backend in catalog_backends()):
    pytest.skip("triton is not installed", allow_module_level=True)
pytestmark = pytest.mark.aot


@pytest.fixture(scope="module", params=[name for name, folder in FOLDERS.items() if folder or name == "installed"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """An entry per kernel, case and architecture."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))  # nothing compiled by another version
    folder = FOLDERS[request.param]
    if folder is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, environment.get("PYTHONPATH")]))
    command = [sys.executable, str(SCRIPT), "--arch", *map(str, ARCHS[request.param])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    entries = json.loads(done.stdout)
    assert {entry["arch"] for entry in entries} == {*ARCHS[request.param]}
    return entries


def describe(entry: dict[str, Any]) -> str:
    size = f"{entry['registers']} registers, {entry['spills']} spills, {entry['shared']} bytes shared"
    return (
        f"{entry['case']}: {entry['kernel']} for {entry['arch']}, triton {entry['triton']}: {size}, {entry['blocks']}"
    )


def test_every_kernel_is_compiled_for_every_architecture(report: list[dict[str, Any]]) -> None:
    folder = Path(sys.modules["rearec_kernels"].__file__ or "").parent / "triton"
    files = [path for path in folder.glob("*_kernels.py") if path.stem != "tile_kernels"]  # what the kernels call
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    decorated = [after for line, after in itertools.pairwise(lines) if line.startswith("@triton.jit")]
    names = {line.removeprefix("def ").split("(")[0] for line in decorated}
    kernels = {name for name in names if not name.startswith("_")}
    assert len(kernels) >= 13
    for arch in {entry["arch"] for entry in report}:
        assert {entry["kernel"] for entry in report if entry["arch"] == arch} == kernels


def test_no_register_is_spilled(report: list[dict[str, Any]]) -> None:
    spilled = [describe(entry) for entry in report if entry["spills"]]
    assert not spilled, "\n".join(spilled)


def test_shared_memory_is_within_the_devices(report: list[dict[str, Any]]) -> None:
    excess = [describe(entry) for entry in report if entry["shared"] > MOST_SHARED[entry["arch"]]]
    assert not excess, "\n".join(excess)


def test_products_of_bfloat16_run_on_tensor_cores(report: list[dict[str, Any]]) -> None:
    products = [entry for entry in report if entry["multiplies"] and "bf16" in entry["case"]]
    assert len(products) > 3 * len({entry["arch"] for entry in report})
    without = [describe(entry) for entry in products if not entry["tensor_cores"]]
    assert not without, "\n".join(without)
