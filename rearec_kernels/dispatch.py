"""Which backend serves which op for which device and dtype.

A backend is a module of this package with one function per op it serves (the names of `ops/`). It is chosen once, in
the public call, and its name travels with the op, so that a backward pass uses the same one from whatever thread.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

BACKENDS = ("reference", "cpu", "cuda", "triton")
# Fastest first, by device type.
_PREFERENCE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
_CPU_DTYPES = frozenset({torch.float32, torch.bfloat16})

# Absent in an install made with REAREC_NATIVE=0. One that is there but does not load is an error, not a fallback.
_C: Any = None
if importlib.util.find_spec("rearec_kernels._C") is not None:
    _C = importlib.import_module("rearec_kernels._C")
elif Path(__file__).parents[1].joinpath("setup.py").is_file():
    warnings.warn(
        f"rearec_kernels comes from its source tree {Path(__file__).parents[1]}, which is not compiled: only the slow "
        "reference backend is there. Install it, and run Python from another folder.",
        stacklevel=2,
    )

_PROCESS_BACKEND = os.environ.get("REAREC_BACKEND") or None
_local = threading.local()  # not a ContextVar: torch.compile traces this one, with a guard
_warned: set[tuple[str, str, torch.dtype]] = set()


def available_backends(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Names of the backends that can run on `device`, fastest first; "reference" is always the last."""
    kind = torch.device(device).type
    built = {"reference": True, "cpu": _C is not None, "cuda": False, "triton": False}
    return tuple(name for name in _PREFERENCE.get(kind, ("reference",)) if built[name])


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Inside the block, every public call uses the backend `name`, or raises when it cannot.

    The environment variable REAREC_BACKEND does the same for a whole process.
    """
    _check_name(name, "use_backend")
    before = getattr(_local, "backend", None)
    _local.backend = name
    try:
        yield
    finally:
        _local.backend = before


def resolve(op: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend for one public call.

    Raises:
        ValueError: the backend asked for is unknown, not there for this device, or does not serve this dtype.
    """
    available = available_backends(device)
    name = getattr(_local, "backend", None) or _PROCESS_BACKEND
    if name is not None:
        _check_name(name, "REAREC_BACKEND")
        if name not in available:
            raise ValueError(f"{op}: backend {name!r} cannot run on {device}; available there: {', '.join(available)}")
        if not _serves(name, dtype):
            raise ValueError(f"{op}: backend {name!r} does not serve {dtype}")
        return name
    for name in available:
        if _serves(name, dtype):
            if name != available[0]:
                _warn_once(op, available[0], name, dtype)
            return name
    raise AssertionError("the reference backend serves every dtype")


def implementation(backend: str, op: str) -> Callable[..., Any]:
    """The function of `backend` that computes `op`."""
    return getattr(importlib.import_module(f"rearec_kernels.{backend}"), op)


def _serves(backend: str, dtype: torch.dtype) -> bool:
    return backend != "cpu" or dtype in _CPU_DTYPES


def _check_name(name: str, where: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"{where}: unknown backend {name!r}; expected one of {', '.join(BACKENDS)}")


def _warn_once(op: str, fast: str, slow: str, dtype: torch.dtype) -> None:
    if (op, slow, dtype) not in _warned and not torch.compiler.is_compiling():
        _warned.add((op, slow, dtype))
        warnings.warn(f"{op}: backend {fast!r} does not serve {dtype}; using the slower {slow!r}", stacklevel=4)


def build_info() -> dict[str, Any]:
    """What this build can do: native module, instruction sets, compiler, OpenMP, CUDA architectures, usable devices."""
    info: dict[str, Any] = {"native": _C is not None, "compiler": None, "isas": [], "isa": None, "openmp": False}
    info["cuda_archs"] = []
    if _C is not None:
        native = _C.build_info()
        native["cuda_archs"] = [arch for arch in native["cuda_archs"].split(",") if arch]
        info.update(native)
    if not info["cuda_archs"]:
        info["cuda"] = "this build has no CUDA kernels"
    elif not torch.cuda.is_available():
        info["cuda"] = "torch sees no CUDA device"
    else:
        info["cuda"] = "usable"
    info["backends"] = {"cpu": available_backends("cpu"), "cuda": available_backends("cuda")}
    return info
