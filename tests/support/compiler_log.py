"""What each CUDA kernel needs, as nvcc reported it with -Xptxas -v."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
SHARED_MEMORY = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Kernel:
    """Bytes of stack, spills (stores and loads) and shared memory are per thread and per block."""

    source: str
    arch: str
    name: str
    registers: int
    stack: int
    spills: int
    shared_memory: int


def newest_logs(build: Path) -> list[Path]:
    """Of the folder `build/temp.*` that was built in last: there is one per version of Python."""
    builds = sorted(build.glob("temp.*/build.ninja"), key=lambda path: path.stat().st_mtime)
    return list(builds[-1].parent.glob("*.cu.o.log")) if builds else []


def kernels(logs: Sequence[Path]) -> list[Kernel]:
    """All kernels of the logs `build/temp.*/cuda__NAME.cu.o.log`. Raises ValueError for a log of another form."""
    found = [kernel for log in sorted(logs) for kernel in _kernels_of(log)]
    plain = _demangled([kernel.name for kernel in found])
    return [Kernel(**{**vars(kernel), "name": name}) for kernel, name in zip(found, plain, strict=True)]


def _kernels_of(log: Path) -> Iterator[Kernel]:
    source = log.name.removesuffix(".o.log").replace("__", "/")
    text = log.read_text(encoding="utf-8")
    entries = list(ENTRY.finditer(text))
    ends = [entry.start() for entry in entries[1:]] + [len(text)]
    for entry, end in zip(entries, ends, strict=False):
        part = text[entry.end() : end]
        stack, registers, shared = STACK.search(part), REGISTERS.search(part), SHARED_MEMORY.search(part)
        if stack is None or registers is None:
            raise ValueError(f"{log}: no stack or registers of {entry.group(1)}")
        name, arch = entry.groups()
        yield Kernel(
            source,
            arch,
            name,
            int(registers.group(1)),
            int(stack.group(1)),
            int(stack.group(2)) + int(stack.group(3)),
            int(shared.group(1)) if shared else 0,
        )


def _demangled(names: list[str]) -> list[str]:
    """Readable where there is a c++filt, without the parameters."""
    tool = shutil.which("c++filt")
    if tool is None or not names:
        return names
    done = subprocess.run([tool, "-p", *names], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or len(lines) != len(names):
        return names
    return [line.removeprefix("void ").replace("rearec::cuda::", "") for line in lines]
