"""The compiled module, and whether its CUDA kernels can run on a device.

Attributes:
    C: rearec_kernels._C, or None in an install made with REAREC_NATIVE=0.
    TILES: its kernels by tiles of bfloat16, or None where this machine or build has none.
    MULTIPLIES_BF16: whether they have instructions for products of bfloat16, and so are the fastest of all.
    CUDA: its launchers of CUDA kernels, or None in a build without nvcc.
    CUDA_ARCHS: the architectures that it holds machine code for; PTX of the last one serves newer devices.
    MAX_HEAD_DIM, MAX_ENSEMBLE_STATES: the most that its kernels take (csrc/kernel_limits.h). Without them there is no
        limit: the reference takes any size.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from rearec_kernels import openmp

# A module that is there but does not load is an error: without it, everything would be slow in silence.
C: Any = None
if importlib.util.find_spec("rearec_kernels._C") is not None:
    openmp.load()
    C = importlib.import_module("rearec_kernels._C")
elif Path(__file__).parents[1].joinpath("setup.py").is_file():
    warnings.warn(
        f"rearec_kernels comes from its source tree {Path(__file__).parents[1]}, which is not compiled: only the slow "
        "reference backend is there. Install it, and run Python from another folder.",
        stacklevel=2,
    )

TILES: Any = getattr(C, "tiles", None)
MULTIPLIES_BF16: bool = getattr(TILES, "MULTIPLIES_BF16", False)
CUDA: Any = getattr(C, "cuda", None)
CUDA_ARCHS: tuple[str, ...] = () if CUDA is None else tuple(C.build_info()["cuda_archs"].split(","))
MAX_HEAD_DIM: int = getattr(C, "MAX_HEAD_DIM", sys.maxsize)
MAX_ENSEMBLE_STATES: int = getattr(C, "MAX_ENSEMBLE_STATES", sys.maxsize)


def cuda_obstacle(device: torch.device) -> str | None:
    """Why the CUDA kernels cannot run on `device`, or None where they can."""
    if device.type != "cuda":
        return "not a CUDA device"
    return _find_obstacle(device) if torch.compiler.is_compiling() else _known_obstacle(device)


def _find_obstacle(device: torch.device) -> str | None:
    if CUDA is None:
        return "this build has no CUDA kernels"
    if torch.version.cuda is None:
        return "torch is a build without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    device_properties = torch.cuda.get_device_properties(device)  # torch.compile knows this call
    return arch_obstacle((device_properties.major, device_properties.minor), CUDA_ARCHS)


_known_obstacle = functools.cache(_find_obstacle)  # torch.compile would trace through a cache, and warn


def arch_obstacle(capability: tuple[int, int], archs: tuple[str, ...]) -> str | None:
    """Why kernels for `archs` cannot run on a device of this compute capability, or None where they can.

    Machine code of a.b runs on devices a.c with c >= b, that of "a.ba" on a.b alone, PTX (of the last) on newer ones.
    """
    major, minor = capability
    for arch in archs:
        specific = arch.endswith(("a", "f"))
        built = divmod(int(arch.rstrip("af")), 10)
        if built[0] == major and (built[1] == minor if specific else built[1] <= minor):
            return None
    if capability >= divmod(int(archs[-1].rstrip("af")), 10):
        return None
    return f"the device has compute capability {major}.{minor}, this build kernels for {', '.join(archs)}"
