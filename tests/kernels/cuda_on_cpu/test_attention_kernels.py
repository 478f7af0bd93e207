"""The attention kernels of csrc/cuda under sanitizers and several thread schedules, and proof that these see faults."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from backends import CSRC
from simulation import Simulation

pytestmark = pytest.mark.cuda_on_cpu

PROGRAM = Path(__file__).parent / "attention_program.cu"


def build(simulation: Simulation, sanitizer: str, *flags: str, sources: Path = CSRC) -> Path:
    level = "-O1" if sanitizer == "none" else "-O0"  # a sanitizer's build takes three times as long with optimisation
    return simulation.compile([PROGRAM], sanitizer=sanitizer, flags=[f"-I{sources}", *flags], optimisation=level)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("sanitizer, flags", [("none", ()), ("address", ("-DREAREC_FEW_LAYOUTS",)), ("thread", ())])
def test_kernels_agree_with_float64(simulation: Simulation, sanitizer: str, flags: tuple[str, ...], seed: int) -> None:
    done = simulation.run(build(simulation, sanitizer, *flags), seed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": ok") >= 16


class Fault(NamedTuple):
    """A fault planted by replacing the only occurrence of `old` in a file of csrc/cuda, and the build that sees it.

    `new` is the fault where FAULT holds, and else what stood there.
    """

    file: str
    old: str
    new: str
    seen_by: str


FORWARD, BACKWARD, PREFIX = "attention_forward.cuh", "attention_backward.cuh", "attention_prefix_gradient.cuh"
FAULTS = {
    "forward: no barrier before parts are merged": Fault(
        FORWARD,
        "    __syncthreads();\n#pragma unroll\n    for (int m = 0; m < kQueries; ++m) {\n      float most",
        "    if (!FAULT) __syncthreads();\n#pragma unroll\n    for (int m = 0; m < kQueries; ++m) {\n      float most",
        "thread",
    ),
    "forward: no barrier before scores are read back": Fault(
        FORWARD,
        "if (a.token_probs) sync_tile(schedule);",
        "if (a.token_probs && !FAULT) sync_tile(schedule);",
        "thread",
    ),
    "backward: no barrier before ds is made of dp": Fault(
        BACKWARD,
        "sync_tile(schedule);  // dp is in global memory",
        "if (!FAULT) sync_tile(schedule);",
        "thread",
    ),
    "backward: no barrier before ds is read": Fault(
        BACKWARD,
        "sync_tile(schedule);  // ds is",
        "if (!FAULT) sync_tile(schedule);  // ds is",
        "thread",
    ),
    "prefix gradient: next part overwrites what is still read": Fault(
        PREFIX,
        "        }\n      __syncthreads();\n    }",
        "        }\n      if (!FAULT) __syncthreads();\n    }",
        "thread",
    ),
    "append: every query head of a group writes": Fault(
        FORWARD,
        " || tile.head[m] * kv_heads != tile.kv_head * a.shape.heads",
        " || (!FAULT && tile.head[m] * kv_heads != tile.kv_head * a.shape.heads)",
        "thread",
    ),
    "one slot too many": Fault("query_tile.cuh", "slot < end[m]; }", "slot < end[m] + FAULT; }", "none"),
    "forward: parts overlap": Fault(
        FORWARD,
        "first < run.end; first += schedule.parts * kKeys",
        "first < run.end; first += (FAULT ? 1 : schedule.parts) * kKeys",
        "none",
    ),
    "a stage of the reduction is missing": Fault(
        "head_vector.cuh",
        "int offset = L::kLanes / 2; offset > 0",
        "int offset = L::kLanes / 2; offset > FAULT",
        "none",
    ),
    "dropout looks at the wrong bit": Fault(
        FORWARD,
        "dropped >> (u * L::kVectors + L::vector()) & 1",
        "dropped >> (u * (FAULT ? 1 : L::kVectors) + L::vector()) & 1",
        "none",
    ),
    "reads beyond the head": Fault(
        "head_vector.cuh",
        "if (wanted && L::element(i) < head_dim) word[i]",
        "if (wanted && (FAULT || L::element(i) < head_dim)) word[i]",
        "address",
    ),
    "reads beyond the prefix": Fault(
        "query_tile.cuh",
        "head_dim, slot < end);",
        "head_dim, FAULT || slot < end);",
        "address",
    ),
    "a token of the next segment": Fault(
        "query_tile.cuh",
        "while (token >= segments.items[s].count)",
        "while (token >= segments.items[s].count + FAULT)",
        "address",
    ),
    "shared memory for one part too few": Fault(
        FORWARD,
        "out[part][m][e * kWarp + lane] = softmax",
        "out[part + FAULT][m][e * kWarp + lane] = softmax",
        "address",
    ),
}


@pytest.fixture(scope="module")
def planted(simulation: Simulation) -> Path:
    """A copy of csrc that has all faults, each behind a switch of the program: compiling takes longer than running."""

    def plant(copy: Path) -> None:
        shutil.copytree(CSRC, copy, ignore=shutil.ignore_patterns("cpu", "*.cpp"))
        for number, fault in enumerate(FAULTS.values(), start=1):
            file = copy / "cuda" / fault.file
            text = file.read_text(encoding="utf-8")
            assert text.count(fault.old) == 1, fault
            switched = fault.new.replace("FAULT", f"(::planted_fault == {number})")
            file.write_text(text.replace(fault.old, switched), encoding="utf-8")

    return simulation.share("planted", plant)


def run_planted(
    simulation: Simulation, sanitizer: str, planted: Path, number: int, seed: int
) -> subprocess.CompletedProcess[str]:
    program = build(simulation, sanitizer, "-DREAREC_ONE_LAYOUT", sources=planted)
    return simulation.run(program, seed, arguments=[str(number)])


@pytest.mark.parametrize("sanitizer", ["none", "address", "thread"])
def test_the_copy_without_a_fault_is_right(simulation: Simulation, planted: Path, sanitizer: str) -> None:
    done = run_planted(simulation, sanitizer, planted, 0, seed=1)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_seen(simulation: Simulation, planted: Path, name: str) -> None:
    number = [*FAULTS].index(name) + 1
    assert any(run_planted(simulation, FAULTS[name].seen_by, planted, number, seed).returncode for seed in (0, 1, 2))


def test_reading_what_another_warp_appends_is_seen(simulation: Simulation, planted: Path) -> None:
    """The race that the launchers' callers avoid by passing new tokens as a segment of their own."""
    done = run_planted(simulation, "thread", planted, -1, seed=0)
    assert done.returncode != 0
    assert "data race" in done.stderr
