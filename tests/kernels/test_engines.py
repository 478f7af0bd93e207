"""The engines of csrc/cpu/tiles against sums in double, each in a program of its own: the portable one as it is, the
others in an emulation; with planted faults, every one of which has to be seen."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from patience import PATIENCE

HERE = Path(__file__).parent / "engines"
CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = (
    "-O1",
    "-std=c++17",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-DREAREC_ISA_COUNT=1",
    "-DREAREC_ISA=baseline",
)
OPENMP = ("-fopenmp",)
X86 = platform.machine().lower() in ("x86_64", "amd64")
# Changes of the sources, file by file: what stands there, and what is to.
Changes = Mapping[str, Sequence[tuple[str, str]]]
# The tile registers are emulated, not set up.
WITHOUT_CONFIGURATION = {
    "cpu/tiles/engines/amx.h": [('asm volatile("ldtilecfg %0" : : "m"(config));', "(void)config;")]
}
# OpenMP's barriers are unknown to the thread sanitizer, those of POSIX are not.
WITH_POSIX_THREADS = {
    "cpu/parallel.h": [
        ("#include <omp.h>", "#error"),
        (
            '#include "cpu/runtime/waiting.h"',
            '#include <pthread.h>\n#include <thread>\n#include "cpu/runtime/waiting.h"',
        ),
        ("namespace rearec {\nnamespace {\n", "namespace rearec {\nnamespace {\npthread_barrier_t everybody;\n"),
        (
            "  body(0, 1);\n",
            "  pthread_barrier_init(&everybody, nullptr, threads);\n"
            "  std::thread others[8];\n"
            "  for (int i = 1; i < threads; ++i) others[i] = std::thread([&, i] { body(i, threads); });\n"
            "  body(0, threads);\n"
            "  for (int i = 1; i < threads; ++i) others[i].join();\n",
        ),
    ],
    "cpu/tiles/sweep.h": [("#pragma omp barrier", "pthread_barrier_wait(&everybody);")],
    "cpu/losses.cpp": [("#pragma omp barrier", "pthread_barrier_wait(&everybody);")],
}
FAULTS: dict[str, Changes] = {
    "a wrong lane": {"cpu/tiles/pack.h": [("tile * 4 + c % 4", "(1 - tile) * 4 + c % 4")]},
    "the tail of a strip": {
        "cpu/tiles/sweep.h": [
            ("loss_.add(block_of(own, smaller(kBlock, items.count - kBlock * i))", "loss_.add(block_of(own, kBlock)")
        ]
    },
    "users of a part of a vector": {"cpu/losses.cpp": [("if (kWrites) copy_users(", "if (false) copy_users(")]},
    "the group of another user": {"cpu/losses.cpp": [("g * kGroup + lane);", "lane);")]},
    "stale scratch": {"cpu/tiles/sweep.h": [("std::memset(own.grad_rows, 0,", "(void)(own.grad_rows, 0,")]},
    "the first part twice": {
        "cpu/tiles/engines/portable.h": [("columns.read(second + kSecond)", "columns.read(second)")]
    },
    "an item too many": {"cpu/tiles/topk.cpp": [("item >= a.catalog.items || ", "")]},
    "ties by higher item": {"cpu/tiles/topk.cpp": [("kept += stays", "kept += stays && upper[i] != *threshold")]},
    "undecided items left out": {"cpu/tiles/rank.cpp": [("if (undecided) wait(", "if (false) wait(")]},
    "a target among its rivals": {"cpu/tiles/rank.cpp": [('*target = __builtin_nanf("")', "(void)target")]},
    "an excluded item among the rivals": {
        "cpu/tiles/rank.cpp": [('*place(*excluded.begin) = __builtin_nanf("")', "(void)place")]
    },
    "a panel packed from its first block": {
        "cpu/tiles/item_scan.h": [("first * table.row_stride * size", "0 * table.row_stride * size")]
    },
}


def find_compiler() -> str:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    return compiler


@dataclass
class Build:
    """Objects of the sources that it has changed itself; the others are those of `base`."""

    folder: Path
    compiler: str
    flags: tuple[str, ...]
    base: Build | None = None
    changes: Changes = field(default_factory=dict)  # as they were made

    def make(self, changes: Changes) -> Path:
        """The program."""
        self.changes = changes
        root = self.folder / "csrc"
        shutil.copytree(CSRC, root, ignore=shutil.ignore_patterns("cuda", "bindings"))
        for name, replacements in changes.items():
            path = root / name
            text = path.read_text()
            for old, new in replacements:
                assert old in text, f"{name} has no {old!r} any more"
                text = text.replace(old, new)
            path.write_text(text)
        sources = [*sorted(root.glob("cpu/tiles/*.cpp")), *sorted(root.glob("cpu/runtime/*.cpp"))]
        sources += [root / "cpu" / "losses.cpp", HERE / "program.cpp"]
        objects = []
        for source in sources:
            objects.append(self.folder / f"{source.stem}.o")
            if self.base is not None and not self._is_touched(source, changes):
                objects[-1] = self.base.folder / objects[-1].name
                continue
            self._run("-c", source, "-o", objects[-1], f"-I{root}")
        self._run(*objects, "-o", self.folder / "program")
        return self.folder / "program"

    def _is_touched(self, source: Path, changes: Changes) -> bool:
        """Of those that include a changed header one is enough to see what is wrong with it."""
        if self.base is not None and self.flags != self.base.flags:  # another engine
            return source.parent.name == "tiles" or source.name == "program.cpp"
        of_base = self.base.changes if self.base is not None else {}
        names = {Path(name).name for name, what in changes.items() if of_base.get(name) != what}
        names |= {"rank.cpp" if x == "item_scan.h" else "cross_entropy.cpp" for x in names if x.endswith(".h")}
        return source.name in names

    def _run(self, *arguments: object) -> None:
        command = [self.compiler, *self.flags, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr[-3000:]


def run(program: Path, *arguments: str, emulator: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [*emulator, str(program), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE)


@cache
def has_simde(compiler: str) -> bool:
    command = [compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    return (
        subprocess.run(command, input="#include <simde/x86/avx512.h>\n", capture_output=True, text=True).returncode == 0
    )


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Build:
    flags = (*FLAGS, *OPENMP, "-DREAREC_ENGINE=portable", *(("-mavx2", "-mfma") if X86 else ()))
    build = Build(tmp_path_factory.mktemp("portable"), find_compiler(), flags)
    build.make({})
    return build


def test_the_portable_engine(portable: Build) -> None:
    assert run(portable.folder / "program").stdout == "right\n"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault: str, portable: Build, tmp_path: Path) -> None:
    build = Build(tmp_path, portable.compiler, portable.flags, portable)
    done = run(build.make(FAULTS[fault]), "quick")
    assert done.stdout != "right\n"
    assert " in place of " in done.stdout


@pytest.mark.skipif(not X86, reason="instructions of x86")
@pytest.mark.parametrize("engine", ["avx512_bf16", "amx"])
def test_the_engines_of_x86_in_an_emulation(engine: str, tmp_path: Path) -> None:
    compiler = find_compiler()
    if not has_simde(compiler):
        pytest.skip("no SIMDe (Debian, Ubuntu: apt-get install libsimde-dev) to emulate AVX-512 and AMX with")
    flags = (*FLAGS, *OPENMP, f"-DREAREC_ENGINE={engine}", "-mavx2", "-mfma", f"-I{HERE / 'emulated'}")
    if engine == "amx":
        flags += ("-DEMULATE_AMX",)
    done = run(Build(tmp_path, compiler, flags).make(WITHOUT_CONFIGURATION if engine == "amx" else {}), "quick")
    assert done.stdout == "right\n"


@pytest.fixture(scope="module")
def on_arm(tmp_path_factory: pytest.TempPathFactory) -> Build:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None or shutil.which("qemu-aarch64") is None:
        pytest.skip("NOT TESTED ON ARM: install g++-aarch64-linux-gnu and qemu-user (Debian, Ubuntu)")
    flags = (*FLAGS, *OPENMP, "-static", "-DREAREC_ENGINE=portable")
    build = Build(tmp_path_factory.mktemp("arm"), compiler, flags)
    build.make({})
    return build


@pytest.mark.skipif(not X86, reason="not emulated, but tested above")
def test_the_portable_engine_on_arm(on_arm: Build) -> None:
    assert run(on_arm.folder / "program", "quick", emulator=["qemu-aarch64"]).stdout == "right\n"


@pytest.mark.skipif(not X86, reason="on Arm the compiler and the processor need not know the instructions")
def test_the_engine_of_arm_in_an_emulation(on_arm: Build, tmp_path: Path) -> None:
    flags = (*FLAGS, *OPENMP, "-static", "-DREAREC_ENGINE=neon_bf16", "-march=armv8.2-a+bf16")
    program = Build(tmp_path, on_arm.compiler, flags, on_arm).make({})
    done = run(program, "brief", emulator=["qemu-aarch64", "-cpu", "max"])
    assert done.stdout == "right\n"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Build:
    compiler = find_compiler()
    library = subprocess.run([compiler, "-print-file-name=libtsan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(library).is_absolute():
        pytest.skip("the compiler has no thread sanitizer here")
    flags = (*FLAGS, "-g1", "-pthread", "-fsanitize=thread", "-DREAREC_ENGINE=portable")
    build = Build(tmp_path_factory.mktemp("watched"), compiler, flags)
    build.make(WITH_POSIX_THREADS)
    return build


def test_threads_of_a_sweep_wait_for_each_other(watched: Build) -> None:
    done = run(watched.folder / "program", "quick")
    assert done.stdout == "right\n", done.stderr[-3000:]


@pytest.mark.parametrize(
    ("source", "barriers", "barrier"),
    [("cpu/tiles/sweep.h", 4, b) for b in range(4)] + [("cpu/losses.cpp", 2, b) for b in range(2)],
)
def test_a_missing_barrier_is_seen(source: str, barriers: int, barrier: int, watched: Build, tmp_path: Path) -> None:
    ((pragma, wait),) = WITH_POSIX_THREADS[source]
    text = CSRC.joinpath(source).read_text()
    parts = text.split(pragma)
    assert len(parts) == barriers + 1
    without = wait.join([*parts[:barrier], parts[barrier] + parts[barrier + 1], *parts[barrier + 2 :]])
    build = Build(tmp_path, watched.compiler, watched.flags, watched)
    program = build.make({**WITH_POSIX_THREADS, source: [(text, without)]})
    # Whether the sanitizer sees two threads meet depends on when they run, on a busy machine above all.
    for _ in range(8):
        done = run(program, "quick")
        if "data race" in done.stderr or " in place of " in done.stdout:
            return
    pytest.fail("a missing barrier went unseen")
