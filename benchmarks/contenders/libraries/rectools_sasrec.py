"""RecTools' `SASRecModel`, with the softmax loss unless a recipe has another: DataFrames in and out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from contenders.libraries.clock import StepClock
from contenders.libraries.contender import Contender, Epochs, lists_of
from contenders.libraries.task import IntArray, Sequences, Split, Task


class _Tick(lightning.Callback):
    """Tells the clock of each step; the library copies its trainer, callbacks and all, and the clock stays one."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if self.clock.step(int((batch["y"] != 0).sum())):
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.clock.pause()


class RecToolsSASRec(Contender):
    versions = ("rectools", "pytorch-lightning", "pandas")

    def __init__(self, task: Task, sequences: Sequences) -> None:
        self.task, self.sequences = task, sequences
        self.model: SASRecModel | None = None
        self.data = Dataset.construct(self._frame(range(sequences.num_users), sequences.training))

    def _frame(self, users: Any, items_of: Callable[[int], IntArray]) -> pd.DataFrame:
        parts = [items_of(user) for user in users]
        lengths = [len(part) for part in parts]
        return pd.DataFrame(
            {
                Columns.User: np.repeat(np.asarray(users), lengths),
                Columns.Item: np.concatenate(parts),
                Columns.Weight: 1.0,
                Columns.Datetime: pd.to_datetime(np.concatenate([np.arange(length) for length in lengths]), unit="D"),
            }
        )

    def train(self, epochs: int, clock: StepClock, watch: Epochs | None = None) -> dict[str, Any]:
        sizes = self.task.sizes

        def trainer() -> lightning.Trainer:
            return lightning.Trainer(
                max_epochs=epochs,
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                callbacks=[_Tick(clock)],
            )

        self.model = SASRecModel(
            n_factors=sizes.dim,
            n_blocks=sizes.layers,
            n_heads=sizes.heads,
            session_max_len=sizes.max_len,
            lr=sizes.lr,
            batch_size=sizes.batch_users(self.sequences),
            recommend_torch_device="cpu",
            get_trainer_func=trainer,
            **{"loss": "softmax"} | self.task.options,
        )
        if watch is None:
            self.model.fit(self.data)
            return {}
        for _ in range(epochs):
            self.model.fit_partial(self.data, min_epochs=1, max_epochs=1)  # with the optimiser's state of the last one
            if watch.ended():
                break
        return {}

    def module(self) -> Any:
        assert self.model is not None
        return self.model.torch_model

    def request(self, users: IntArray, top: int, split: Split = "test") -> Callable[[], pd.DataFrame]:
        assert self.model is not None
        history = partial(self.sequences.history, split=split)
        model, frame, ids = self.model, self._frame(users, history), users.tolist()
        # Those of a batch may be a Dataset already; the one user who has just done something is not.
        ready = Dataset.construct(frame) if len(users) > 1 else None

        def answer() -> pd.DataFrame:
            return model.recommend(ids, ready or Dataset.construct(frame), k=top, filter_viewed=False)

        return answer

    def lists(self, answer: pd.DataFrame, users: IntArray, top: int) -> IntArray:
        ordered = answer.sort_values([Columns.User, Columns.Rank])
        return lists_of(ordered[Columns.User].tolist(), ordered[Columns.Item].tolist(), users, top)


def make(task: Task, sequences: Sequences) -> Contender:
    lightning.seed_everything(task.sizes.seed, verbose=False)
    return RecToolsSASRec(task, sequences)
