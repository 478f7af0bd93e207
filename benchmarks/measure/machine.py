"""Which machine, which versions and which state of the tree a measurement is of."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

# Whose versions are named where they are installed: what is measured, and the contenders.
PACKAGES = ("triton", "numpy", "flash-attn", "liger-kernel", "cut-cross-entropy")


@cache
def commit() -> str | None:
    """BENCH_COMMIT, or that of the tree these benchmarks are part of, "+" if files differ from it; None without git."""
    if named := os.environ.get("BENCH_COMMIT"):
        return named
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def describe(device: torch.device, threads: int) -> dict[str, Any]:
    """The host, and the GPU where one is measured."""
    host = {"processor": processor_name(), "threads": threads, "system": platform.platform()}
    return host | {"gpu": _gpu(device)} if device.type == "cuda" else host


def versions(device: torch.device) -> dict[str, str]:
    """Of Python, torch and, on a GPU, of CUDA and what else takes part."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if device.type != "cuda":
        return found
    found["cuda"] = str(torch.version.cuda)
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def arch_of(capability: tuple[int, int]) -> str:
    """What REAREC_CUDA_ARCHS calls a GPU of this compute capability."""
    major, minor = capability
    return f"{major}{minor}" + ("a" if major == 9 else "")


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "arch": arch_of((properties.major, properties.minor)),
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
    }
