"""Which backend serves which op for which device and dtype.

A backend is a package of this one, with the functions of the ops that it serves. It is chosen once, in
the public call, and its name travels with the op, so that a backward pass uses the same one from whatever thread.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rearec_kernels import native, triton_support

BACKENDS = ("reference", "cpu", "cuda", "triton")
# Fastest first, by device type.
_PREFERENCE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
_DTYPES = {
    "cpu": frozenset({torch.float32, torch.bfloat16}),
    "cuda": frozenset({torch.float32, torch.bfloat16, torch.float16}),
    "triton": frozenset({torch.float32, torch.bfloat16, torch.float16}),
}
# Where a backend serves some of the public calls only.
_CALLS = {
    "cuda": frozenset({"cached_reason_attention"}),
    "triton": frozenset(
        {
            "annealed_cross_entropy",
            "cached_reason_attention",
            "catalog_rank",
            "catalog_topk",
            "ensemble_reasoning_loss",
            "reasoning_info_nce",
        }
    ),
}
# Where a backend serves a call in fewer dtypes than it does others.
_CALL_DTYPES = {("cpu", "reasoning_rollout"): frozenset({torch.float32})}

# Calls and precisions in which a backend is slower than "reference", so that it has to be asked for: measured on an
# H100, where Triton's products of float32 without tensor cores are far from what cuBLAS makes of them.
_SLOW = {"triton": frozenset({("annealed_cross_entropy", "fp32"), ("ensemble_reasoning_loss", "fp32")})}

# Calls that torch itself serves well where none of these backends does: then "reference", without refusal or warning.
_TORCH_ELSEWHERE = {"dropout_add_layer_norm": ("cpu",)}

_PROCESS_BACKEND = os.environ.get("REAREC_BACKEND") or None
_local = threading.local()  # not a ContextVar: torch.compile traces this one, with a guard
_warned: set[tuple[str, str, str]] = set()


def available_backends(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Names of the backends that can run on `device`, fastest first; "reference" is the last of those that are chosen.

    Under TRITON_INTERPRET=1, "triton" follows for a CPU: its kernels in Triton's interpreter, for who asks for them.
    """
    device = torch.device(device)
    names = tuple(name for name in _PREFERENCE.get(device.type, ("reference",)) if _obstacle(name, device) is None)
    return (*names, "triton") if device.type == "cpu" and triton_support.INTERPRETED else names


def _obstacle(backend: str, device: torch.device) -> str | None:
    """Why `backend` cannot run on `device`, or None where it can."""
    if backend == "cuda":
        return native.cuda_obstacle(device)
    if backend == "triton":
        return triton_support.obstacle(device)
    if backend == "cpu" and native.C is None:
        return "this install has no native module"
    return None if backend in _PREFERENCE.get(device.type, ("reference",)) else f"not a {backend} device"


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


def resolve_backend(
    op: str,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int = 0,
    states: int = 1,
    k: int = 1,
    precision: str | None = None,
) -> str:
    """The name of the backend that a public call uses, chosen as `use_backend` and REAREC_BACKEND say.

    Args:
        op: the name of the public call.
        device, dtype: of its tensors.
        head_dim: the head width, for attention.
        states: the states per row, for the ensemble loss.
        k: for the top-k.
        precision: for losses; None for none in particular.

    Raises:
        ValueError: the backend asked for is unknown, not there for this device, or does not serve this call.
    """
    available = available_backends(device)
    name = getattr(_local, "backend", None) or _PROCESS_BACKEND
    if name is not None:
        _check_name(name, "REAREC_BACKEND")
        if name not in available:
            raise ValueError(
                f"{op}: backend {name!r} cannot run on {device} ({_obstacle(name, device)}); available there: "
                f"{', '.join(available)}"
            )
    if op in _TORCH_ELSEWHERE:
        wanted = available[0] if name is None else name
        served = wanted in _TORCH_ELSEWHERE[op] and _refusal(wanted, op, dtype, head_dim, states, k) is None
        return wanted if served else "reference"
    if name is not None:
        refusal = _refusal(name, op, dtype, head_dim, states, k)
        if refusal:
            raise ValueError(f"{op}: backend {name!r} does not serve {refusal}")
        return name
    candidates = [
        name for name in available if op in _CALLS.get(name, (op,)) and (op, precision) not in _SLOW.get(name, ())
    ]
    for name in candidates:
        if _refusal(name, op, dtype, head_dim, states, k) is None:
            if name != candidates[0]:
                refusal = _refusal(candidates[0], op, dtype, head_dim, states, k)
                _warn_once(op, candidates[0], name, refusal or "")
            return name
    raise AssertionError("the reference backend serves everything")


def _refusal(backend: str, op: str, dtype: torch.dtype, head_dim: int, states: int, k: int) -> str | None:
    """What keeps a backend from serving a call, if anything does."""
    if op not in _CALLS.get(backend, (op,)):
        return "this operation"
    served = _CALL_DTYPES.get((backend, op)) or _DTYPES.get(backend)
    if served is not None and dtype not in served:
        return str(dtype)
    if backend == "cuda" and head_dim > native.CUDA_MAX_HEAD_DIM:
        return f"head width {head_dim}, at most {native.CUDA_MAX_HEAD_DIM}"
    if backend == "triton" and states > triton_support.MOST_ENSEMBLE_STATES:
        return f"{states} states per row, at most {triton_support.MOST_ENSEMBLE_STATES}"
    if backend == "triton" and k > triton_support.MOST_TOP_K:
        return f"k = {k}, at most {triton_support.MOST_TOP_K}"
    return None


def _check_name(name: str, where: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"{where}: unknown backend {name!r}; expected one of {', '.join(BACKENDS)}")


def _warn_once(op: str, fast: str, slow: str, refusal: str) -> None:
    if (op, slow, refusal) not in _warned and not torch.compiler.is_compiling():
        _warned.add((op, slow, refusal))
        warnings.warn(f"{op}: backend {fast!r} does not serve {refusal}; using the slower {slow!r}", stacklevel=4)


def build_info() -> dict[str, Any]:
    """What this build can do: native module, instruction sets, compiler, OpenMP, CUDA architectures, usable devices.

    `cuda` and `triton` say whether the kernels of these backends can run on a GPU, and why not where they cannot.
    """
    info: dict[str, Any] = {"native": native.C is not None, "compiler": None, "isas": [], "isa": None, "openmp": False}
    if native.C is not None:
        info.update(native.C.build_info())
    info["cuda_archs"] = list(native.CUDA_ARCHS)
    info["cuda"] = native.cuda_obstacle(torch.device("cuda")) or "usable"
    info["triton"] = triton_support.obstacle(torch.device("cuda")) or "usable"
    info["backends"] = {"cpu": available_backends("cpu"), "cuda": available_backends("cuda")}
    return info
