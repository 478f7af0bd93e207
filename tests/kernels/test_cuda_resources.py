"""What each CUDA kernel needs on each architecture, as the compiler reported it when this tree was built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from rearec_kernels import build_info

BUILD = Path(__file__).parents[2] / "build"
ARCHS = build_info()["cuda_archs"]

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(not ARCHS, reason="a build without CUDA kernels"),
    pytest.mark.skipif(not any(BUILD.glob("temp.*/*.cu.o.log")), reason="no compiler logs in this tree's build folder"),
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


class Kernel(NamedTuple):
    arch: str
    name: str
    queries: int  # per tile
    stack: int
    spills: int
    registers: int
    shared_memory: int


def kernels() -> list[Kernel]:
    found = []
    for log in sorted(BUILD.glob("temp.*/*.cu.o.log")):
        for part in log.read_text(encoding="utf-8").split("Compiling entry function ")[1:]:
            mangled, arch = re.match(r"'(\w+)' for 'sm_(\w+)'", part).groups()  # type: ignore[union-attr]
            name = re.search(r"[a-z_]+_kernel", mangled)
            stack, stores, loads = re.search(
                r"(\d+) bytes stack.*?(\d+) bytes spill st.*?(\d+) bytes spill", part
            ).groups()  # type: ignore[union-attr]
            shared_memory = re.search(r"(\d+) bytes smem", part)
            assert name is not None
            found.append(
                Kernel(
                    arch,
                    name.group(),
                    4 if "EELi4EE" in mangled else 1,
                    int(stack),
                    int(stores) + int(loads),
                    int(re.search(r"Used (\d+) registers", part).group(1)),  # type: ignore[union-attr]
                    int(shared_memory.group(1)) if shared_memory else 0,
                )
            )
    return found


@pytest.mark.parametrize("arch", ARCHS)
def test_every_kernel_is_built(arch: str) -> None:
    built = {(k.name, k.queries) for k in kernels() if k.arch == arch}
    assert built == set(MOST_REGISTERS)


@pytest.mark.parametrize("arch", ARCHS)
def test_nothing_spills_and_enough_blocks_fit(arch: str) -> None:
    for kernel in kernels():
        if kernel.arch != arch:
            continue
        assert kernel.stack == kernel.spills == 0, kernel
        assert kernel.registers <= MOST_REGISTERS[kernel.name, kernel.queries], kernel
        assert kernel.shared_memory <= MOST_SHARED_MEMORY, kernel
