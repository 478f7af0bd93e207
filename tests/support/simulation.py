"""Compiling CUDA sources against the simulator with a C++ compiler, and running them: for every test of CUDA code here.

The simulator stands in for <cuda_runtime.h>, <cuda_bf16.h> and <cuda_fp16.h>; see simulator/cuda_runtime.h.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import PATIENCE

SIMULATOR = Path(__file__).parents[1] / "kernels" / "cuda_on_cpu" / "simulator"
SANITIZER_FLAGS = {
    "none": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1"],
    "thread": ["-fsanitize=thread", "-g1"],
}
# No leak check: it needs to trace its own process, which not every machine allows.
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:atexit_sleep_ms=0",
}


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Inside the block is one process at a time; the lock of one that dies is gone with it."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Simulation:
    """What is compiled and run in one session, by all its workers: each file once, in a folder that they share."""

    def __init__(self, compiler: str, shared: Path, new_folder: Callable[[str], Path]) -> None:
        self._compiler = compiler
        self._shared = shared
        self._new_folder = new_folder
        self._started_by: dict[str, list[str]] = {}
        self._sanitizer_of: dict[Path, str] = {}

    def share(self, name: str, make: Callable[[Path], None]) -> Path:
        """A folder of this name, which the first who asks fills by `make`."""
        self._shared.mkdir(parents=True, exist_ok=True)
        out = self._shared / name
        with one_at_a_time(self._shared / f"{name}.lock"):
            if not out.exists():
                make(self._shared / f"{name}.begun")
                (self._shared / f"{name}.begun").rename(out)
        return out

    def compile(
        self,
        sources: Sequence[Path],
        *,
        sanitizer: str = "none",
        flags: Sequence[str] = (),
        shared: bool = False,
        optimisation: str = "-O2",
    ) -> Path:
        """A program, or a shared library. Skips the test if the sanitizer is not installed.

        `sources`: .cu and .cpp files. `sanitizer`: "none", "address" (with undefined behaviour) or "thread". The same
        arguments give the file compiled before: sources stay as they are while tests run.
        """
        if sanitizer not in self._started_by:
            self._started_by[sanitizer] = self._how_to_start(sanitizer)
        key = repr((*map(str, sources), sanitizer, *flags, shared, optimisation))
        folder = self._shared / f"{sources[0].stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        out = folder / (sources[0].stem + (".so" if shared else ""))
        self._sanitizer_of[out] = sanitizer
        with one_at_a_time(folder / "lock"):
            if out.exists():
                return out
            # Libraries that define the same names live side by side in one process: no symbol may be unique in it.
            kind = ["-fPIC", "-fno-gnu-unique"] if shared else ["-pthread"]
            objects = [folder / f"{source.name}.o" for source in sources]
            steps = [
                ([optimisation, *kind, *flags, "-c", "-x", "c++", str(source)], sanitizer, file)
                for source, file in zip(sources, objects, strict=True)
            ]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                finished = [*pool.map(lambda step: self._call_compiler(*step), steps)]
            link = [*kind, *(["-shared"] if shared else []), *map(str, objects)]
            for done in (*finished, self._call_compiler(link, sanitizer, folder / "linked")):
                assert done.returncode == 0, done.stderr
            (folder / "linked").rename(out)
        return out

    def run(
        self, program: Path, seed: int = 0, timeout: float = PATIENCE, arguments: Sequence[str] = (), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """The completed process. `seed`: 0 runs blocks, warps and lanes in order, others in other orders."""
        return subprocess.run(
            [*self._started_by[self._sanitizer_of[program]], str(program), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **SANITIZER_OPTIONS, "CUDA_ON_CPU_SEED": str(seed), **variables},
            check=False,
        )

    def _call_compiler(self, arguments: Sequence[str], sanitizer: str, out: Path) -> subprocess.CompletedProcess[str]:
        warnings = ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]
        command = [self._compiler, "-std=c++17", *warnings, *SANITIZER_FLAGS[sanitizer], f"-I{SIMULATOR}", *arguments]
        return subprocess.run([*command, "-o", str(out)], capture_output=True, text=True, timeout=PATIENCE, check=False)

    def _how_to_start(self, sanitizer: str) -> list[str]:
        """The command that programs of this build are given to; empty if they start by themselves."""
        if sanitizer == "none":
            return []
        folder = self._new_folder(sanitizer)
        source = folder / "nothing.cpp"
        source.write_text("int main() {}\n", encoding="utf-8")
        built = self._call_compiler([str(source)], sanitizer, folder / "nothing")
        if built.returncode != 0:
            pytest.skip(f"the {sanitizer} sanitizer is not installed: {built.stderr.strip().splitlines()[-1]}")
        # Older thread sanitizers cannot start where addresses are too random.
        for start in ([], ["setarch", "--addr-no-randomize"]):
            if start and shutil.which(start[0]) is None:
                continue
            tried = subprocess.run([*start, str(folder / "nothing")], capture_output=True, text=True, check=False)
            if tried.returncode == 0:
                return start
        pytest.skip(f"programs with the {sanitizer} sanitizer do not start here: {tried.stderr.strip()}")
