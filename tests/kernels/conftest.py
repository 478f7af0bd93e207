"""What the kernel tests share: the backends of attention, the accuracy rule and the memory gauge."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch
from attention_problem import SHAPES
from backends import Backend, attention_backends, device_of, load_simulated_launchers, simulated_cuda
from simulation import Simulation
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from rearec_kernels import available_backends, native, triton_support

if triton_support.INTERPRETED:
    import interpreter

    interpreter.prepare()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the largest problems of attention in Triton's interpreter, where each query of each head and row takes
    tens of milliseconds: they differ from the others in size alone."""
    for item in items:
        if triton_support.INTERPRETED and _is_large(item):
            item.add_marker(pytest.mark.skip(reason="too large for Triton's interpreter: needs a GPU"))


def _is_large(item: Any) -> bool:
    """Whether a test runs the kernels of attention for hundreds of rows, heads and queries."""
    callspec = getattr(item, "callspec", None)
    if callspec is None or callspec.params.get("backend") != "triton":
        return False
    if item.originalname in ("test_bitwise_equal_between_runs_and_thread_counts", "test_rate_and_scale"):
        return True
    shape = callspec.params.get("shape", ())
    return len(shape) == len(SHAPES[0]) and shape[2] * shape[3] * shape[6] * shape[7] > 100


@pytest.fixture
def by_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and the prepared top-k by tiles also where something else is faster."""
    if native.TILES is None:
        pytest.skip("no kernels by tiles of bfloat16 on this machine, or in this build")
    monkeypatch.setattr(native, "MULTIPLIES_BF16", True)


@pytest.fixture(scope="session")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """Compiles CUDA sources with a C++ compiler and runs them on the CPU. Skips where there is no such compiler."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    base = tmp_path_factory.getbasetemp()
    # With pytest -n every worker has a folder of its own within that of the session.
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Simulation(compiler, session / "simulation", tmp_path_factory.mktemp)


@pytest.fixture(scope="session")
def simulated_launchers(simulation: Simulation) -> ModuleType:
    """The launchers of csrc/cuda for CPU tensors."""
    return load_simulated_launchers(simulation)


@pytest.fixture(params=attention_backends())
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every backend of attention, and where its tensors are to be: "cuda" in the simulator where there is no GPU."""
    chosen = Backend(request.param, device_of(request.param))
    if not chosen.simulated:
        yield chosen
        return
    with simulated_cuda(request.getfixturevalue("simulated_launchers")):
        yield chosen


@pytest.fixture
def tensors_on_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """New tensors lie where the test's parameter `backend` runs, if it has one."""
    callspec = getattr(request.node, "callspec", None)
    with device_of("" if callspec is None else callspec.params.get("backend", "")):
        yield


def _error(got: Tensor, exact: Tensor) -> float:
    assert got.shape == exact.shape
    assert got.isfinite().all()
    return float((got.double() - exact).abs().max()) if exact.numel() else 0.0


@pytest.fixture(scope="session")
def assert_as_accurate() -> Callable[..., None]:
    """A kernel may err twice as much as plain PyTorch in the same dtype, and by one rounding of the result besides:
    plain PyTorch can be spared that by chance, or by another order of the same sums.

    `magnitude`: of what is rounded, when the result is a difference of larger terms; default the largest of `exact`.
    """

    def check(got: Tensor, eager: Tensor, exact: Tensor, magnitude: float | None = None) -> None:
        if magnitude is None:
            magnitude = float(exact.abs().max()) if exact.numel() else 0.0
        allowed = 2 * _error(eager, exact) + torch.finfo(got.dtype).eps * magnitude
        assert _error(got, exact) <= allowed, f"error {_error(got, exact):.2e}, allowed {allowed:.2e}"

    return check


def _without_recycling() -> AbstractContextManager[None]:
    """Recycled memory would not be seen by the profiler."""
    if "cpu" not in available_backends("cpu"):
        return nullcontext()
    from rearec_kernels.cpu.memory import without_recycling

    return without_recycling()


@pytest.fixture(scope="session")
def largest_allocation() -> Callable[[Callable[[], object]], int]:
    """The bytes of the largest single tensor that a call allocates."""

    def measure(call: Callable[[], object]) -> int:
        with _without_recycling(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            call()
        return max(max(e.self_cpu_memory_usage, e.self_device_memory_usage) for e in recorded.events())

    return measure
