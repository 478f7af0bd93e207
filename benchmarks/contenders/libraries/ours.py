"""rearec: `rearec.training.train` and `Recommender`, ids in and ids out."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from contenders.libraries.clock import StepClock
from contenders.libraries.contender import Contender, Epochs
from contenders.libraries.task import IntArray, Sequences, Split, Task
from rearec import ReaRec, Recommender
from rearec.data import PairBatches, SequenceDataset
from rearec.inference import Recommendation
from rearec.models.config import ReaRecConfig
from rearec.run_folder import Catalog
from rearec.training import TrainingOptions, fit_prior, train
from rearec.training.presets import preset_settings, relevant


class _Enough(Exception):
    """Ends a training."""


class _Watched(Callback):
    """Tells the watch of each epoch with rearec's own validation, which is that of the evaluator of all."""

    def __init__(self, watch: Epochs) -> None:
        self.watch = watch

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.watch.trained()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.watch.ended(trainer.callback_metrics["valid_ndcg@20"].item()):
            trainer.should_stop = True


class Ours(Contender):
    versions = ("rearec",)

    def __init__(self, task: Task, sequences: Sequences) -> None:
        self.task, self.sequences = task, sequences
        self.dataset = dataset_of(sequences)
        self.config, self.training = settings(task, sequences)
        self.run = task.folder / "run"
        self.catalog = Catalog(self.dataset.item_ids, self.dataset.train_item_counts().tolist())
        self.recommender = Recommender(ReaRec(self.config), self.catalog)

    def train(self, epochs: int, clock: StepClock, watch: Epochs | None = None) -> dict[str, Any]:
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
            options = TrainingOptions(epochs=epochs, patience=epochs, exclude_seen=True, **self.training)
            train(
                *(self.dataset, self.run, self.config, options),
                callbacks=[_Watched(watch)] if watch else [],
                logger="none",
                test=False,
                on_batch=None if watch else on_batch,
            )
        except _Enough:
            return {}
        self.recommender = Recommender(self.run)
        return {}

    def module(self) -> None:
        """`train` keeps the best weights itself."""

    def variants(self) -> dict[str, Contender]:
        """Without the graph prior and, where it makes the validation rows better, with it."""
        model = ReaRec.from_pretrained(self.run, prior=False)
        model.prior = fit_prior(model, self.dataset, exclude_seen=True)
        found: dict[str, Contender] = {"": self}
        if model.prior is not None:
            other = copy(self)
            other.recommender = Recommender(model, self.catalog)
            found[" + graph"] = other
        return found

    def request(self, users: IntArray, top: int, split: Split = "test") -> Callable[[], list[Recommendation]]:
        histories = [[self.dataset.item_ids[item] for item in self.sequences.history(user, split)] for user in users]
        return lambda: self.recommender.recommend(histories, top)

    def lists(self, answer: list[Recommendation], users: IntArray, top: int) -> IntArray:
        result = np.full((len(users), top), -1, dtype=np.int64)
        for row, one in zip(result, answer, strict=True):
            row[: len(one.items)] = [int(item) for item in one.items]
        return result


def settings(task: Task, sequences: Sequences) -> tuple[ReaRecConfig, dict[str, Any]]:
    """The model, and how to train it: with the sizes of all, or with a preset's settings."""
    sizes = task.sizes
    chosen: dict[str, Any] = {"method": "base", **task.options}
    training: dict[str, Any] = {"precision": chosen.pop("precision", "fp32")}
    if preset := chosen.pop("preset", None):
        method = chosen["method"]
        usual = preset_settings(preset, "sasrec", method)
        usual = {name: value for name, value in usual.items() if relevant(name, "sasrec", method)}
        model = {entry.name for entry in fields(ReaRecConfig)}
        training |= {name: usual[name] for name in ("batch_rows", "lr") if name in usual}
        chosen = {name: value for name, value in usual.items() if name in model} | chosen
    else:
        training |= {"batch_rows": sizes.batch_rows(sequences), "lr": sizes.lr}
        chosen = {"dim": sizes.dim, "ffn": sizes.ffn, "layers": sizes.layers, "heads": sizes.heads} | chosen
    return ReaRecConfig(sequences.num_items, max_len=sizes.max_len, **chosen), training | {"seed": sizes.seed}


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
