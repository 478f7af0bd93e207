"""The attention kernels of csrc/cuda under sanitizers and several thread schedules, and proof that these see faults."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from backends import CSRC
from simulation import Simulation

pytestmark = pytest.mark.cuda_on_cpu

PROGRAM = Path(__file__).parent / "attention_program.cu"


def build(simulation: Simulation, sanitizer: str, *flags: str, sources: Path = CSRC) -> Path:
    return simulation.compile([PROGRAM], sanitizer=sanitizer, flags=[f"-I{sources}", *flags], optimisation="-O1")


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("sanitizer, flags", [("none", ()), ("address", ("-DREAREC_FEW_LAYOUTS",)), ("thread", ())])
def test_kernels_agree_with_float64(simulation: Simulation, sanitizer: str, flags: tuple[str, ...], seed: int) -> None:
    done = simulation.run(build(simulation, sanitizer, *flags), seed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": ok") >= 16


class Mutation(NamedTuple):
    """A fault planted by replacing the only occurrence of `old` in a file of csrc/cuda, and the build that sees it."""

    file: str
    old: str
    new: str
    seen_by: str


FORWARD, BACKWARD, PREFIX = "attention_forward.cuh", "attention_backward.cuh", "attention_prefix_gradient.cuh"
MUTATIONS = {
    "forward: no barrier before parts are merged": Mutation(
        FORWARD, "    __syncthreads();\n#pragma unroll\n    for (int m = 0; m < kQueries; ++m) {\n      float most", 
        "#pragma unroll\n    for (int m = 0; m < kQueries; ++m) {\n      float most", "thread"
    ),
    "forward: no barrier before scores are read back": Mutation(
        FORWARD, "if (a.token_probs) sync_tile(schedule);", "", "thread"
    ),
    "backward: no barrier before ds is made of dp": Mutation(
        BACKWARD, "sync_tile(schedule);  // dp is in global memory", "", "thread"
    ),
    "backward: no barrier before ds is read": Mutation(BACKWARD, "sync_tile(schedule);  // ds is", "", "thread"),
    "prefix gradient: next part overwrites what is still read": Mutation(
        PREFIX, "        }\n      __syncthreads();\n    }", "        }\n    }", "thread"
    ),
    "append: every query head of a group writes": Mutation(
        FORWARD, " || tile.head[m] * kv_heads != tile.kv_head * a.shape.heads", "", "thread"
    ),
    "one slot too many": Mutation("query_tile.cuh", "slot < end[m]; }", "slot <= end[m]; }", "none"),
    "forward: parts overlap": Mutation(
        FORWARD, "first < run.end; first += schedule.parts * kKeys", "first < run.end; first += kKeys", "none"
    ),
    "a stage of the reduction is missing": Mutation(
        "head_vector.cuh", "int offset = L::kLanes / 2; offset > 0", "int offset = L::kLanes / 2; offset > 1", "none"
    ),
    "dropout looks at the wrong bit": Mutation(
        FORWARD, "dropped >> (u * L::kVectors + L::vector()) & 1", "dropped >> (u + L::vector()) & 1", "none"
    ),
    "reads beyond the head": Mutation(
        "head_vector.cuh", "if (wanted && L::element(i) < head_dim) word[i]", "if (wanted) word[i]", "address"
    ),
    "reads beyond the prefix": Mutation("query_tile.cuh", "head_dim, slot < end);", "head_dim, true);", "address"),
    "a token of the next segment": Mutation(
        "query_tile.cuh", "while (token >= segments", "while (token > segments", "address"
    ),
    "shared memory for one part too few": Mutation(
        FORWARD, "float out[kWarpsPerBlock][kQueries]", "float out[kWarpsPerBlock - 1][kQueries]", "address"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_fault_is_seen(simulation: Simulation, tmp_path: Path, name: str) -> None:
    mutation = MUTATIONS[name]
    copy = shutil.copytree(CSRC, tmp_path / "csrc", ignore=shutil.ignore_patterns("cpu", "*.cpp"))
    file = copy / "cuda" / mutation.file
    text = file.read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    program = build(simulation, mutation.seen_by, "-DREAREC_ONE_LAYOUT", sources=copy)
    assert any(simulation.run(program, seed).returncode != 0 for seed in (0, 1, 2))


def test_reading_what_another_warp_appends_is_seen(simulation: Simulation) -> None:
    """The race that the launchers' callers avoid by passing new tokens as a segment of their own."""
    program = build(simulation, "thread", "-DREAREC_ONE_LAYOUT", "-DREAREC_READ_APPENDED")
    done = simulation.run(program, seed=0)
    assert done.returncode != 0
    assert "data race" in done.stderr
