"""RecBole's `SASRec` with the CE loss: an atomic file in, `full_sort_topk` out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed
from recbole.utils.case_study import full_sort_topk

from contenders.libraries.clock import StepClock
from contenders.libraries.contender import Contender, Epochs
from contenders.libraries.task import IntArray, Sequences, Split, Task

NAME = "sequences"
ANSWERED = 256  # users of a call, as in the other libraries


class _Enough(Exception):
    """Ends a training."""


class _Timed(SASRec):
    """The library's model, which tells the clock of each batch that it is handed."""

    clock: StepClock

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        if self.clock.step(len(interaction)):
            raise _Enough
        return super().calculate_loss(interaction)


class _Watched(Trainer):
    """The library's trainer, which tells the watch of each epoch."""

    watch: Epochs | None = None

    def _train_epoch(self, *arguments: Any, **named: Any) -> Any:
        loss = super()._train_epoch(*arguments, **named)
        self.model.clock.pause()
        if self.watch and self.watch.ended():
            raise _Enough
        return loss


class RecBoleSASRec(Contender):
    versions = ("recbole", "pandas", "scipy")

    def __init__(self, task: Task, sequences: Sequences) -> None:
        self.task = task
        self._write(sequences)
        sizes = task.sizes
        self.settings = {
            "data_path": str(task.folder),
            "checkpoint_dir": str(task.folder / "saved"),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "group_by": "user",
                "order": "TO",
                "mode": {"valid": "full", "test": "full"},
            },
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "use_gpu": False,
            "hidden_size": sizes.dim,
            "n_layers": sizes.layers,
            "n_heads": sizes.heads,
            "inner_size": sizes.ffn,
            "MAX_ITEM_LIST_LENGTH": sizes.max_len,
            "learning_rate": sizes.lr,
            "train_batch_size": sizes.batch_rows(sequences),
            "seed": sizes.seed,
            "show_progress": False,
            "state": "ERROR",
            **task.options,
        }
        config = self._config(1)
        init_seed(sizes.seed, reproducibility=False)
        self.dataset = create_dataset(config)
        self.train_data, self.valid_data, self.test_data = data_preparation(config, self.dataset)
        self.model = _Timed(config, self.train_data.dataset)

    def _write(self, sequences: Sequences) -> None:
        folder = self.task.folder / NAME
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{NAME}.inter").open("w") as file:
            file.write("user_id:token\titem_id:token\ttimestamp:float\n")
            for user in range(sequences.num_users):
                items = sequences.items[sequences.offsets[user] : sequences.offsets[user + 1]]
                file.writelines(f"{user}\t{item}\t{time}\n" for time, item in enumerate(items))

    def _config(self, epochs: int) -> Config:
        return Config(model=SASRec, dataset=NAME, config_dict=self.settings | {"epochs": epochs})

    def train(self, epochs: int, clock: StepClock, watch: Epochs | None = None) -> dict[str, Any]:
        self.model.clock = clock
        trainer = _Watched(self._config(epochs), self.model)
        trainer.watch = watch
        with contextlib.suppress(_Enough):
            trainer.fit(self.train_data, saved=False, show_progress=False)
        clock.pause()
        return {}

    def module(self) -> SASRec:
        return self.model

    def request(self, users: IntArray, top: int, split: Split = "test") -> Callable[[], list[torch.Tensor]]:
        # It answers users of its test data alone, a history that it does not hold not at all.
        ids = self.dataset.token2id(self.dataset.uid_field, [str(user) for user in users])
        data = self.test_data if split == "test" else self.valid_data

        def answer() -> list[torch.Tensor]:
            parts = (ids[first : first + ANSWERED] for first in range(0, len(ids), ANSWERED))
            return [full_sort_topk(part, self.model, data, k=top)[1] for part in parts]

        return answer

    def lists(self, answer: list[torch.Tensor], users: IntArray, top: int) -> IntArray:
        tokens = self.dataset.id2token(self.dataset.iid_field, torch.cat(answer).numpy())
        return np.where(tokens == "[PAD]", "-1", tokens).astype(np.int64)


def make(task: Task, sequences: Sequences) -> Contender:
    return RecBoleSASRec(task, sequences)
