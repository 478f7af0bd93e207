"""Builds rearec_kernels._C: C++ for CPUs always, CUDA C++ where it is of use. Package metadata is in pyproject.toml.

REAREC_NATIVE      1 (default) | 0: install without compiling anything; only the reference backend is there
REAREC_CUDA        auto (default): when an nvcc is found, unless the torch that is installed already is a build without
                   CUDA | 1: in any case, fail when there is no nvcc | 0: never
REAREC_CUDA_ARCHS  e.g. "80;90a;100" (the default, as far as nvcc knows them); the last one is also embedded as PTX
CUDA_HOME          where nvcc is, when it is not on PATH
CXX, CXXFLAGS      the C++17 compiler (default: c++, g++ or clang++) and flags appended to ours
MAX_JOBS           compile jobs at a time
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"

# One object per CPU source and instruction set; csrc/bindings/module.cpp picks the best at run time. Flags are spelled
# out because compilers before GCC 11 and Clang 12 do not know -march=x86-64-v3.
V3_FLAGS = "-mavx -mavx2 -mfma -mf16c -mbmi -mbmi2 -mlzcnt -mmovbe -mpopcnt"
X86_64_ISAS = {
    "baseline": "",
    "x86_64_v3": V3_FLAGS,
    "x86_64_v4": f"{V3_FLAGS} -mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl -mprefer-vector-width=512",
}
PORTABLE_ISAS = {"baseline": ""}
# Engines of csrc/cpu/tiles, beside the portable one. A compiler that does not know an engine's flags goes without it.
X86_64_ENGINES = {
    "avx512_bf16": f"{X86_64_ISAS['x86_64_v4']} -mavx512bf16",  # GCC 10, Clang 9
    "amx": f"{X86_64_ISAS['x86_64_v4']} -mavx512bf16 -mamx-tile -mamx-bf16",  # GCC 11, Clang 12
}
ARM_ENGINES = {"neon_bf16": "-march=armv8.2-a+bf16"}  # GCC 10, Clang 11
DEFAULT_CUDA_ARCHS = "80;90a;100"


def environment_switch(name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = (os.environ.get(name) or default).strip().lower()
    if value not in allowed:
        raise SystemExit(f"{name}={value!r}: expected one of {', '.join(allowed)}")
    return value


def find_cxx() -> list[str]:
    """The C++17 compiler's command, checked by compiling a line."""
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for candidate in candidates:
        command = shlex.split(candidate)
        if shutil.which(command[0]) and compiles(command, ["-std=c++17"], "#include <string_view>\nint main() {}\n"):
            return command
    raise SystemExit(
        f"rearec needs a C++17 compiler ({', '.join(candidates)}: none works). Install one (Debian, Ubuntu: apt-get "
        "install g++), or set CXX, or set REAREC_NATIVE=0 to install without compiled kernels."
    )


