"""The best plain PyTorch we could write for the same model (`careful_model.py`), on the batches of rearec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contenders import careful
from contenders.careful_model import CarefulModel
from contenders.libraries.clock import StepClock
from contenders.libraries.contender import Contender, Epochs
from contenders.libraries.ours import dataset_of, settings
from contenders.libraries.task import IntArray, Sequences, Split, Task
from contenders.plain_model import padded
from contenders.training_steps import Plain, careful_arguments
from rearec.data import PairBatches
from rearec.reasoning import ReaRec

BATCH = 256


class PlainPyTorch(Contender):
    versions = ("rearec",)

    def __init__(self, task: Task, sequences: Sequences) -> None:
        self.sequences = sequences
        config, _ = settings(task, sequences)
        weights = ReaRec(config).state_dict()
        self.model = CarefulModel(config)
        self.plain = Plain(self.model, weights, contrastive=False)
        self.batches = PairBatches(
            *(dataset_of(sequences), "train"),
            batch_rows=task.sizes.batch_rows(sequences),
            max_len=config.max_len,
            shuffle=True,
            seed=task.sizes.seed,
        )

    def train(self, epochs: int, clock: StepClock, watch: Epochs | None = None) -> dict[str, Any]:
        for epoch in range(epochs):
            self.model.train()
            self.batches.set_epoch(epoch)
            batches = iter(self.batches)
            for batch in batches:
                if clock.step(batch.num_rows):
                    return {}
                self.plain.step(lambda batch=batch: [careful_arguments(batch)])  # type: ignore[misc]
            clock.pause()
            if watch and watch.ended():
                break
        return {}

    def module(self) -> CarefulModel:
        return self.model

    def request(self, users: IntArray, top: int, split: Split = "test") -> Callable[[], list[Tensor]]:
        histories = sorted(([*map(int, self.sequences.history(user, split))] for user in users), key=len)
        self.model.eval()
        scores = careful.PreallocatedScores(BATCH, self.sequences.num_items)

        @torch.no_grad()
        def answer() -> list[Tensor]:
            found = []
            for first in range(0, len(histories), BATCH):
                items, lengths = padded(histories[first : first + BATCH], self.model.config.max_len, left=False)
                room = scores if len(items) == BATCH else careful.PreallocatedScores(len(items), scores.scores.shape[1])
                found.append(room.topk(self.model.final_states(items, lengths), self.model.weight, top)[1])
            return found

        return answer

    def lists(self, answer: list[Tensor], users: IntArray, top: int) -> IntArray:
        order = sorted(range(len(users)), key=lambda row: len(self.sequences.history(users[row])))
        result = np.empty((len(users), top), dtype=np.int64)
        result[order] = torch.cat(answer).numpy()
        return result


def make(task: Task, sequences: Sequences) -> Contender:
    torch.manual_seed(task.sizes.seed)
    return PlainPyTorch(task, sequences)
