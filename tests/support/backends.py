"""The backends that attention is tested on, each with the device its tensors are on."""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pybind11
import pytest
import torch
from simulation import Simulation

from rearec_kernels import available_backends, native, triton_support
from rearec_kernels import backends as records
from rearec_kernels.cuda import stream

CSRC = Path(__file__).parents[2] / "csrc"
MODULE = Path(__file__).parents[1] / "kernels" / "cuda_on_cpu" / "module.cpp"


@dataclass(frozen=True)
class Backend:
    name: str
    device: torch.device

    @property
    def simulated(self) -> bool:
        """Whether CUDA kernels run in the host simulator, on CPU tensors."""
        return self.name == "cuda" and self.device.type == "cpu"


def catalog_backends() -> list[Any]:
    """Names for pytest.mark.parametrize, of losses and retrieval. "triton" is the device where there is one, else
    Triton's interpreter; without Triton it is not there."""
    names: list[Any] = [name for name in available_backends("cpu") if name != "triton"]
    if torch.cuda.is_available() and "triton" in available_backends("cuda"):
        return [*names, pytest.param("triton", marks=pytest.mark.gpu)]
    if triton_support.INTERPRETED:
        return [*names, pytest.param("triton", marks=pytest.mark.triton_interpreter)]
    return names


def attention_backends() -> list[Any]:
    """The same of attention, with "cuda": the device where there is one, else the simulator."""
    marks = pytest.mark.gpu if torch.cuda.is_available() else pytest.mark.cuda_on_cpu
    return [*catalog_backends(), pytest.param("cuda", marks=marks)]


def device_of(backend: str) -> torch.device:
    """Where the tensors of a test of this backend are to be."""
    return torch.device("cuda" if backend in ("cuda", "triton") and torch.cuda.is_available() else "cpu")


@contextmanager
def own_registry() -> Iterator[None]:
    """What is registered inside the block, in place of another or beside it, is gone after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_registered", {**records._registered})
        yield


@contextmanager
def simulated_cuda(launchers: ModuleType) -> Iterator[None]:
    """Inside the block, the backend "cuda" takes CPU tensors and calls `launchers`, compiled for the simulator."""
    cuda = records.find("cuda")
    attention = replace(cuda.serves["cached_reason_attention"], limits={"head_dim": launchers.MAX_HEAD_DIM})

    def obstacle(device: torch.device) -> str | None:
        return None if device.type == "cpu" else "simulated on the CPU"

    with own_registry(), pytest.MonkeyPatch.context() as patch:
        records.register(replace(cuda, obstacle=obstacle, serves={"cached_reason_attention": attention}))
        patch.setattr(native, "CUDA", launchers)
        patch.setattr(stream, "launch", _launch_simulated)
        yield


def load_simulated_launchers(simulation: Simulation) -> ModuleType:
    """The launchers and kernels of csrc/cuda, compiled for the simulator, as a Python module."""
    sources = [MODULE, *sorted(CSRC.glob("cuda/*.cu"))]
    includes = [f"-I{path}" for path in (CSRC, pybind11.get_include(), sysconfig.get_path("include"))]
    # -O2 takes nearly twice as long to compile, and what runs are fibers that switch
    library = simulation.compile(sources, flags=includes, shared=True, optimisation="-O1")
    spec = importlib.util.spec_from_file_location("cuda_on_cpu", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _launch_simulated(launcher: Callable[..., None], device: torch.device, *arguments: Any) -> None:
    launcher(*arguments, 0)
