"""Which backend computes a call: chosen by the records of `backends`.

It is chosen once, in the public call, and its name travels with the op, so that a backward pass uses the same one from
whatever thread.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from rearec_kernels.backends import SIZES, available_backends, chosen_for, find, precisions_of
from rearec_kernels.environment import BACKEND
from rearec_kernels.precision import PRECISIONS

_local = threading.local()  # not a ContextVar: torch.compile traces this one, with a guard
_warned: set[tuple[str, str, str]] = set()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Inside the block, every public call of this thread uses the backend `name`, or raises when it cannot.

    The environment variable REAREC_BACKEND does the same for a whole process.

    Args:
        name: "reference", "cpu", "cuda" or "triton".

    Raises:
        ValueError: there is no backend of this name; in a call, the backend cannot run there or does not serve it.

    Examples:
        >>> with use_backend("reference"):
        ...     resolve_backend("catalog_topk", torch.device("cpu"), torch.float32)
        'reference'
    """
    find(name, "use_backend")
    before = getattr(_local, "backend", None)
    _local.backend = name
    try:
        yield
    finally:
        _local.backend = before


def resolve_backend(
    op: str, device: torch.device, dtype: torch.dtype, *, precision: str | None = None, **sizes: int
) -> str:
    """The name of the backend that a public call uses: the one asked for, else the fastest that serves it.

    Args:
        op: the name of the public call.
        device, dtype: of its tensors.
        precision: its argument `precision`, where it has one: some are faster on "reference".
        sizes: what a limit may be about: `head_dim`, the head width, for attention; `states`, those of a row, for the
            losses; `k` for the top-k. Those that are left out break no limit.

    Raises:
        ValueError: the backend asked for is unknown, not there for this device, or does not serve this call; there is
            no such public call.
        TypeError: a size has another name.

    Examples:
        >>> resolve_backend("cached_reason_attention", torch.device("meta"), torch.float32, head_dim=64)
        'reference'
    """
    for size in sizes:
        if size not in SIZES:
            raise TypeError(f"resolve_backend: unknown size {size!r}; expected one of {', '.join(SIZES)}")
    name = getattr(_local, "backend", None) or BACKEND
    if name is not None:
        return _asked_for(name, op, device, dtype, sizes)
    fastest: tuple[str, str] | None = None
    for backend in chosen_for(device):
        serves = backend.serves.get(op)
        if serves is None or precision in serves.slow_precisions or backend.obstacle(device) is not None:
            continue
        refusal = serves.refusal(dtype, sizes)
        if refusal is None:
            if fastest is not None and not serves.stands_in:
                _warn_once(op, *fastest, backend.name)
            return backend.name
        fastest = fastest or (backend.name, refusal)
    raise ValueError(f"resolve_backend: no public call is named {op!r}")


def _asked_for(name: str, op: str, device: torch.device, dtype: torch.dtype, sizes: Mapping[str, int]) -> str:
    """The backend `name`, or the one that stands in for it."""
    backend = find(name, "REAREC_BACKEND")
    obstacle = backend.obstacle(device)
    if obstacle is not None:
        available = ", ".join(available_backends(device))
        raise ValueError(f"{op}: backend {name!r} cannot run on {device} ({obstacle}); available there: {available}")
    serves = backend.serves.get(op)
    refusal = "this operation" if serves is None else serves.refusal(dtype, sizes)
    if refusal is None:
        return name
    for other in chosen_for(device):
        if op in other.serves and other.serves[op].stands_in:
            return other.name
    raise ValueError(f"{op}: backend {name!r} does not serve {refusal}")


def check_precision(op: str, precision: str, backend: str) -> None:
    """Raises ValueError unless `backend` computes the public call `op` in `precision`."""
    if precision in find(backend).serves[op].precisions:
        return
    check_known_precision(op, precision, op)
    raise ValueError(f"{op}: precision {precision!r} needs {PRECISIONS[precision]}; use 'fp32' or 'bf16'")


def check_known_precision(op: str, precision: str, call: str) -> None:
    """Raises ValueError unless some backend computes the public call `call` in `precision`, for an error of `op`."""
    known = precisions_of(call)
    if precision not in known:
        raise ValueError(f"{op}: precision must be one of {', '.join(known)}, got {precision!r}")


def _warn_once(op: str, fast: str, refusal: str, slow: str) -> None:
    if (op, slow, refusal) not in _warned and not torch.compiler.is_compiling():
        _warned.add((op, slow, refusal))
        message = f"{op}: backend {fast!r} does not serve {refusal}; using the slower {slow!r}"
        warnings.warn(message, stacklevel=_frames_of_package() + 1)


def _frames_of_package() -> int:
    """How many calls there are from the caller's code to the function that asks."""
    frame, count = inspect.currentframe(), -1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("rearec_kernels."):
        frame, count = frame.f_back, count + 1
    return count
