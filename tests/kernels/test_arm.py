"""The CPU kernels on 64-bit Arm: compiled here, run by an emulator, compared with float64 (tests/kernels/arm)."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = [
    *(path for path in sorted(CSRC.glob("cpu/*.cpp")) if path.name != "rollout.cpp"),
    *sorted(CSRC.glob("cpu/runtime/*.cpp")),
    *sorted(Path(__file__).with_name("arm").glob("*.cpp")),
]
FLAGS = [
    *("-O1", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-Wall", "-Werror", f"-I{CSRC}"),
    *("-DREAREC_ISA_COUNT=1", "-DREAREC_ISA=baseline"),
]


def build(compiler: str, folder: Path) -> Path:
    """The program that checks all kernels, linked with everything: an emulator finds no libraries."""

    def run(*arguments: str) -> None:
        done = subprocess.run([compiler, *FLAGS, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    objects = [folder / f"{path.parent.name}-{path.stem}.o" for path in SOURCES]
    with ThreadPoolExecutor(2) as pool:
        [*pool.map(lambda pair: run("-c", str(pair[0]), "-o", str(pair[1])), zip(SOURCES, objects, strict=True))]
    run("-static", *map(str, objects), "-o", str(folder / "check"))
    return folder / "check"


# What csrc/bindings/module.cpp asks when it is loaded.
CHOICE = """
#include <cstdio>
#include "cpu/isa.h"
int main() try {
  const rearec::Isa chosen = rearec::chosen_isa();
  std::printf("%s %s", rearec::isa_name(chosen), rearec::tile_engine_name(chosen));
} catch (const std::exception& e) { std::printf("%s", e.what()); }
"""


@pytest.mark.skipif(platform.machine() == "aarch64", reason="the processor at hand is what it is")
def test_the_engine_is_that_of_the_processor(tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("NOT TESTED ON ARM: install g++-aarch64-linux-gnu and qemu-user (Debian, Ubuntu)")
    program = tmp_path / "choice"
    command = [compiler, *FLAGS, "-DREAREC_NEON_BF16", "-static", "-x", "c++", "-", "-o", str(program)]
    subprocess.run(command, input=CHOICE, text=True, check=True)

    def choice(processor: str, wanted: str = "") -> str:
        command = [emulator, "-cpu", processor, str(program)]
        return subprocess.run(command, capture_output=True, text=True, env={"REAREC_CPU_ISA": wanted}).stdout

    assert choice("max") == choice("max", "neon_bf16") == "neon_bf16 neon_bf16"
    assert choice("max", "baseline") == choice("cortex-a72") == "baseline portable"
    assert choice("cortex-a72", "neon_bf16") == "REAREC_CPU_ISA=neon_bf16: this build on this machine can use baseline"


@pytest.mark.skipif(sys.platform != "linux", reason="links and emulates as Linux does")
def test_kernels_agree_with_float64(tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), [shutil.which("qemu-aarch64")]
    if platform.machine() == "aarch64":
        compiler, emulator = shutil.which("g++"), []
    if compiler is None or None in emulator:
        pytest.skip("NOT TESTED ON ARM: install g++-aarch64-linux-gnu and qemu-user (Debian, Ubuntu)")
    command = [*map(str, emulator), str(build(compiler, tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, env={"OMP_NUM_THREADS": "2"})
    assert done.stdout.strip() == "every kernel agrees with float64", done.stdout + done.stderr
