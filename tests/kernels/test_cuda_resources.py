"""What each CUDA kernel needs on each architecture, as the compiler reported it when this tree was built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from compiler_log import Kernel, kernels, newest_logs

from rearec_kernels import build_info

BUILD = Path(__file__).parents[2] / "build"
ARCHS = build_info()["cuda_archs"]

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(not ARCHS, reason="a build without CUDA kernels"),
    pytest.mark.skipif(not newest_logs(BUILD), reason="no compiler logs in this tree's build folder"),
]

# Registers of a multiprocessor over the threads that are to run on it at a time.
MOST_REGISTERS = {
    ("attention_forward_kernel", 1): 65536 // (5 * 128),
    ("attention_forward_kernel", 4): 255,
    ("attention_backward_kernel", 1): 65536 // (6 * 128),
    ("attention_backward_kernel", 4): 255,
    ("token_gradient_kernel", 1): 65536 // (5 * 128),
    ("attention_prefix_gradient_kernel", 1): 65536 // (4 * 128),
}
MOST_SHARED_MEMORY = 20 << 10  # leaves room for 11 blocks


def kernels_of(arch: str) -> list[Kernel]:
    return [kernel for kernel in kernels(newest_logs(BUILD)) if kernel.arch == arch]


def kind_of(kernel: Kernel) -> tuple[str, int]:
    """Its function and how many queries share a tile, from a mangled or a readable name."""
    name = re.search(r"[a-z_]+_kernel", kernel.name)
    assert name is not None
    return name.group(), 4 if re.search(r"EELi4EE|>, 4>", kernel.name) else 1


@pytest.mark.parametrize("arch", ARCHS)
def test_every_kernel_is_built(arch: str) -> None:
    assert {kind_of(kernel) for kernel in kernels_of(arch)} == set(MOST_REGISTERS)


@pytest.mark.parametrize("arch", ARCHS)
def test_nothing_spills_and_enough_blocks_fit(arch: str) -> None:
    for kernel in kernels_of(arch):
        assert kernel.stack == kernel.spills == 0, kernel
        assert kernel.registers <= MOST_REGISTERS[kind_of(kernel)], kernel
        assert kernel.shared_memory <= MOST_SHARED_MEMORY, kernel