def compiles(cxx: list[str], flags: list[str], source: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.cpp")
        path.write_text(source)
        command = [*cxx, *flags, str(path), "-o", str(Path(folder, "probe"))]
        return subprocess.run(command, capture_output=True).returncode == 0


def is_clang(cxx: list[str]) -> bool:
    command = [*cxx, "-dM", "-E", "-x", "c++", os.devnull]
    return "__clang__" in subprocess.run(command, capture_output=True, text=True).stdout


def openmp_flags(cxx: list[str]) -> tuple[list[str], list[str]]:
    """For compiling and for linking; both empty where there is no OpenMP, and kernels run on one thread.

    What GCC compiles is linked with no OpenMP: rearec_kernels/openmp.py has it use the one that torch brings, under
    whatever name, for two of them in one process keep each other's threads waiting. What Clang on Linux compiles needs
    another library than torch's, which comes on top. On macOS two of those end the process, so it does without.
    """
    if platform.system() == "Darwin" or not compiles(cxx, ["-fopenmp"], "#include <omp.h>\nint main() {}\n"):
        return [], []
    return ["-fopenmp"], ["-fopenmp"] if is_clang(cxx) else []


def find_nvcc() -> str | None:
    mode = environment_switch("REAREC_CUDA", "auto", ("auto", "0", "1"))
    if mode == "0" or not any(CSRC.glob("cuda/*.cu")) or (mode == "auto" and torch_is_without_cuda()):
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [str(Path(home, "bin", "nvcc"))] if home else []
    candidates += [path for path in (shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc") if path]
    nvcc = next((path for path in candidates if Path(path).exists()), None)
    if nvcc is None and mode == "1":
        raise SystemExit("REAREC_CUDA=1 but no nvcc in $CUDA_HOME/bin, on PATH or in /usr/local/cuda/bin")
    return nvcc


def torch_is_without_cuda() -> bool:
    """Whether a torch is installed already that was built for CPUs; what cannot be told is taken for one with CUDA.

    A build in isolation cannot import it, but finds its files: the interpreter is that of the environment.
    """
    for place in dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path)):
        version = Path(place, "torch", "version.py")
        if version.is_file():
            return re.search(r"^cuda\b.*= *None$", version.read_text(encoding="utf-8"), re.MULTILINE) is not None
    return False


def cuda_archs(nvcc: str) -> list[str]:
    """Those asked for; by default those of ours that this nvcc knows."""
    asked = os.environ.get("REAREC_CUDA_ARCHS", "").replace(",", ";")
    names = [name.strip() for name in (asked or DEFAULT_CUDA_ARCHS).split(";") if name.strip()]
    for name in names:
        if not re.fullmatch(r"[1-9]\d{1,2}[af]?", name):
            raise SystemExit(f"REAREC_CUDA_ARCHS={asked!r}: expected architectures like 80;90a;100")
    if asked:
        return names
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
    names = [name for name in names if f"compute_{name.rstrip('af')}" in known]
    if not names:
        raise SystemExit(
            f"{nvcc} knows none of the architectures {DEFAULT_CUDA_ARCHS}; set REAREC_CUDA_ARCHS or REAREC_CUDA=0"
        )
    return names


def cuda_libraries(nvcc: str) -> Path:
    """The folder of libcudart_static.a. nvcc may be a wrapper script, so it is asked where its toolkit is."""
    dry_run = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True).stderr
    tops = [line.split("=", 1)[1].strip() for line in dry_run.splitlines() if line.startswith("#$ TOP=")]
    top = Path(tops[0]) if tops and Path(tops[0]).is_absolute() else Path(nvcc).resolve().parent.parent
    for folder in (top / "lib64", top / "lib", top / "targets" / "x86_64-linux" / "lib"):
        if (folder / "libcudart_static.a").exists():
            return folder
    raise SystemExit(f"{nvcc}: no libcudart_static.a under {top}; set CUDA_HOME to a whole toolkit or REAREC_CUDA=0")


def export_flags(folder: Path) -> list[str]:
    """For the linker: nothing of ours, of the C++ library's templates or of CUDA's runtime is seen from outside."""
    if platform.system() == "Darwin":
        return ["-undefined", "dynamic_lookup", "-Wl,-exported_symbol,_PyInit__C"]
    exports = folder / "exports"
    exports.write_text("{ global: PyInit__C; local: *; };\n", encoding="utf-8")
    return [f"-Wl,--version-script={exports}"]


