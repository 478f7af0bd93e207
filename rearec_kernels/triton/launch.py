"""Launching kernels: on the device of their tensors, in the block sizes that its architecture prefers; small tensors
that launches take."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor


@dataclass(frozen=True)
class Config:
    """How one kernel is compiled: block sizes, warps of a block, stages of the software pipeline.

    Attributes:
        blocks: (name, size) of the kernel's tl.constexpr block sizes.
    """

    blocks: tuple[tuple[str, int], ...]
    warps: int = 4
    stages: int = 2
    constants: dict[str, int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "constants", dict(self.blocks))

    def __getitem__(self, block: str) -> int:
        return self.constants[block]


def config(warps: int, stages: int, **blocks: int) -> Config:
    return Config(tuple(blocks.items()), warps, stages)


@functools.cache
def architecture(device: torch.device) -> int:
    """10 times the compute capability; 0 in the interpreter, and on GPUs of other vendors."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def launch(kernel: Any, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
    """Starts `kernel` on the device of the first argument, a tensor. Nothing is started for an empty grid."""
    if 0 in grid:
        return
    # Fusing is what Triton does by default, and announces to change.
    how = {"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": True}
    options = {**constants, **config.constants, **how}
    with _on(arguments[0]):
        kernel[grid](*arguments, **options)


def _on(x: Tensor) -> AbstractContextManager[Any]:
    if x.device.type != "cuda" or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)


def blocks(count: int, size: int) -> int:
    return -(-count // size)


def block_size(count: int, least: int, most: int) -> int:
    """The power of two that holds `count`, between `least` and `most`."""
    return min(max(triton.next_power_of_2(max(count, 1)), least), most)


def parts(tiles: int, work: int, device: torch.device, most: int = 8) -> int:
    """Into how many parts the work of each tile is split, so that no multiprocessor is idle for long.

    Args:
        tiles: thread blocks without a split, of which a multiprocessor holds one.
        work: steps of one tile: as many parts at most.
    """
    processors = multiprocessors(device)
    candidates = range(1, max(1, min(most, work)) + 1)

    def waves(count: int) -> float:
        # A part more costs a little: its share of the merge.
        return blocks(max(tiles, 1) * count, processors) / count * (1 + 0.05 * count)

    return min(candidates, key=waves)


@functools.lru_cache(maxsize=256)
def on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Float32 numbers of the host, copied once: a copy in every call could not be captured in a graph."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


def no_gradient(device: torch.device) -> Tensor:
    """In place of a gradient that is not needed."""
    return torch.empty(0, dtype=torch.float32, device=device)
