"""The LightningModule of ReaRec: objective, batches, optimiser and validation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rearec.data.batch import Batch
from rearec.data.batches import PairBatches
from rearec.data.cloze import ClozeBatches
from rearec.data.dataset import SequenceDataset
from rearec.data.window_batches import WindowBatches
from rearec.distributed import (
    FewRows,
    Processes,
    SharedBatches,
    collected,
    dealt,
    few_rows,
    gather_rows,
    mean_of_all,
    summed,
)
from rearec.errors import UserError
from rearec.evaluation import BatchRanker, evaluation_batches, seen_items
from rearec.evaluation.metrics import METRICS, rank_metrics
from rearec.evaluation.popularity import popularity_ranks
from rearec.evaluation.seen import RowHistories
from rearec.models.config import ReaRecConfig
from rearec.models.methods import TRAITS
from rearec.objectives import Objective, load_objective
from rearec.reasoning import ReaRec, Rollout
from rearec.training.candidates import CandidateSampler
from rearec.training.options import TrainingOptions
from rearec.training.split_table import SplitTable, clip_gradients
from rearec.training.teacher import GraphTeacher

__all__ = ["TrainingModule", "learning_rate_factor"]

# Share of the learning rate that parameters take part with which come trained already.
PRETRAINED_LR = 0.05
# What attention, norms and activations of a layer take for a token: the time of so many products, per number of it.
_BESIDE_PRODUCTS = 800


class TrainingModule(LightningModule):
    """A ReaRec model with its objective, batches, optimiser and validation, as Lightning wants them.

    Args:
        model: is trained in place.
        dataset: whose training rows it is trained on, and whose validation rows, if any, choose the best epoch.
        options: how.
        objective: by what; None: the one that the model's configuration names.

    Attributes:
        split_table: the item table where several processes hold it, this one some of its rows; None where it has all.

    Where Lightning's DDP strategy runs several processes, each trains on its share of every batch (`SharedBatches`):
    together they take the steps that one process would.

    Raises:
        UserError: a trainer of several processes has another strategy than DDP, or a model that does not hold its item
            table as ``shard_catalog`` says; or ``negatives`` are asked for beside an objective of one's own.

    Examples:
        >>> import rearec
        >>> from lightning.pytorch import Trainer
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.models import ReaRecConfig
        >>> from rearec.training import TrainingModule, TrainingOptions
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> model = rearec.ReaRec(ReaRecConfig(dataset.num_items, method="prl", dim=8, max_len=20))
        >>> module = TrainingModule(model, dataset, TrainingOptions(batch_rows=256))
        >>> quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        >>> trainer = Trainer(fast_dev_run=True, accelerator="cpu", **quiet)
        >>> trainer.fit(module)
        >>> sorted(trainer.callback_metrics)[:2]
        ['train_contrastive', 'train_cross_entropy']
    """

    def __init__(
        self, model: ReaRec, dataset: SequenceDataset, options: TrainingOptions, objective: Objective | None = None
    ) -> None:
        super().__init__()
        self._objective = objective or load_objective(model.config)
        self._terms: set[str] | None = None
        self.model = model
        self.options = options
        self._teacher = (
            GraphTeacher(dataset, model.config.teacher_neighbors) if model.config.teacher == "graph" else None
        )
        self._candidates = _candidates(model.config, options)
        self.split_table = SplitTable.of(self, self._parameter_groups())
        self._train_batches = _training_batches(model, dataset, options)
        self._validates = len(dataset.rows("valid")) > 0
        if self._validates:
            self._valid_batches = evaluation_batches(model, dataset, "valid", options.batch_rows)
            exclude = seen_items(dataset, options.exclude_seen).exclude
            self._seen = RowHistories(dataset, "valid") if exclude else None
            empty = self._valid_batches.empty_history_rows
            self._empty_history_ranks = popularity_ranks(dataset.train_item_counts(), dataset.targets("valid", empty))
        self._valid_ranks: list[np.ndarray] = []
        self._processes = Processes()
        self._ranker: BatchRanker | None = None

    def setup(self, stage: str) -> None:
        """Take this process's shares of the batches; refuse what would look distributed and be none."""
        if self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, DDPStrategy):
            name = type(self.trainer.strategy).__name__
            raise UserError(f"the trainer has {self.trainer.world_size} processes and {name}, expected DDPStrategy")
        self._processes = Processes(self.trainer.global_rank, self.trainer.world_size)
        if self.options.shard_catalog and self._processes.size > 1 and self.split_table is None:
            raise UserError(
                "shard_catalog: the model has the whole table; rearec.training.train makes one that has not"
            )
        if self.split_table is not None:
            # its gradients come complete from the processes that have the rows' states
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, [self.split_table.name])

    def train_dataloader(self) -> WindowBatches | SharedBatches:
        """The batches of the current epoch, or this process's shares; Lightning asks again for each epoch."""
        self._train_batches.set_epoch(self.current_epoch)
        if self._processes.size == 1:
            return self._train_batches
        return SharedBatches(self._train_batches, self._processes, slot_work(self.model.config))

    def val_dataloader(self) -> Iterable[Batch | None]:
        """The validation rows; of several processes each has some of the batches, None where none is left."""
        if not self._validates:
            return []
        return self._valid_batches if self._processes.size == 1 else dealt(self._valid_batches, self._processes)

    def on_train_start(self) -> None:
        """Of several processes: where the loss reads a sample of the items, send the rows that it touches."""
        table = self.model.backbone.item_table() if self._candidates is not None else None
        ddp = self.trainer.strategy.model
        if isinstance(table, nn.Parameter) and isinstance(ddp, DistributedDataParallel):
            ddp.register_comm_hook(FewRows(table), few_rows)

    def on_train_epoch_start(self) -> None:
        """Tie dropout and noise to (seed, epoch)."""
        state = np.random.SeedSequence((self.options.seed, self.current_epoch)).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what training does not change; the dataset has it."""
        for name in self.model.frozen_state():
            del checkpoint["state_dict"][f"model.{name}"]
        if self.split_table is not None:
            self.split_table.take_out(checkpoint, self.current_epoch + 1)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put back what `on_save_checkpoint` left out."""
        checkpoint["state_dict"] |= {f"model.{name}": value for name, value in self.model.frozen_state().items()}
        if self.split_table is not None:
            self.split_table.take_own_rows(checkpoint)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch; every term is logged as the epoch's mean over rows."""
        config = self.model.config
        noised = self._objective.noised(config, self.current_epoch)
        rollout = self.model(batch, noise=config.noise if noised else 0.0, return_noised=noised)
        if self._teacher is not None:
            rollout = replace(rollout, neighbors=self._teacher(batch))
        if batch.part is not None and self.options.contrast == "all":
            rollout = replace(rollout, gather=gather_rows)
        share = 1.0 if batch.part is None else batch.part.counted / batch.part.rows.of
        if self.split_table is not None:
            rollout = self._of_split_table(rollout, share)
        target = batch.target
        if self._candidates is not None:
            rollout, target = self._candidates(rollout, target, epoch=self.current_epoch, step=batch_idx)
        terms = self._objective.terms(config, rollout, target, batch.group, precision=self.options.precision)
        if self._terms not in (None, set(terms)):
            got, before = (", ".join(sorted(names)) for names in (terms, self._terms or ()))
            raise UserError(f"method {config.method}: its loss returned the terms {got}, but {before} before")
        self._terms = set(terms)
        if batch.part is not None and self.split_table is None:
            # of the rows of all processes: DDP takes the mean over processes, of gradients, and Lightning at the end of
            # the epoch of what is logged, where a sum belongs
            terms = {name: value * (share * self._processes.size) for name, value in terms.items()}
        logged = {f"train_{name}": value.detach() for name, value in terms.items()}
        rows = batch.num_rows if batch.part is None else batch.part.rows.of
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=rows, sync_dist=batch.part is not None)
        return terms["loss"]

    def _of_split_table(self, rollout: Rollout, share: float) -> Rollout:
        """The rollout whose losses are those of the rows of all processes, the same on every one of them.

        share: of all rows, how many are this process's.
        """

        def as_sum(gradient: Tensor) -> Tensor:
            return gradient * self._processes.size  # DDP takes the mean over processes, where a sum belongs

        for states in (rollout.states, rollout.noised):
            if states is not None and states.requires_grad:
                states.register_hook(as_sum)
        return replace(rollout, of_all=partial(mean_of_all, share=share))

    def on_validation_epoch_start(self) -> None:
        """Take the model as the epoch left it, for all validation batches."""
        self._ranker = BatchRanker(self.model, seen=self._seen)
        self._valid_ranks = []

    def validation_step(self, batch: Batch | None, batch_idx: int) -> None:
        """Ranks of one batch, in float32 whatever the training precision, as `evaluate` computes them."""
        assert self._ranker is not None
        if batch is None and not self._ranker.is_collective:
            return
        with torch.autocast(self.device.type, enabled=False):
            # a process that has none left ranks the first once more for the sake of the others, and forgets it
            ranks = self._ranker.final(self._valid_batches[0] if batch is None else batch)
        if batch is not None:
            self._valid_ranks.append(ranks)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, in float64."""
        self._ranker = None
        of_batches = collected(self._valid_ranks, self._processes)
        metrics = rank_metrics(np.concatenate([self._empty_history_ranks, *of_batches]))
        self.log_dict({f"valid_{name}": torch.tensor(metrics[name], dtype=torch.float64) for name in METRICS})

    def on_train_epoch_end(self) -> None:
        """A loss, a score or a weight that is no finite number ends the training, before the epoch is saved."""
        values = self.trainer.callback_metrics
        where = f"in epoch {self.current_epoch + 1}: try a lower --lr or --clip"
        if not torch.isfinite(values["train_loss"]):
            raise UserError(f"the training loss is {values['train_loss'].item()} {where}")
        # both ends are NaN where any number is; no copy of the item table is made
        finite = all(bool(torch.stack(x.detach().aminmax()).isfinite().all()) for x in self.parameters() if x.numel())
        if self.split_table is not None:  # all processes end, or none
            finite = not summed(torch.tensor(float(not finite), device=self.device))
        if not finite or not torch.isfinite(values.get("valid_mrr", torch.zeros(()))):
            raise UserError(f"the model's {'scores' if finite else 'weights'} are no longer finite {where}")

    def configure_optimizers(self) -> Any:
        """Adam, and the schedule where one is wanted."""
        options = self.options
        # fused: one pass over the item table, which is most of the parameters
        optimizer = torch.optim.Adam(
            self._parameter_groups(), lr=options.lr, weight_decay=options.weight_decay, fused=True
        )
        if options.schedule == "constant" and options.lr_warmup == 0:
            return optimizer
        total = options.epochs * len(self._train_batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(options, step, total)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters in the order of the optimiser's state, with the learning rates that differ from the usual."""
        pretrained = self.model.backbone.pretrained_parameters()
        known = set(map(id, pretrained))
        groups: list[dict[str, Any]] = [{"params": [x for x in self.parameters() if id(x) not in known]}]
        if pretrained:
            groups.append({"params": pretrained, "lr": self.options.encoder_lr or self.options.lr * PRETRAINED_LR})
        return groups

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """A step, behind which the gradients are dropped: the next loss computes new ones before these would be."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clip by the norm; Lightning's own way refuses a fused optimiser under autocast."""
        if self.options.clip:
            clip_gradients(self.parameters(), self.options.clip, self.split_table)


