"""How time and memory grow with N, R, T, K and the length of histories: small sizes, for the report's plots."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from contenders import careful, naive
from contenders.loss_inputs import KL_WEIGHT, TEMPERATURE, Inputs, Shape
from contenders.training_steps import FIXED, PUBLISHED, seconds_of, training_steps
from measure.compare import Comparison, compare
from test_inference import Problem as Inference
from torch import Tensor

from rearec.data.synthetic import paper_shaped
from rearec.models.config import ReaRecConfig
from rearec_kernels import annealed_cross_entropy, ensemble_reasoning_loss

BRIEF = {"seconds": 0.5, "least_runs": 3}
WIDTH = 256


def _point(scan: str, axis: str, value: int, contenders: dict[str, Callable[[], Any]], **options: Any) -> Comparison:
    facts = {"scan": scan, "axis": axis, "value": value}
    return compare(f"{scan}: {axis} {value}", contenders, facts=facts, **BRIEF, **options)


def _losses(kind: str, *sizes: int) -> dict[str, Callable[[], Any]]:
    """Loss and gradients."""
    p = Inputs(Shape(*sizes))
    tables = (p.hidden, p.table, p.target)

    def ours(precision: str) -> Tensor:
        if kind == "ensemble loss":
            options = {"temperature": TEMPERATURE, "kl_weight": KL_WEIGHT}
            return ensemble_reasoning_loss(*tables, **options, precision=precision).loss
        options = {"temperature": p.host_temperature, "step_weight": p.host_step_weight}
        return annealed_cross_entropy(*tables, **options, precision=precision)

    def plain(losses: Any) -> Tensor:
        if kind == "ensemble loss":
            return losses.ensemble_loss(*tables, TEMPERATURE, KL_WEIGHT)
        return losses.annealed_cross_entropy(*p.arguments)

    calls = {
        "ours": partial(ours, "fp32"),
        "ours, bf16": partial(ours, "bf16"),
        "naive": partial(plain, naive),
        "careful": partial(plain, careful),
    }
    return {who: p.gradients(call) for who, call in calls.items()}


@pytest.mark.parametrize("items", [1_000, 4_000, 16_000, 48_000])
@pytest.mark.parametrize("kind", ["annealed cross-entropy", "ensemble loss"])
def test_items(kind: str, items: int, report: Any) -> None:
    contenders = _losses(kind, 128, items)
    report(_point(f"{kind}, R 128, T 3, d {WIDTH}", "N (items)", items, contenders), contenders["ours"])


@pytest.mark.parametrize("rows", [32, 128, 512, 1024])
@pytest.mark.parametrize("kind", ["annealed cross-entropy", "ensemble loss"])
def test_rows(kind: str, rows: int, report: Any) -> None:
    contenders = _losses(kind, rows, 8_000)
    report(_point(f"{kind}, N 8000, T 3, d {WIDTH}", "R (rows)", rows, contenders), contenders["ours"])


@pytest.mark.parametrize("states", [2, 3, 4, 6])
@pytest.mark.parametrize("kind", ["annealed cross-entropy", "ensemble loss"])
def test_states(kind: str, states: int, report: Any) -> None:
    contenders = _losses(kind, 128, 8_000, states)
    report(_point(f"{kind}, R 128, N 8000, d {WIDTH}", "T (states)", states, contenders), contenders["ours"])


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_steps(steps: int, report: Any) -> None:
    p = Inference("Beauty-like", 64, steps)
    contenders = {
        "ours": p.ours,
        PUBLISHED: p.official(mask_fixed=False),
        FIXED: p.official(mask_fixed=True),
        "careful": p.careful(),
    }
    report(_point(f"recommend top-20, R 64, N {p.items}", "K (steps)", steps, contenders), p.ours)


@pytest.mark.parametrize("length", [5, 10, 20, 50])
def test_history_length(length: int, report: Any) -> None:
    dataset = paper_shaped(6_000, 5_000, length + 2.0)  # of which two are targets of validation and test
    config = ReaRecConfig(dataset.num_items, method="prl", steps=2, dim=64, ffn=128, alpha=1.5, warmup=0)
    steps, _ = training_steps(dataset, config, batch_rows=128, sampled=3, precisions=("bf16",))
    scan, axis = "training step, 128 rows, prl K 2, N 5000, d 64", "mean history length (items)"
    contenders = dict(steps)
    report(_point(scan, axis, length, contenders, time_call=seconds_of(128)), contenders["ours"])
