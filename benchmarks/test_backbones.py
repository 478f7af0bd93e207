"""What the backbones of the paper cost, with reasoning and without: a training step, and whole inference.

Items have random features where a backbone reads them, as wide as a small sentence encoder makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import bench_data
import pytest
import torch
from contenders.training_steps import Ours, sample, seconds_of
from measure.compare import compare

from rearec import Recommender
from rearec.data.dataset import SequenceDataset
from rearec.models.config import BACKBONES, TEXT_BACKBONES, ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog
from rearec.training.module import TrainingOptions

DATA, ROWS, FEATURES = "Beauty-like", 512, 384


def _config(dataset: SequenceDataset, backbone: str, method: str) -> ReaRecConfig:
    width = FEATURES if backbone in TEXT_BACKBONES else 0
    return ReaRecConfig(dataset.num_items, backbone, method, feature_dim=width, dim=64, ffn=128, alpha=1.5, cl_weight=0)


def _model(config: ReaRecConfig) -> ReaRec:
    torch.manual_seed(0)
    return ReaRec(config, torch.randn(config.num_items, FEATURES) if config.feature_dim else None)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_step(backbone: str, report: Any) -> None:
    dataset = bench_data.synthetic(DATA)
    options = TrainingOptions(batch_rows=ROWS)
    steps: dict[str, Callable[[], int]] = {}
    for who, method, precision in (
        ("ours", "prl", "fp32"),
        ("ours, bf16", "prl", "bf16"),
        ("ours, erl", "erl", "fp32"),
        ("ours, base", "base", "fp32"),
    ):
        ours = Ours(_model(_config(dataset, backbone, method)), dataset, replace(options, precision=precision))
        steps[who] = partial(ours.step, sample(dataset, ours.loader, 3))
    name = f"training step, {ROWS} rows, {DATA}, N {dataset.num_items}, {backbone}, prl K 2, d 64"
    report(compare(name, dict(steps), seconds=4, least_runs=2, time_call=seconds_of(ROWS)), steps["ours"])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_recommend(backbone: str, report: Any) -> None:
    dataset = bench_data.synthetic(DATA)
    catalog = Catalog(dataset.item_ids, dataset.train_item_counts().tolist())
    recommender = Recommender(_model(_config(dataset, backbone, "prl")).eval(), catalog)
    histories = [[dataset.item_ids[item] for item in one] for one in bench_data.histories(dataset, 64)]
    contenders = {
        "ours": lambda: recommender.recommend(histories, 20),
        "ours, K 0": lambda: recommender.recommend(histories, 20, steps=0),
    }
    name = f"recommend top-20, R 64, {DATA}, N {dataset.num_items}, {backbone}, K 2, d 64"
    report(compare(name, contenders, facts={"rows": 64}, seconds=2, least_runs=5), contenders["ours"])
