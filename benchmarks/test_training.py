"""A training step (forward, backward, optimiser) of SASRec with K = 2: the official algorithm, as published and with
its mask fixed, plain PyTorch that encodes every window once, and what `rearec train` runs, eagerly.

Times are of 512 rows. The official algorithm takes the same time for all rows; ours and the careful one, whose time
depends on the lengths, are measured on batches that stand for a whole epoch. Ours makes its batches meanwhile.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_data
import pytest
from contenders.training_steps import FIXED, PUBLISHED, losses, seconds_of, training_steps
from measure import memory
from measure.compare import Comparison, Target
from measure.contest import Contest

from rearec.data import SequenceDataset
from rearec.models.config import ReaRecConfig

ROWS = 512
FFN = {64: 128, 256: 300}
TINY = {"dim": 16, "ffn": 20, "max_len": 8}
PRECISIONS = {"cpu": ("bf16", "bf16x3"), "cuda": ("bf16",)}


@dataclass(frozen=True)
class Case:
    """data: a shape of `bench_data`, or the name of a real set; targets: of ours in every precision."""

    device: str
    data: str
    method: str
    dim: int
    targets: Sequence[Target] = ()
    large: bool = False

    @property
    def real(self) -> bool:
        return self.data in bench_data.REAL


AMAZON = [Target(PUBLISHED, 12.0, 30.0), Target(FIXED, 7.0, 16.0)]
LONG = [Target(PUBLISHED, 5.0, 12.0), Target(FIXED, 3.0, 7.0)]
CASES = [
    Case("cpu", "Beauty-like", "prl", 64, AMAZON),
    Case("cpu", "Beauty-like", "prl", 256, AMAZON, large=True),
    Case("cpu", "Beauty-like", "erl", 64, AMAZON),
    Case("cpu", "Video-Games-like", "prl", 64, AMAZON, large=True),
    Case("cpu", "Video-Games-like", "prl", 256, AMAZON),
    Case("cpu", "Video-Games-like", "erl", 256, AMAZON, large=True),
    Case("cpu", "ml-100k-like", "prl", 64, LONG),
    Case("cpu", "ml-100k-like", "prl", 256, LONG, large=True),
    Case("cpu", "ml-100k-like", "erl", 64, LONG, large=True),
    Case("cpu", "Beauty 2014", "prl", 64, AMAZON),
    Case("cpu", "Beauty 2014", "prl", 256, AMAZON, large=True),
    Case("cpu", "ml-100k", "prl", 64, LONG),
    *(Case("cuda", "Video-Games-like", method, dim) for dim in (256, 64) for method in ("prl", "base")),
    Case("cuda", "Video-Games-like", "erl", 256),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.device}, {case.data}, {case.method}, d {case.dim}")
def test_step(case: Case, contest: Contest, paper_scale: bool, tmp_path: Path) -> None:
    dataset = _dataset(case, contest, paper_scale, tmp_path)
    device, steps = contest.device, 0 if case.method == "base" else 2
    rows, sizes = (16, TINY) if contest.tiny else (ROWS, {"dim": case.dim, "ffn": FFN[case.dim]})
    config = ReaRecConfig(dataset.num_items, method=case.method, steps=steps, alpha=1.5, warmup=0, **sizes)
    found = losses(dataset, config, batch_rows=min(rows, 128), device=device)
    failed = {
        who: f"its loss is {loss:.6g}, ours {found['ours']:.6g}"
        for who, loss in found.items()
        if not math.isclose(loss, found["ours"], rel_tol=1e-4)
    }
    calls, absent = training_steps(
        dataset, config, batch_rows=rows, sampled=6, precisions=PRECISIONS[case.device], device=device
    )
    ours = [who for who in calls if who.startswith("ours")]
    name = f"{case.data}{' (real)' if case.real else ''}, N {dataset.num_items}"
    contest(
        f"training step, {rows} rows, {name}, {case.method}{f' K {steps}' if steps else ''}, d {case.dim}",
        {who: [call] for who, call in calls.items() if who not in failed},
        bound=0.0,
        compared=lambda rows: [],  # it is the losses that agree
        targets=[target._replace(of=who) for who in ours for target in case.targets],
        absent=absent,
        failed=failed,
        facts={"rows": rows, "epoch_rows": len(dataset.rows("train"))},
        seconds=5,
        least_runs=2,  # of the official algorithm, which takes seconds
        time_call=seconds_of(rows, contest.clock.call_seconds),
    )


def test_memory(threads: int, report: Any) -> None:
    """Of one step with ERL over a large catalogue; every contender in a process of its own."""
    found: dict[str, int] = {}
    for who in memory.WHO:
        command = [sys.executable, "-m", "measure.memory", who, f"--threads={threads}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
        found[who] = round(json.loads(done.stdout)["step_mb"] * 2**20)
    name = f"peak memory of a training step, R {ROWS}, {memory.DATA}, N 87969, erl K 2, d {memory.DIM}"
    targets = [Target(PUBLISHED, 15.0, 40.0, kind="memory", of=who) for who in found if who.startswith("ours")]
    report(Comparison(name, memory=found, targets=targets))


def _dataset(case: Case, contest: Contest, paper_scale: bool, folder: Path) -> SequenceDataset:
    if contest.tiny:
        return bench_data.synthetic(case.data, tiny=True)
    if case.large and not paper_scale:
        pytest.skip("runs with --paper-scale")
    if not case.real:
        return bench_data.synthetic(case.data)
    dataset = bench_data.real(case.data, folder / "data")
    if dataset is None:
        pytest.skip(f"no real data: {bench_data.REAL_DATA} has no {bench_data.REAL[case.data][1]}")
    return dataset
