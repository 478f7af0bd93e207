"""Stages that check: the build, the tests on the device, and compute-sanitizer."""

from __future__ import annotations

import os
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from pathlib import Path
from typing import Any

from on_gpu.compiler_log import kernels, newest_logs
from on_gpu.processes import Command, Finished, Processes

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = REPOSITORY / "tests"
ATTENTION_TESTS = (
    "kernels/test_attention.py",
    "kernels/test_attention_autograd.py",
    "kernels/test_compat.py",
    "kernels/test_cuda_resources.py",
    "kernels/test_dropout.py",
    "test_graphed_rollout.py",
)
CATALOG_TESTS = (
    "kernels/test_annealed_cross_entropy.py",
    "kernels/test_ensemble_reasoning_loss.py",
    "kernels/test_reasoning_info_nce.py",
    "kernels/test_catalog_topk.py",
    "kernels/test_catalog_rank.py",
    "kernels/test_loss_autograd.py",
    "kernels/test_loss_identities.py",
)
ON_DEVICE = ("cuda", "triton")  # backends, which their tests have in their names
MOST_FAILURES = 25  # after these, the tests of a process stop
# Never in Triton's interpreter, and always with its first configs; several processes share the host.
TEST_VARIABLES = {"TRITON_INTERPRET": "0", "REAREC_TRITON_AUTOTUNE": "0", "OMP_NUM_THREADS": "2"}

# By tool: the line that says what it found.
SUMMARIES = {
    "memcheck": r"ERROR SUMMARY: (\d+) error",
    "racecheck": r"RACECHECK SUMMARY: (\d+) hazard",
    "synccheck": r"ERROR SUMMARY: (\d+) error",
}
FOUND_STATUS = 9  # of a sanitizer that found something
PADDING_BYTES = 4096  # between allocations: nobody's neighbour is read by mistake

Outcome = dict[str, Any]


# --- build ---


def build_command(site: Path, arch: str) -> Command:
    """Installs this tree into the folder `site`, with kernels for `arch` alone."""
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--verbose"]
    options = ["--no-index", "--no-build-isolation", "--no-deps", "--no-compile", "--upgrade", "--target", str(site)]
    variables = {"REAREC_NATIVE": "1", "REAREC_CUDA": "1", "REAREC_CUDA_ARCHS": arch}
    return Command([*pip, *options, str(REPOSITORY)], variables)


def build(processes: Processes, limit: float, site: Path, arch: str) -> Outcome:
    done = processes.run(build_command(site, arch), limit)
    if done.status != 0:
        return _failed([f"pip {done.ending}"], done)
    compiled = [kernel for kernel in kernels(newest_logs(REPOSITORY / "build")) if kernel.arch == arch]
    if not compiled:
        return _failed([f"no compiler log under {REPOSITORY / 'build'} tells of a kernel for sm_{arch}"], done)
    return {"status": "passed", "kernels": [asdict(kernel) for kernel in compiled]}


# --- tests ---


def test_commands(folder: Path) -> dict[Path, Command]:
    """By the file that each writes its results to: the tests of attention, those of losses and retrieval in Triton,
    and all others that need a GPU.

    To be run outside of the repository, so that the installed packages are imported; and at the same time, as most of
    it is compiling.
    """
    attention, catalog = ([TESTS / name for name in names] for names in (ATTENTION_TESTS, CATALOG_TESTS))
    listed = [*attention, *catalog]
    others = [path for path in sorted(TESTS.rglob("test_*.py")) if path not in listed and _needs_a_gpu(path)]
    chosen: dict[str, tuple[list[Path], list[str]]] = {"tests-of-attention": (attention, [])}
    chosen |= {f"tests-{path.stem.removeprefix('test_')}": ([path], ["-k", "triton"]) for path in catalog}
    chosen["tests-gpu"] = (others, ["-m", "gpu"])
    commands = {}
    for name, (files, options) in chosen.items():
        there = [path for path in files if path.exists()]
        if there:
            results = folder / f"{name}.xml"
            commands[results] = _pytest(results, there, *options)
    return commands


def _needs_a_gpu(path: Path) -> bool:
    return "mark.gpu" in path.read_text(encoding="utf-8")


