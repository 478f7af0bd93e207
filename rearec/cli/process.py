"""The process that a command runs in: how many threads its libraries use, and on which device it computes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from rearec.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["compute_device", "device_of", "set_threads"]


def set_threads(threads: int) -> None:
    """Limit the threads of the libraries that are about to be imported (torch, polars); 0 changes nothing."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)


def device_of(name: str) -> torch.device:
    """The torch device of ``--device``; UserError where it does not exist here."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device: got {name!r}, expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device: got {name!r}, expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device: {name} is not usable, {torch.cuda.device_count()} CUDA devices found")
    return device


def compute_device(name: str) -> torch.device:
    """The torch device of ``--device``, for a command that computes there.

    UserError where it does not exist or where the backend that REAREC_BACKEND asks for cannot run on it.
    """
    from rearec_kernels import available_backends

    device = device_of(name)
    wanted, available = os.environ.get("REAREC_BACKEND"), available_backends(device)
    if wanted and wanted not in available:
        raise UserError(f"REAREC_BACKEND: got {wanted!r}, expected one of {', '.join(available)} on {device}")
    return device
