"""A training step (forward, backward, optimiser) by every algorithm: same weights, same rows, same loss terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from measure.compare import Contender, wall_time
from torch import Tensor

from contenders.careful_model import CarefulModel
from contenders.official import OfficialModel
from contenders.plain_model import PlainModel, padded
from rearec.data.batch import Batch
from rearec.data.batches import PairBatches
from rearec.data.dataset import SequenceDataset
from rearec.models.config import ReaRecConfig
from rearec.objectives import OBJECTIVES
from rearec.reasoning import ReaRec
from rearec.training.module import TrainingModule, TrainingOptions

Step = Callable[[], int]
"""Trains on some rows; returns how many."""

PUBLISHED, FIXED, CAREFUL = "official as published", "official, mask fixed", "careful (encode once)"


@dataclass(frozen=True)
class Rows:
    """Training batches of one epoch: what is read from `loader` at `indices`."""

    dataset: SequenceDataset
    loader: PairBatches
    indices: list[int]

    def batches(self) -> Iterable[Batch]:
        return (self.loader[index] for index in self.indices)

    def left_padded(self, index: int, max_len: int) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of a batch as the official algorithm wants them: items, lengths, target."""
        batch = self.loader[index]
        assert batch.row is not None
        pairs = np.asarray(self.dataset.rows("train"))[batch.row.numpy()]
        histories = [self.dataset.history(int(s), int(p)) for s, p in pairs]
        items, lengths = padded(histories, max_len, left=True)
        return items, lengths, batch.target


def sample(dataset: SequenceDataset, loader: PairBatches, count: int) -> Rows:
    """`count` batches of an epoch that stand for all: evenly spaced in the order of their mean history length."""
    length = [float(batch.end.float().mean()) for batch in loader]
    order = np.argsort(length, kind="stable")
    places = ((np.arange(count) + 0.5) * len(order) / count).astype(int)
    return Rows(dataset, loader, sorted({int(order[place]) for place in places}))


class Ours:
    """The module that `rearec train` trains, without the trainer around it; makes its batches within the step."""

    def __init__(
        self, model: ReaRec, dataset: SequenceDataset, options: TrainingOptions, device: torch.device | str = "cpu"
    ) -> None:
        self.device = device
        self.module = TrainingModule(model, dataset, options).to(device)
        self.module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer to log to
        self.optimizer = self.module.configure_optimizers()
        self.loader: PairBatches = self.module.train_dataloader()

    def loss(self, batch: Batch) -> Tensor:
        return self.module.training_step(batch.to(self.device), 0)

    def step(self, rows: Rows) -> int:
        count = 0
        for batch in rows.batches():
            _descend(self.loss(batch), self.optimizer)
            count += batch.num_rows
        return count


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class Plain:
    """An algorithm in plain PyTorch; the official one with Adam as it is, the careful one with the fused Adam."""

    def __init__(
        self,
        model: PlainModel,
        weights: dict[str, Tensor],
        contrastive: bool,
        device: torch.device | str = "cpu",
    ) -> None:
        model.load(weights)
        self.model, self.contrastive, self.device = model.to(device).train(), contrastive, device
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=isinstance(model, CarefulModel) or None)

    def loss(self, arguments: tuple[Tensor, ...]) -> Tensor:
        moved = (x.to(self.device) for x in arguments)
        return self.model.loss(*moved, contrastive=self.contrastive)  # type: ignore[operator]

    def step(self, arguments: Callable[[], Iterable[tuple[Tensor, ...]]]) -> int:
        count = 0
        for each in arguments():
            _descend(self.loss(each), self.optimizer)
            count += len(each[-1])
        return count


def careful_arguments(batch: Batch) -> tuple[Tensor, ...]:
    return batch.items, batch.row_prefix, batch.end, batch.target


