"""The best recipe of SASRec that each library documents, as far as its public classes take it.

How long to train is no part of a recipe here: all train under one patience and one budget. What their documents say of
it stands in `documented`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """documented: where, and what it says of the training's length. sizes: what differs from `Sizes`. options: of the
    contender's module."""

    documented: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


# One line of a table for S3-Rec's Beauty, Sports and Toys, and 256 negatives for all of its data.
RECTOOLS = Recipe(
    "eSASRec (RecSys 2025, by RecTools' authors), github.com/blondered/transformer_benchmark, README: hyperparameters "
    "of SASRec with sampled softmax for Beauty, Sports and Toys, 256 negatives, batches of RecTools' default; to 200 "
    "epochs, patience 50 by Recall@10",
    {"dim": 64, "layers": 1, "heads": 1, "max_len": 50, "lr": 1e-3, "users": 128},
    {"loss": "sampled_softmax", "n_negatives": 256, "dropout_rate": 0.2},
)
REPLAY = Recipe(
    "RePlay's repository, examples/09_sasrec_example.ipynb: cross-entropy over the catalogue; 5 epochs, the best by "
    "Recall@10",
    {"dim": 64, "layers": 2, "heads": 2, "max_len": 50, "users": 32},
    {"dropout": 0.3},
)
RECBOLE = Recipe(
    "RecBole's repository, recbole/properties/model/SASRec.yaml and overall.yaml: cross-entropy over the catalogue, "
    "dropouts .5; up to 300 epochs, patience 10 by MRR@10",
    {"dim": 64, "layers": 2, "heads": 2, "ffn": 256, "max_len": 50, "lr": 1e-3},
    {"train_batch_size": 2048},
)
OURS = Recipe(
    "rearec's docs/research/settings.md: --preset best; 30 epochs, patience 6 by NDCG@20", {}, {"preset": "best"}
)
