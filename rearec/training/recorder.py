"""Checkpoints that a kill cannot damage, and the record of a run's epochs."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from rearec.errors import UserError
from rearec.files import open_aside, write_aside
from rearec.models.item_table import split_embedding
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder
from rearec.training.memory import return_free_memory
from rearec.training.module import TrainingModule
from rearec.training.split_table import drop_rows, put_back_rows

__all__ = ["AtomicCheckpointIO", "RunRecorder", "load_best_weights"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint aside and renames it, reads with ``weights_only=True``: no code from a file is run.

    mapped: tensors are read from their file when they are used.
    """

    def __init__(self, *, mapped: bool = False) -> None:
        super().__init__()
        self._mapped = mapped

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``; there is the old file or the new one, never a part of it.

        Raises UserError naming ``path`` where it cannot be written, or the callback whose state could not be read back.
        """
        _check_plain(checkpoint.get("callbacks", {}))
        try:
            with open_aside(Path(path), "wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:
            # torch's writer puts an error of its own in the place of the system's
            reason = error.__context__ if isinstance(error.__context__, OSError) else str(error).splitlines()[0]
            raise UserError(f"{path}: cannot be written: {reason}") from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read ``path``; UserError where it is no checkpoint. ``weights_only`` is always taken as True."""
        return load_checkpoint(Path(path), map_location, mapped=self._mapped)


def _check_plain(states: dict[str, Any]) -> None:
    """UserError for a callback whose state holds more than tensors and plain values."""
    for name, state in states.items():
        stored = io.BytesIO()
        try:
            torch.save(state, stored)
            stored.seek(0)
            torch.load(stored, weights_only=True)
        except Exception as error:
            raise UserError(
                f"callback {name}: its state_dict() must hold tensors and plain values only, so that the training can "
                f"be resumed ({type(error).__name__})"
            ) from error


def load_checkpoint(path: Path, map_location: Any | None = "cpu", *, mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only, with the item table that stands beside it.

    mapped: tensors are read from their file when they are used; on the CPU.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(
            path, map_location="cpu" if mapped else map_location, weights_only=True, mmap=mapped
        )
    except Exception as error:
        raise UserError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); train anew with --force"
        ) from error
    put_back_rows(checkpoint, path.parent, mapped=mapped)
    return checkpoint


def load_best_weights(folder: RunFolder, model: ReaRec) -> ReaRec:
    """Put the weights of the best epoch into the model; it is returned on the CPU, in evaluation mode.

    Without a best epoch, as there was no validation, those of the last one.
    """
    best = folder.best_checkpoint
    path = best if best.is_file() else folder.last_checkpoint
    state = load_checkpoint(path, mapped=split_embedding(model) is not None)["state_dict"]
    model = model.cpu()
    model.load_state_dict(model.frozen_state() | {name.removeprefix("model."): x for name, x in state.items()})
    return model.eval()


class RunRecorder(Checkpoint):
    """Writes metrics.csv, best.ckpt and last.ckpt at the end of every epoch; of several processes the first one does.

    The rows of metrics.csv are part of the checkpoint, so that a resumed run continues the table at the right row.

    Attributes:
        history: one dict per epoch: epoch (from 1), step, learning_rate, train_* and valid_* means, train_seconds,
            valid_seconds and rows_per_second (of training).
        best_epoch: the first epoch (from 1) with the largest monitored value, 0 before there is one; the last epoch
            where nothing is monitored.
    """

    def __init__(
        self,
        folder: RunFolder,
        monitor: str | None,
        on_epoch: Callable[[dict[str, Any]], None] | None = None,
        on_batch: Callable[[int, int, int], None] | None = None,
    ) -> None:
        self.folder = folder
        self.monitor = monitor
        self.history: list[dict[str, Any]] = []
        self.best_epoch = 0
        self._best_value = -float("inf")
        self._on_epoch = on_epoch
        self._on_batch = on_batch
        self._rows = 0
        self._clock = 0.0
        self._train_seconds: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Plain values only."""
        return {"history": self.history, "best_epoch": self.best_epoch, "best_value": self._best_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the table of the checkpoint."""
        self.history = state_dict["history"]
        self.best_epoch = state_dict["best_epoch"]
        self._best_value = state_dict["best_value"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._rows, self._train_seconds = 0, None
        self._clock = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the rows and tell the listener."""
        self._rows += batch.num_rows if batch.part is None else batch.part.rows.of
        if self._on_batch is not None:
            self._on_batch(trainer.current_epoch + 1, batch_idx + 1, int(trainer.num_training_batches))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time of the training part."""
        self._train_seconds = time.perf_counter() - self._clock

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's row, then the checkpoints: best before last, so that last never knows a best not there."""
        seconds = time.perf_counter() - self._clock
        train_seconds = seconds if self._train_seconds is None else self._train_seconds
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            **{name: values[name] for name in sorted(values)},
            "train_seconds": train_seconds,
            "valid_seconds": seconds - train_seconds,
            "rows_per_second": self._rows / train_seconds,
        }
        self.history.append(row)
        if trainer.is_global_zero:
            write_aside(self.folder.metrics_file, _csv(self.history))
        if isinstance(pl_module, TrainingModule) and pl_module.split_table is not None:
            pl_module.split_table.write(self.folder.checkpoints, row["epoch"], trainer.optimizers[0])
        if self.monitor is None:
            self.best_epoch = row["epoch"]
        elif values[self.monitor] > self._best_value:
            self.best_epoch, self._best_value = row["epoch"], values[self.monitor]
            trainer.save_checkpoint(self.folder.best_checkpoint, weights_only=True)
        trainer.save_checkpoint(self.folder.last_checkpoint)
        if trainer.is_global_zero:
            drop_rows(self.folder.checkpoints, self.best_epoch, row["epoch"])
        # some tens of milliseconds; without it the process grows from epoch to epoch
        return_free_memory()
        if self._on_epoch is not None:
            self._on_epoch({**row, "best_epoch": self.best_epoch})


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
