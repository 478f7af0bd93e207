"""Whether Triton kernels can run on a device: known without importing Triton.

Attributes:
    INSTALLED: whether there is a Triton to import.
    INTERPRETED: whether kernels run in Triton's interpreter, on CPU tensors too; Triton reads this once as well.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

INSTALLED: bool = importlib.util.find_spec("triton") is not None
INTERPRETED: bool = INSTALLED and os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def obstacle(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on `device`, or None where they can."""
    if device.type == "cpu":
        return None if INTERPRETED else "only in Triton's interpreter: TRITON_INTERPRET=1"
    if device.type != "cuda":
        return "not a GPU"
    return _find_obstacle(device) if torch.compiler.is_compiling() else _known_obstacle(device)


def _find_obstacle(device: torch.device) -> str | None:
    if not INSTALLED:
        return "triton is not installed"
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    device_properties = torch.cuda.get_device_properties(device)  # torch.compile knows this call
    if torch.version.hip is None and device_properties.major < 8:
        found = f"{device_properties.major}.{device_properties.minor}"
        return f"the device has compute capability {found}, these kernels need 8.0"
    return None


_known_obstacle = functools.cache(_find_obstacle)  # torch.compile would trace through a cache, and warn
