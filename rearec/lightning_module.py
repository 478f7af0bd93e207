"""The LightningModule of ReaRec: objective, batches, optimiser and validation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.autograd.graph import increment_version

from rearec.data.batches import Batch, PairBatches, Pairing
from rearec.data.cloze import ClozeBatches
from rearec.data.dataset import SequenceDataset
from rearec.data.window_batches import WindowBatches
from rearec.errors import UserError
from rearec.evaluation import BatchRanker, evaluation_batches, seen_items
from rearec.evaluation.floors import popularity_ranks
from rearec.evaluation.metrics import METRICS, rank_metrics
from rearec.evaluation.seen import RowHistories
from rearec.objectives import contrastive_active, loss
from rearec.reasoning import ReaRec

__all__ = ["PRECISIONS", "TrainingModule", "TrainingOptions", "learning_rate_factor"]

# Share of the learning rate that parameters take part with which come trained already.
PRETRAINED_LR = 0.05
SCHEDULES = ("constant", "cosine", "linear")
PRECISIONS = ("fp32", "bf16", "bf16x3")
PAIRINGS = get_args(Pairing)


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; every value is checked when the object is made, a wrong one raises ValueError naming it.

    epochs: at most so many. patience: stop after so many epochs without a better validation NDCG@20.
    batch_rows: predictions per batch. pairing: ``shared`` encodes a user's history once for all its rows, ``separate``
        once per row (same numbers without dropout, several times slower). A row that needs more than ``max_len`` items
        is encoded by itself by both; ``overlapping`` lets such rows share encodings, each of them seeing between half
        and all of its last ``max_len`` items, which is several times faster where histories are long.
    lr, weight_decay: of Adam (decay as an L2 term). encoder_lr: that of what comes trained already, a text encoder;
        None: a twentieth of lr. clip: largest gradient norm, 0 for no limit.
    schedule: ``constant``, ``cosine`` or ``linear`` (both fall to 0 at the last epoch) after ``lr_warmup`` steps of
        linear rise.
    precision: of the losses, which are most of the work: ``fp32``, ``bf16`` (operands rounded to bfloat16, sums
        float32), or on CPUs ``bf16x3`` (nearly float32, fast where there is AMX). Under ``bf16`` all the rest runs in
        autocast on a GPU; on a CPU, where that is slower, it stays float32. The weights are float32.
    exclude_seen: whether validation ranks among the items that are not in a row's history; None: as the data says
        (`rearec.evaluation.seen_items`).
    seed: of the initial weights and of every epoch.
    """

    epochs: int = 200
    patience: int = 10
    batch_rows: int = 2048
    pairing: Pairing = "shared"
    lr: float = 1e-3
    encoder_lr: float | None = None
    weight_decay: float = 0.0
    clip: float = 0.0
    schedule: str = "constant"
    lr_warmup: int = 0
    precision: str = "fp32"
    exclude_seen: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_rows"):
            self._check(name, self._is(Integral, name) and getattr(self, name) >= 1, "an integer, 1 or more")
        self._check("lr_warmup", self._is(Integral, "lr_warmup") and self.lr_warmup >= 0, "an integer, 0 or more")
        self._check("seed", self._is(Integral, "seed") and 0 <= self.seed < 2**63, "an integer in [0, 2**63)")
        self._check("lr", self._is(Real, "lr") and 0 < self.lr < math.inf, "a finite number above 0")
        if self.encoder_lr is not None:
            valid = self._is(Real, "encoder_lr") and 0 < self.encoder_lr < math.inf
            self._check("encoder_lr", valid, "a finite number above 0")
        for name in ("weight_decay", "clip"):
            valid = self._is(Real, name) and 0 <= getattr(self, name) < math.inf
            self._check(name, valid, "a finite number, 0 or more")
        self._check("exclude_seen", isinstance(self.exclude_seen, bool | None), "True, False or None")
        for name, choices in (("pairing", PAIRINGS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            self._check(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")

    def _is(self, kind: type, name: str) -> bool:
        value = getattr(self, name)
        return isinstance(value, kind) and not isinstance(value, bool)

    def _check(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise ValueError(f"{name}: got {getattr(self, name)!r}, expected {expected}")


class TrainingModule(LightningModule):
    """A ReaRec model with its objective, batches, optimiser and validation, as Lightning wants them."""

    def __init__(self, model: ReaRec, dataset: SequenceDataset, options: TrainingOptions) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self._train_batches = _training_batches(model, dataset, options)
        self._valid_batches = evaluation_batches(model, dataset, "valid", options.batch_rows)
        exclude = seen_items(dataset, options.exclude_seen).exclude
        self._seen = RowHistories(dataset, "valid") if exclude else None
        empty = self._valid_batches.empty_history_rows
        self._empty_history_ranks = popularity_ranks(dataset.train_item_counts(), dataset.targets("valid")[empty])
        self._valid_ranks: list[np.ndarray] = []
        self._ranker: BatchRanker | None = None

    def train_dataloader(self) -> WindowBatches:
        """The batches of the current epoch; Lightning asks again for each epoch."""
        self._train_batches.set_epoch(self.current_epoch)
        return self._train_batches

    def val_dataloader(self) -> PairBatches:
        """The validation rows."""
        return self._valid_batches

    def on_train_epoch_start(self) -> None:
        """Tie dropout and noise to (seed, epoch)."""
        state = np.random.SeedSequence((self.options.seed, self.current_epoch)).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what training does not change; the dataset has it."""
        for name in self.model.frozen_state():
            del checkpoint["state_dict"][f"model.{name}"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put back what `on_save_checkpoint` left out."""
        checkpoint["state_dict"] |= {f"model.{name}": value for name, value in self.model.frozen_state().items()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch; every term is logged as the epoch's mean over rows."""
        config = self.model.config
        contrastive = contrastive_active(config, self.current_epoch)
        rollout = self.model(batch, noise=config.noise if contrastive else 0.0, return_noised=contrastive)
        terms = loss(
            config,
            rollout,
            batch.target,
            batch.group,
            contrastive=contrastive,
            precision=self.options.precision,
        )
        means = {f"train_{name}": value.detach() for name, value in terms.items()}
        self.log_dict(means, on_step=False, on_epoch=True, batch_size=batch.num_rows)
        return terms["loss"]

    def on_validation_epoch_start(self) -> None:
        """Prepare the item table once for all validation batches."""
        self._ranker = BatchRanker(self.model, seen=self._seen)
        self._valid_ranks = [self._empty_history_ranks]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Ranks of one batch, in float32 whatever the training precision, as `evaluate` computes them."""
        assert self._ranker is not None
        with torch.autocast(self.device.type, enabled=False):
            self._valid_ranks.append(self._ranker.final(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, in float64."""
        self._ranker = None
        metrics = rank_metrics(np.concatenate(self._valid_ranks))
        self.log_dict({f"valid_{name}": torch.tensor(metrics[name], dtype=torch.float64) for name in METRICS})

    def on_train_epoch_end(self) -> None:
        """A loss, a score or a weight that is no finite number ends the training, before the epoch is saved."""
        values = self.trainer.callback_metrics
        where = f"in epoch {self.current_epoch + 1}: try a lower --lr or --clip"
        if not torch.isfinite(values["train_loss"]):
            raise UserError(f"the training loss is {values['train_loss'].item()} {where}")
        finite = all(bool(parameter.isfinite().all()) for parameter in self.parameters())
        if not finite or not torch.isfinite(values["valid_mrr"]):
            raise UserError(f"the model's {'scores' if finite else 'weights'} are no longer finite {where}")

    def configure_optimizers(self) -> Any:
        """Adam, and the schedule where one is wanted."""
        options = self.options
        pretrained = self.model.backbone.pretrained_parameters()
        known = set(map(id, pretrained))
        groups: list[dict[str, Any]] = [{"params": [x for x in self.parameters() if id(x) not in known]}]
        if pretrained:
            groups.append({"params": pretrained, "lr": options.encoder_lr or options.lr * PRETRAINED_LR})
        # fused: one pass over the item table, which is most of the parameters
        optimizer = torch.optim.Adam(groups, lr=options.lr, weight_decay=options.weight_decay, fused=True)
        # which leaves no trace in the weights' version counters, by which validation notices that they have changed
        optimizer.register_step_post_hook(lambda *_: increment_version(self.parameters()))
        if options.schedule == "constant" and options.lr_warmup == 0:
            return optimizer
        total = options.epochs * len(self._train_batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(options, step, total)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clip by the norm; Lightning's own way refuses a fused optimiser under autocast."""
        if self.options.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters(), self.options.clip)


def _training_batches(model: ReaRec, dataset: SequenceDataset, options: TrainingOptions) -> WindowBatches:
    """The batches of the training task."""
    config, batch_rows, seed = model.config, options.batch_rows, options.seed
    if config.training_task == "cloze":
        return ClozeBatches(
            dataset, batch_rows=batch_rows, max_len=config.max_len, mask_share=config.mask_share, seed=seed
        )
    pairing = options.pairing if model.backbone.shares_windows else "separate"
    return PairBatches(
        dataset, "train", batch_rows=batch_rows, max_len=config.max_len, pairing=pairing, shuffle=True, seed=seed
    )


def learning_rate_factor(options: TrainingOptions, step: int, total: int) -> float:
    """What the learning rate is multiplied with at an optimiser step (from 0) out of ``total``."""
    if step < options.lr_warmup:
        return (step + 1) / options.lr_warmup
    if options.schedule == "constant":
        return 1.0
    done = min(1.0, (step - options.lr_warmup) / max(1, total - options.lr_warmup))
    return 1.0 - done if options.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
