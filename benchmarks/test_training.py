"""A training step (forward, backward, optimiser) of SASRec with K = 2: the official algorithm, as published and with
its mask fixed, plain PyTorch that encodes every window once, and what `rearec train` runs.

Times are of 512 rows. The official algorithm takes the same time for all rows; ours and the careful one, whose time
depends on the lengths, are measured on batches that stand for a whole epoch. Ours makes its batches meanwhile.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_data
import pytest
import step_memory
from compare import Comparison, compare
from training_steps import FIXED, PUBLISHED, losses, seconds_of, training_steps

from rearec.data import SequenceDataset
from rearec.models.config import ReaRecConfig

ROWS = 512
FFN = {64: 128, 256: 300}
AMAZON = {("time", PUBLISHED): (12.0, 30.0), ("time", FIXED): (7.0, 16.0)}
LONG = {("time", PUBLISHED): (5.0, 12.0), ("time", FIXED): (3.0, 7.0)}
PRECISIONS = ("bf16", "bf16x3")
# data, method, d, whether it needs --paper-scale
SYNTHETIC = [
    ("Beauty-like", "prl", 64, False),
    ("Beauty-like", "prl", 256, True),
    ("Beauty-like", "erl", 64, False),
    ("Video-Games-like", "prl", 64, True),
    ("Video-Games-like", "prl", 256, False),
    ("Video-Games-like", "erl", 256, True),
    ("ml-100k-like", "prl", 64, False),
    ("ml-100k-like", "prl", 256, True),
    ("ml-100k-like", "erl", 64, True),
]
REAL = [("Beauty 2014", "prl", 64, False), ("Beauty 2014", "prl", 256, True), ("ml-100k", "prl", 64, False)]


@pytest.mark.parametrize(("name", "method", "dim", "large"), SYNTHETIC)
def test_synthetic(name: str, method: str, dim: int, large: bool, paper_scale: bool, report: Any) -> None:
    _skip_large(large, paper_scale)
    _compare(name, bench_data.synthetic(name), method, dim, report)


@pytest.mark.parametrize(("name", "method", "dim", "large"), REAL)
def test_real(name: str, method: str, dim: int, large: bool, paper_scale: bool, report: Any, tmp_path: Path) -> None:
    _skip_large(large, paper_scale)
    dataset = bench_data.real(name, tmp_path / "data")
    if dataset is None:
        pytest.skip(f"no real data: {bench_data.REAL_DATA} has no {bench_data.REAL[name][1]}")
    _compare(f"{name} (real)", dataset, method, dim, report)


def test_memory(threads: int, report: Any) -> None:
    """Of one step with ERL over a large catalogue; every contender in a process of its own."""
    memory: dict[str, int] = {}
    for who in step_memory.WHO:
        command = [sys.executable, step_memory.__file__, who, f"--threads={threads}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        memory[who] = round(json.loads(done.stdout)["step_mb"] * 2**20)
    name = f"peak memory of a training step, R {ROWS}, {step_memory.DATA}, N 87969, erl K 2, d {step_memory.DIM}"
    targets = {("memory", PUBLISHED, who): (15.0, 40.0) for who in memory if who.startswith("ours")}
    report(Comparison(name, memory=memory, targets=targets))


def _skip_large(large: bool, paper_scale: bool) -> None:
    if large and not paper_scale:
        pytest.skip("runs with --paper-scale")


def _compare(name: str, dataset: SequenceDataset, method: str, dim: int, report: Any) -> None:
    config = ReaRecConfig(dataset.num_items, method=method, steps=2, dim=dim, ffn=FFN[dim], alpha=1.5, warmup=0)
    for who, loss in (found := losses(dataset, config, batch_rows=128)).items():
        assert math.isclose(loss, found["ours"], rel_tol=1e-4), who
    steps, absent = training_steps(dataset, config, batch_rows=ROWS, sampled=6, precisions=PRECISIONS)
    targets = LONG if name.startswith("ml-100k") else AMAZON
    ours = [who for who in steps if who.startswith("ours")]
    report(
        compare(
            f"training step, {ROWS} rows, {name}, N {dataset.num_items}, {method} K 2, d {dim}",
            dict(steps),
            targets={(*key, who): value for who in ours for key, value in targets.items()},
            absent=absent,
            facts={"rows": ROWS, "epoch_rows": len(dataset.rows("train"))},
            seconds=5,
            least_runs=2,  # of the official algorithm, which takes seconds
            time_call=seconds_of(ROWS),
        ),
        steps["ours"],
    )