def training_steps(
    dataset: SequenceDataset,
    config: ReaRecConfig,
    *,
    batch_rows: int,
    sampled: int,
    precisions: Iterable[str],
    device: torch.device | str = "cpu",
) -> tuple[dict[str, Step], dict[str, str]]:
    """The contenders, and those that are absent with the reason. "ours" computes in fp32. Without reasoning there is
    nothing but ours.

    precisions: of further contenders of ours.
    config: warmup must be 0, so that the contrastive term counts from the start.
    sampled: batches that one call of ours and of the careful algorithm trains on; the official algorithm, for which
        all rows are alike, trains on one batch, made beforehand.
    """
    torch.manual_seed(0)
    weights = ReaRec(config).state_dict()
    ours = make_ours(dataset, config, weights, batch_rows, "fp32", device)
    rows = sample(dataset, ours.loader, sampled)
    steps: dict[str, Step] = {"ours": partial(ours.step, rows)}
    absent: dict[str, str] = {}
    for precision in precisions:
        name = f"ours, {precision}"
        try:
            ours = make_ours(dataset, config, weights, batch_rows, precision, device)
            ours.loss(rows.loader[rows.indices[0]])  # some precisions only the kernels refuse
        except ValueError as error:
            absent[name] = str(error)
        else:
            steps[name] = partial(ours.step, rows)
    if config.method == "base":
        return steps, absent
    contrastive = OBJECTIVES[config.method].noised(config, 0)
    careful = Plain(CarefulModel(config), weights, contrastive, device)
    steps[CAREFUL] = partial(careful.step, lambda: map(careful_arguments, rows.batches()))
    middle = [rows.left_padded(rows.indices[len(rows.indices) // 2], config.max_len)]
    for name, fixed in ((PUBLISHED, False), (FIXED, True)):
        official = Plain(OfficialModel(config, mask_fixed=fixed), weights, contrastive, device)
        steps[name] = partial(official.step, lambda: middle)
    return steps, absent


def seconds_of(rows: int, clock: Callable[[Contender], float] = wall_time) -> Callable[[Contender], float]:
    """How to time a step (for `compare`): the seconds that so many rows take, by the clock that times a call."""

    def time_call(step: Contender) -> float:
        trained = 0

        def call() -> None:
            nonlocal trained
            trained = step()

        return clock(call) * rows / trained

    return time_call


def make_ours(
    dataset: SequenceDataset,
    config: ReaRecConfig,
    weights: dict[str, Tensor],
    batch_rows: int,
    precision: str,
    device: torch.device | str = "cpu",
) -> Ours:
    """Raises ValueError where the precision is not served."""
    model = ReaRec(config)
    model.load_state_dict(weights)
    return Ours(model.train(), dataset, TrainingOptions(batch_rows=batch_rows, precision=precision), device)


def losses(
    dataset: SequenceDataset,
    config: ReaRecConfig,
    batch_rows: int,
    index: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """The loss of one batch by every algorithm, without dropout and noise: these have to agree.

    Rows of one user are each other's negatives here, as the official algorithm has it.
    """
    config = replace(config, dropout=0.0, input_dropout=0.0, noise=0.0)
    torch.manual_seed(0)
    weights = ReaRec(config).state_dict()
    spread = {k: v * 10 if k.endswith("embedding.weight") else v for k, v in weights.items()}  # states that differ
    ours = make_ours(dataset, config, spread, batch_rows, "fp32", device)
    rows = Rows(dataset, ours.loader, [index])
    batch = ours.loader[index]
    found = {"ours": ours.loss(replace(batch, group=torch.arange(batch.num_rows)))}
    if config.method == "base":
        return {who: value.item() for who, value in found.items()}
    contrastive = OBJECTIVES[config.method].noised(config, 0)
    found[CAREFUL] = Plain(CarefulModel(config), spread, contrastive, device).loss(careful_arguments(batch))
    for name, fixed in ((PUBLISHED, False), (FIXED, True)):
        official: Any = Plain(OfficialModel(config, mask_fixed=fixed), spread, contrastive, device)
        found[name] = official.loss(rows.left_padded(index, config.max_len))
    return {who: value.item() for who, value in found.items()}