def _pytest(results: Path, files: list[Path], *options: str) -> Command:
    settings = ["-c", str(REPOSITORY / "pyproject.toml"), "-p", "no:cacheprovider", f"--junitxml={results}"]
    settings += ["-q", "--tb=short", "--durations=5", f"--maxfail={MOST_FAILURES}", *options]
    return Command([sys.executable, "-m", "pytest", *settings, *map(str, files)], TEST_VARIABLES)


def tests(processes: Processes, limit: float) -> Outcome:
    """Passes when no test failed, and some ran the kernels of each backend on the device."""
    on_device = dict.fromkeys(ON_DEVICE, 0)
    outcome: Outcome = {"status": "passed", "errors": [], "counts": {}, "failed": [], "on_device": on_device}
    commands = test_commands(processes.folder)
    for results, done in zip(commands, processes.run_together(list(commands.values()), limit), strict=True):
        _read_results(results, outcome)
        if done.status != 0:
            failure = _failed([f"{results.stem}: pytest {done.ending}"], done)
            outcome |= failure | {"errors": outcome["errors"] + failure["errors"]}
    for backend, passed in on_device.items():
        if passed == 0:
            outcome["status"] = "failed"
            outcome["errors"].append(f'no test of backend "{backend}" passed')
    return outcome


def _read_results(results: Path, outcome: Outcome) -> None:
    """Adds a file in JUnit's format to the counts, to the names of failed tests and to the tests on the device."""
    if not results.exists():
        return
    for case in ElementTree.parse(results).iter("testcase"):
        ended = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        outcome["counts"][ended] = outcome["counts"].get(ended, 0) + 1
        name = f"{case.get('classname')}::{case.get('name')}"
        if ended in ("failure", "error"):
            outcome["failed"].append(name)
        for backend in outcome["on_device"]:
            outcome["on_device"][backend] += ended == "passed" and re.search(rf"\[.*\b{backend}\b", name) is not None


# --- sanitizers ---


def sanitizer_commands(sanitizer: str) -> dict[str, Command]:
    """By tool; "out of bounds" must find the error that the program then makes."""
    # Every tensor an allocation of its own: an access beyond its end is one outside of any.
    variables = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    program = [sys.executable, "-m", "on_gpu.sanitized"]

    def command(tool: str, *program_options: str) -> Command:
        options = ["--tool", tool, "--error-exitcode", str(FOUND_STATUS)]
        options += ["--padding", str(PADDING_BYTES)] if tool == "memcheck" else []
        return Command([sanitizer, *options, *program, *program_options], variables)

    return {tool: command(tool) for tool in SUMMARIES} | {"out of bounds": command("memcheck", "--out-of-bounds")}


def find_sanitizer() -> str | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [str(Path(home, "bin")) for home in homes if home]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def sanitize(processes: Processes, limit: float) -> Outcome:
    sanitizer = find_sanitizer()
    if sanitizer is None:
        return {"status": "failed", "errors": ["compute-sanitizer is neither on PATH nor in /usr/local/cuda/bin"]}
    commands = sanitizer_commands(sanitizer)
    finished = dict(zip(commands, processes.run_together(list(commands.values()), limit), strict=True))
    outcome: Outcome = {"status": "passed", "errors": [], "found": {}}
    for tool, done in finished.items():
        found = _found(tool, done)
        outcome["found"][tool] = found
        error = _complaint(tool, done, found)
        if error:
            failure = _failed([f"{tool}: {error}"], done)
            outcome |= failure | {"errors": outcome["errors"] + failure["errors"]}
    return outcome


def _found(tool: str, done: Finished) -> int | None:
    """How many errors or hazards, None when the tool did not get so far as to say."""
    summaries = re.findall(SUMMARIES.get(tool, SUMMARIES["memcheck"]), done.output)
    return sum(map(int, summaries)) if summaries else None


def _complaint(tool: str, done: Finished, found: int | None) -> str | None:
    if found is None:
        return f"{done.ending} without a summary"
    if tool == "out of bounds":
        seen = found > 0 and done.status != 0 and "attention_forward" in done.output
        return None if seen else "the planted access outside of all tensors was not found"
    if found > 0:
        return f"{found} found"
    return None if done.status == 0 else f"nothing found, but the program {done.ending}"


def _failed(errors: list[str], done: Finished) -> Outcome:
    return {"status": "failed", "errors": errors, "tail": done.tail}