def ninja_path(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def ninja_command(words: list[str]) -> str:
    """Words of a shell command as the value of a ninja variable."""
    return shlex.join(words).replace("$", "$$")


class NinjaBuild(build_ext):
    """Writes one build.ninja and runs it: parallel, incremental, dependency files, no torch headers."""

    def build_extension(self, ext: Extension) -> None:
        import ninja
        import pybind11

        folder = Path(self.build_temp).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)

        cxx = find_cxx()
        machine = platform.machine().lower()
        x86_64, arm = machine in ("x86_64", "amd64"), machine in ("aarch64", "arm64")
        isas = X86_64_ISAS if x86_64 else PORTABLE_ISAS
        openmp, link_openmp = openmp_flags(cxx)
        python = ninja_command([f"-I{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))])
        flags = ["-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
        flags += ["-Wall"]
        if not is_clang(cxx):  # GCC's own AVX-512 headers set off these two
            flags += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
        flags += [*openmp, f"-DREAREC_ISA_COUNT={len(isas)}", f"-I{CSRC}", *shlex.split(os.environ.get("CXXFLAGS", ""))]
        link = ["-shared", "-pthread", *link_openmp, *export_flags(folder)]
        engines = {"portable": isas["x86_64_v3" if x86_64 else "baseline"]}
        of_machine = ARM_ENGINES if arm else X86_64_ENGINES if x86_64 and platform.system() == "Linux" else {}
        for engine, own in of_machine.items():
            if compiles(cxx, own.split(), "int main() {}\n"):
                engines[engine] = own
                flags += [f"-DREAREC_{engine.upper()}"]

        nvcc = find_nvcc()
        nvcc_flags: list[str] = []
        if nvcc:
            names = cuda_archs(nvcc)
            ptx = names[-1].rstrip("af")
            nvcc_flags = ["-O3", "-std=c++17", "-Xptxas", "-v", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
            nvcc_flags += ["-Xfatbin", "-compress-all"]
            nvcc_flags += [f"-I{CSRC}", *(f"-gencode=arch=compute_{name},code=sm_{name}" for name in names)]
            nvcc_flags += [f"-gencode=arch=compute_{ptx},code=compute_{ptx}"]
            # For the bindings alone: a build without CUDA takes all other objects from one with it.
            python += " " + ninja_command([f'-DREAREC_CUDA_ARCHS="{",".join(names)}"'])
            link += [f"-L{cuda_libraries(nvcc)}", "-lcudart_static", "-ldl", "-lrt"]

        rules = [
            f"cxx = {ninja_command(cxx)}",
            f"cxxflags = {ninja_command(flags)}",
            f"linkflags = {ninja_command(link)}",
            "rule cxx\n  command = $cxx $cxxflags $ownflags -MMD -MF $out.d -c $in -o $out\n"
            "  depfile = $out.d\n  deps = gcc",
            "rule link\n  command = $cxx $in -o $out $linkflags",
        ]
        if nvcc:
            rules += [
                f"nvcc = {ninja_command([nvcc])}\nnvccflags = {ninja_command(nvcc_flags)}",
                # Registers, spills and shared memory of every kernel stay beside the object, for the tests to look at.
                "rule nvcc\n  command = $nvcc $nvccflags -MMD -MF $out.d -c $in -o $out > $out.log 2>&1"
                " && cat $out.log || { cat $out.log; exit 1; }\n  depfile = $out.d\n  deps = gcc",
            ]
        objects: list[Path] = []

        def compile_folder(name: str, own_flags: str = "", variant: str = "", rule: str = "cxx") -> None:
            """Every source in a folder of csrc, into an object of each variant."""
            for source in sorted(path for path in CSRC.joinpath(name).iterdir() if path.suffix in (".cpp", ".cu")):
                objects.append(folder / f"{name.replace('/', '__')}__{source.name}{variant}.o")
                rules.append(f"build {ninja_path(objects[-1])}: {rule} {ninja_path(source)}\n  ownflags = {own_flags}")

        def compile_bindings(*names: str) -> None:
            """Every source in these folders as one: nearly all of the time is pybind11's headers and templates."""
            source = folder / "bindings.cpp"
            sources = [path.relative_to(CSRC) for name in names for path in sorted(CSRC.joinpath(name).glob("*.cpp"))]
            text = "".join(f'#include "{path.as_posix()}"\n' for path in sources)
            if not source.exists() or source.read_text(encoding="utf-8") != text:
                source.write_text(text, encoding="utf-8")
            objects.append(folder / "bindings.o")
            # They only take tuples apart, which needs no optimisation that takes its time.
            rules.append(f"build {ninja_path(objects[-1])}: cxx {ninja_path(source)}\n  ownflags = -O1 {python}")

        bindings = ["bindings", "bindings/tiles", *(["bindings/cuda"] if nvcc else [])]
        # What takes longest comes first, so that no core waits for it at the end.
        if nvcc:
            compile_folder("cuda", rule="nvcc")
        compile_bindings(*bindings)
        for isa, isa_flags in reversed(isas.items()):
            compile_folder("cpu", f"-DREAREC_ISA={isa} {isa_flags}", f".{isa}")
        for engine, engine_flags in engines.items():
            compile_folder("cpu/tiles", f"-DREAREC_ENGINE={engine} {engine_flags}", f".{engine}")
        compile_folder("cpu/runtime")
        rules.append(f"build {ninja_path(output)}: link {' '.join(map(ninja_path, objects))}")
        (folder / "build.ninja").write_text("\n".join(rules) + "\n")

        names = [*isas, *(engine for engine in engines if engine != "portable")]
        why = " (torch is a build without it; REAREC_CUDA=1 compiles its kernels all the same)"
        cuda = nvcc or f"no{why if torch_is_without_cuda() else ''}"
        threads = "OpenMP" if openmp else "no OpenMP, so one thread"
        print(f"rearec: {', '.join(names)}; {threads}; CUDA: {cuda}", flush=True)
        jobs = os.environ.get("MAX_JOBS")
        command = [os.path.join(ninja.BIN_DIR, "ninja"), "-C", str(folder), *(["-j", jobs] if jobs else [])]
        if subprocess.run(command).returncode != 0:
            without = "; REAREC_CUDA=0 installs without CUDA kernels" if nvcc else ""
            raise SystemExit(f"rearec: the native kernels did not compile (the compiler's messages are above){without}")


native = environment_switch("REAREC_NATIVE", "1", ("0", "1")) == "1"
setup(
    ext_modules=[Extension("rearec_kernels._C", sources=[])] if native else [],
    cmdclass={"build_ext": NinjaBuild},
)
