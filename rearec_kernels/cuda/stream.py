"""The stream that kernels are launched on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rearec_kernels import native


@contextmanager
def launching(device: torch.device) -> Iterator[int]:
    """The address of torch's current stream on `device`, which is the current device inside the block.

    Under REAREC_DEBUG=1, what was launched is waited for at the end: RuntimeError if it failed.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device).cuda_stream
        yield stream
        if os.environ.get("REAREC_DEBUG") == "1":
            native.CUDA.synchronize(stream)
