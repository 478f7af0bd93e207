"""The process that a command runs in: how many threads its libraries use, and on which device it computes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

from rearec.errors import UserError
from rearec.facade import device

if TYPE_CHECKING:
    import torch

__all__ = ["COMMAND_LINE", "compute_device", "device_of", "set_threads"]

# What the command line was called with, for a command that starts itself again.
COMMAND_LINE: ContextVar[Sequence[str]] = ContextVar("COMMAND_LINE", default=())


def set_threads(threads: int) -> None:
    """Limit the threads of the libraries that are about to be imported (torch, polars); 0 changes nothing."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)


def device_of(name: str) -> torch.device:
    """The torch device of ``--device``; UserError where it does not exist here."""
    return device.device_of(name, "--device")


def compute_device(name: str) -> torch.device:
    """The torch device of ``--device``, for a command that computes there.

    UserError where it does not exist or where the backend that REAREC_BACKEND asks for cannot run on it.
    """
    from rearec_kernels import available_backends

    chosen = device_of(name)
    wanted, available = os.environ.get("REAREC_BACKEND"), available_backends(chosen)
    if wanted and wanted not in available:
        raise UserError(f"REAREC_BACKEND: got {wanted!r}, expected one of {', '.join(available)} on {chosen}")
    return chosen