def slot_work(config: ReaRecConfig) -> float:
    """The work of encoding a slot of a window, where 1 is that of a row: its tokens, and its scores of all items.

    In units of dim multiplications: four projections and two of the MLP, and what a layer does beside products, whose
    time was measured (docs/scaling.md).
    """
    token = config.layers * (12 * config.dim + _BESIDE_PRODUCTS)
    return token / ((config.steps + 1) * (token + 3 * config.num_items))


def _candidates(config: ReaRecConfig, options: TrainingOptions) -> CandidateSampler | None:
    """What draws the items to train against, None where they are all; UserError for an objective of one's own."""
    if options.negatives == 0:
        return None
    if config.method not in TRAITS:
        raise UserError(
            f"--negatives: got {options.negatives} for the method {config.method}, expected 0: an objective of one's "
            "own reads the scores of all items"
        )
    return CandidateSampler(options.negatives, options.seed)


def _training_batches(model: ReaRec, dataset: SequenceDataset, options: TrainingOptions) -> WindowBatches:
    """The batches of the training task."""
    config, batch_rows, seed = model.config, options.batch_rows, options.seed
    if config.training_task == "cloze":
        if options.item_dropout:
            raise UserError(
                f"--item-dropout: got {options.item_dropout} for the training task cloze, expected 0: it masks items"
            )
        return ClozeBatches(
            dataset, batch_rows=batch_rows, max_len=config.max_len, mask_share=config.mask_share, seed=seed
        )
    pairing = options.pairing if model.backbone.shares_windows else "separate"
    return PairBatches(
        dataset, "train", batch_rows=batch_rows, max_len=config.max_len, pairing=pairing, shuffle=True, seed=seed,
        item_dropout=options.item_dropout,
    )  # fmt: skip


def learning_rate_factor(options: TrainingOptions, step: int, total: int) -> float:
    """What the learning rate is multiplied with at an optimiser step (from 0) out of ``total``."""
    if step < options.lr_warmup:
        return (step + 1) / options.lr_warmup
    if options.schedule == "constant":
        return 1.0
    done = min(1.0, (step - options.lr_warmup) / max(1, total - options.lr_warmup))
    return 1.0 - done if options.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
