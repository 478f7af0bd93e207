"""Launching on torch's stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rearec_kernels import native
from rearec_kernels.environment import is_on


def launch(launcher: Callable[..., None], device: torch.device, *arguments: Any) -> None:
    """Calls a launcher of rearec_kernels._C.cuda with the arguments and torch's current stream on `device`.

    Raises:
        RuntimeError: the launch failed; under REAREC_DEBUG=1, what was launched failed.
    """
    if device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return launch(launcher, device, *arguments)
    stream = torch._C._cuda_getCurrentRawStream(device.index)  # of torch.cuda.current_stream, at a tenth of the cost
    launcher(*arguments, stream)
    if is_on("REAREC_DEBUG"):
        native.CUDA.synchronize(stream)
