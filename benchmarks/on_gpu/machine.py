"""The machine that is measured, as json on stdout: `python -m on_gpu.machine [--dry-run]`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from compare import processor_name

PACKAGES = (
    "torch", "triton", "numpy", "pybind11", "setuptools", "pytest", "nvidia-cuda-runtime", "flash-attn", "liger-kernel",
    "cut-cross-entropy",
)  # fmt: skip


def describe(dry_run: bool) -> dict[str, Any]:
    """The GPU (in a dry run: none), the host and versions. Exits with a message when there is no GPU."""
    if dry_run:
        device: dict[str, Any] = {"name": "dry run", "arch": "90a"}
    elif not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device; --dry-run does without")
    else:
        device = _device()
    return {
        "device": device,
        "host": {"processor": processor_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda, "nvcc": _nvcc()}
        | {name: _version(name) for name in PACKAGES},
    }


def _device() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    capability = (properties.major, properties.minor)
    return {
        "name": properties.name,
        "capability": capability,
        "arch": arch_of(capability),
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
        "driver": _first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
    }


def arch_of(capability: tuple[int, int]) -> str:
    """What REAREC_CUDA_ARCHS calls it."""
    major, minor = capability
    return f"{major}{minor}" + ("a" if major == 9 else "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _nvcc() -> str | None:
    return _first_line(["nvcc", "--version"], containing="release")


def _first_line(command: list[str], containing: str = "") -> str | None:
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next((line.strip() for line in output.splitlines() if containing in line), None)


if __name__ == "__main__":
    print(json.dumps(describe("--dry-run" in sys.argv[1:])))
