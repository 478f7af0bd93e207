"""The simulator of CUDA on the CPU: correct programs pass in every build and schedule, every kind of fault shows."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from simulation import Simulation
from torch import Tensor

pytestmark = pytest.mark.cuda_on_cpu

PROGRAMS = Path(__file__).parent / "programs"
BUILDS = ["none", "address", "thread"]
SEEDS = range(4)
DIVERGENCE = {
    "return_before_barrier": r"returns, but \d+ threads of the block wait for it in __syncthreads",
    "barrier_after_return": r"__syncthreads.* already returned|returns, but \d+ threads of the block wait",
    "half_warp_at_barrier": r"deadlock: waits in __shfl_xor_sync with mask 0xffffffff for lanes 0x0000ffff",
    "shuffle_in_branch": r"returns, but lanes 0x[0-9a-f]{8} wait for it in __shfl_xor_sync"
    r"|__shfl_xor_sync with mask 0xffffffff: lanes 0x[0-9a-f]{8} have already returned",
    "shuffle_against_syncwarp": r"divergence: calls __(syncwarp|shfl_xor_sync) .* wait for it in __",
    "shuffle_after_return": r"__shfl_down_sync with mask 0xffffffff: lanes 0x00000001 have already returned"
    r"|returns, but lanes 0x[0-9a-f]{8} wait for it in __shfl_down_sync",
    "two_masks": r"divergence: calls __shfl_xor_sync with mask|deadlock: waits in __shfl_xor_sync with mask",
    "mask_without_caller": r"__shfl_sync with mask 0xfffffffe leaves out the calling lane 0",
    "source_not_in_mask": r"lane \d reads lane 4, which is not in the mask",
    "source_does_not_exist": r"lane \d+ reads lane 20, which does not exist",
    "width_not_a_power": r"the width 12 is not 1, 2, 4, 8, 16 or 32",
}


def build(simulation: Simulation, name: str, sanitizer: str = "none", *flags: str) -> Path:
    return simulation.compile([PROGRAMS / f"{name}.cu"], sanitizer=sanitizer, flags=flags, optimisation="-O1")


def run_faulty(simulation: Simulation, sanitizer: str, fault: str, seed: int = 0) -> subprocess.CompletedProcess[str]:
    return simulation.run(build(simulation, "faulty", sanitizer), seed, arguments=[fault])


@pytest.mark.parametrize("sanitizer", BUILDS)
@pytest.mark.parametrize("name", ["correct", "runtime"])
def test_correct_programs_pass_under_every_schedule(simulation: Simulation, name: str, sanitizer: str) -> None:
    built = build(simulation, name, sanitizer, "-Werror")
    for seed in SEEDS:
        done = simulation.run(built, seed=seed)
        assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
        assert not done.stderr
        assert len(re.findall(r"^\w+: right$", done.stdout, re.MULTILINE)) >= 5


def test_processors_without_the_assembly_switch_by_ucontext(simulation: Simulation) -> None:
    done = simulation.run(build(simulation, "correct", "none", "-DCUDA_ON_CPU_UCONTEXT"), seed=1)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "fault",
    ["missing_syncthreads", "missing_second_syncthreads", "append_read_by_other_warps", "atomic_without_barrier"],
)
def test_some_schedule_shows_a_missing_barrier(simulation: Simulation, fault: str) -> None:
    outputs = [run_faulty(simulation, "none", fault, seed).stdout for seed in SEEDS]
    assert f"{fault}: wrong\n" in outputs


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "fault",
    [
        "missing_syncthreads",
        "missing_second_syncthreads",
        "missing_syncwarp",
        "syncwarp_of_others",
        "missing_second_syncwarp",
        "append_read_by_other_warps",
        "append_read_by_other_blocks",
        "atomic_without_barrier",
    ],
)
def test_every_schedule_shows_a_race_to_the_thread_sanitizer(simulation: Simulation, fault: str, seed: int) -> None:
    done = run_faulty(simulation, "thread", fault, seed)
    assert done.returncode == 66, done.stdout + done.stderr
    assert "data race" in done.stderr
    assert "faulty.cu" in done.stderr


def test_blocks_of_one_thread_race(simulation: Simulation) -> None:
    """In order: under other schedules, all of them may happen to run on one fiber."""
    done = run_faulty(simulation, "thread", "blocks_write_one_cell")
    assert "data race" in done.stderr


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("global_out_of_bounds", "heap-buffer-overflow"),
        ("shared_out_of_bounds", r"index 64 out of bounds for type 'float \[64\]'"),
        ("dynamic_shared_out_of_bounds", "use-after-poison"),
        ("misaligned_load", r"misaligned address .* for type 'const struct float4'"),
    ],
)
def test_bad_addresses_show_to_the_address_sanitizer(simulation: Simulation, fault: str, message: str) -> None:
    done = run_faulty(simulation, "address", fault)
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stdout + done.stderr
    assert "faulty.cu" in done.stderr


@pytest.mark.parametrize("seed", SEEDS)
def test_shared_memory_is_nan_until_written(simulation: Simulation, seed: int) -> None:
    done = run_faulty(simulation, "none", "uninitialised_shared", seed)
    assert done.stdout == "uninitialised_shared: wrong\n"


def test_a_stack_overflow_ends_the_process(simulation: Simulation) -> None:
    done = run_faulty(simulation, "none", "stack_overflow")
    assert done.returncode < 0
    assert not done.stdout


@pytest.mark.parametrize("sanitizer", BUILDS)
@pytest.mark.parametrize("fault", DIVERGENCE)
def test_divergence_aborts_with_one_line(simulation: Simulation, fault: str, sanitizer: str) -> None:
    for seed in [0, 1]:
        done = run_faulty(simulation, sanitizer, fault, seed)
        assert done.returncode < 0, done.stdout
        place = r"cuda_on_cpu: block \(0,0,0\), thread \(\d+,0,0\): "
        assert re.fullmatch(rf"{place}[^\n]*({DIVERGENCE[fault]})[^\n]* \(seed {seed}\)\n", done.stderr), done.stderr


def test_libraries_of_several_sources_side_by_side(simulation: Simulation) -> None:
    sources = [PROGRAMS / "library.cu", PROGRAMS / "library_other_source.cu"]
    libraries = [
        ctypes.CDLL(str(simulation.compile(sources, shared=True, flags=[f"-DFACTOR={factor}"]))) for factor in (2, 3)
    ]
    x = torch.arange(192, dtype=torch.float32)
    for factor, library in [(2, libraries[0]), (3, libraries[1]), (2, libraries[0])]:
        for function in (library.scale_64, library.scale_96):
            out = torch.empty(192)
            function(ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(out.data_ptr()))
            assert torch.equal(out, factor * x)


def _numbers() -> Tensor:
    """float32 numbers on, between and just beside the numbers of both narrow types; specials; random bits."""
    patterns = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    exact = torch.cat([patterns.view(dtype).float() for dtype in (torch.bfloat16, torch.float16)])
    bits = exact.view(torch.int32)
    halves = torch.cat([bits[:65536] + 0x8000, bits[65536:] + 0x1000])  # between neighbours, unless subnormal
    subnormal_halves = (torch.arange(2049) * 0.5 * 2.0**-24).float().view(torch.int32)
    random = torch.randint(-(2**31), 2**31, (100_000,), generator=torch.Generator().manual_seed(0)).int()
    steps = torch.cat([bits, halves, subnormal_halves, -1 - subnormal_halves])
    return torch.cat([steps, steps + 1, steps - 1, random]).view(torch.float32)


def test_conversions_are_exact(simulation: Simulation, tmp_path: Path) -> None:
    x = _numbers()
    x.numpy().tofile(tmp_path / "in")
    done = simulation.run(
        build(simulation, "conversions", "address"), arguments=[str(tmp_path / "in"), str(tmp_path / "out")]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    out = (tmp_path / "out").read_bytes()
    narrow = torch.from_numpy(np.frombuffer(out, np.int16, 2 * len(x)).copy()).view(2, -1)
    wide = torch.from_numpy(np.frombuffer(out, np.int32, offset=4 * len(x)).copy()).view(2, 65536)

    every_pattern = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    for i, dtype in enumerate([torch.bfloat16, torch.float16]):
        # Where torch keeps a NaN's bits, CUDA writes the same NaN for all.
        expected = torch.where(x.isnan(), 0x7FFF, x.to(dtype).view(torch.int16))
        assert torch.equal(narrow[i], expected.to(torch.int16))
        expected_wide = every_pattern.view(dtype).float()
        got_wide = wide[i].view(torch.float32)
        assert torch.equal(got_wide.isnan(), expected_wide.isnan())
        number = ~expected_wide.isnan()
        assert torch.equal(wide[i][number], expected_wide.view(torch.int32)[number])
