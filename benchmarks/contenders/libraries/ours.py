"""rearec: `rearec.training.train` and `Recommender`, ids in and ids out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from contenders.libraries.clock import StepClock
from contenders.libraries.contender import Contender
from contenders.libraries.task import IntArray, Sequences, Task
from rearec import ReaRec, Recommender
from rearec.data import PairBatches, SequenceDataset
from rearec.inference import Recommendation
from rearec.models.config import ReaRecConfig
from rearec.run_folder import Catalog
from rearec.training import TrainingOptions, train


class _Enough(Exception):
    """Ends a training."""


class Ours:
    versions = ("rearec",)

    def __init__(self, task: Task, sequences: Sequences) -> None:
        self.task, self.sequences = task, sequences
        self.dataset = dataset_of(sequences)
        sizes = task.sizes
        self.config = model_config(task, sequences)
        self.training: dict[str, Any] = {
            "batch_rows": sizes.batch_rows(sequences),
            "lr": sizes.lr,
            "precision": task.options.get("precision", "fp32"),
            "seed": sizes.seed,
        }
        self.run = task.folder / "run"
        self.catalog = Catalog(self.dataset.item_ids, self.dataset.train_item_counts().tolist())
        self.recommender = Recommender(ReaRec(self.config), self.catalog)

    def train(self, epochs: int, clock: StepClock) -> dict[str, Any]:
        batches = PairBatches(
            *(self.dataset, "train"),
            batch_rows=self.training["batch_rows"],
            max_len=self.config.max_len,
            shuffle=True,
            seed=self.training["seed"],
        )

        @cache
        def targets(epoch: int) -> list[int]:
            batches.set_epoch(epoch - 1)
            return [batch.num_rows for batch in batches]

        def on_batch(epoch: int, done: int, total: int) -> None:
            if done == total:
                clock.pause()
                targets(epoch + 1)
            elif clock.step(targets(epoch)[done]):
                raise _Enough

        targets(1)
        try:
            options = TrainingOptions(epochs=epochs, patience=epochs, **self.training)
            result = train(self.dataset, self.run, self.config, options, on_batch=on_batch)
        except _Enough:
            return {}
        self.recommender = Recommender(self.run)
        return {"best_epoch": result["best_epoch"]}

    def request(self, users: IntArray, top: int) -> Callable[[], list[Recommendation]]:
        histories = [[self.dataset.item_ids[item] for item in self.sequences.history(user)] for user in users]
        return lambda: self.recommender.recommend(histories, top)

    def lists(self, answer: list[Recommendation], users: IntArray, top: int) -> IntArray:
        result = np.full((len(users), top), -1, dtype=np.int64)
        for row, one in zip(result, answer, strict=True):
            row[: len(one.items)] = [int(item) for item in one.items]
        return result


def model_config(task: Task, sequences: Sequences) -> ReaRecConfig:
    sizes = task.sizes
    chosen = {name: value for name, value in task.options.items() if name != "precision"}
    return ReaRecConfig(
        sequences.num_items,
        **{"method": "base", "dim": sizes.dim, "ffn": sizes.ffn, "layers": sizes.layers} | chosen,
        heads=sizes.heads,
        max_len=sizes.max_len,
    )


def dataset_of(sequences: Sequences) -> SequenceDataset:
    """The same rows as `rearec prepare` makes with --split leave-one-out."""
    length = np.diff(sequences.offsets)
    user = np.arange(sequences.num_users)
    before = np.repeat(sequences.offsets[:-1], length)
    rows = np.stack([np.repeat(user, length), np.arange(len(sequences.items)) - before], 1).astype(np.int32)
    left = np.repeat(length, length) - rows[:, 1]
    split_rows = {"train": rows[(rows[:, 1] > 0) & (left > 2)], "valid": rows[left == 2], "test": rows[left == 1]}
    return SequenceDataset(
        items=sequences.items.astype(np.int32),
        offsets=sequences.offsets,
        sequence_user=user.astype(np.int32),
        split_rows=split_rows,  # type: ignore[arg-type]
        item_ids=[str(item) for item in range(sequences.num_items)],
        user_ids=[str(one) for one in user],
        statistics={},
    )


def make(task: Task, sequences: Sequences) -> Contender:
    torch.manual_seed(task.sizes.seed)
    return Ours(task, sequences)
