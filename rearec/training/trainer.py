"""Lightning's Trainer as a run wants it: quiet, stopping early, and handing the user's Ctrl-C on."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from rearec.training.joined_processes import JoinedProcesses, joins_a_group
from rearec.training.options import TrainingOptions
from rearec.training.recorder import AtomicCheckpointIO, RunRecorder

__all__ = ["interruptible", "make_trainer", "quiet"]


class _EarlyStopping(EarlyStopping):
    """Lightning's, which also holds for a run that was killed after it had stopped and before its result."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A run that goes on may have been given more patience.
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


def make_trainer(
    recorder: RunRecorder,
    options: TrainingOptions,
    device: torch.device,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    unused: bool = False,
    split: bool = False,
) -> Trainer:
    """A trainer that stops when what the recorder monitors gets no better, and lets the recorder alone write.

    callbacks: the user's; Lightning calls the recorder, which saves their state, after them.
    unused: whether a step may leave parameters without a gradient, which several processes have to look for.
    split: whether each process takes its rows of the item table out of a checkpoint.
    Where torch.distributed has a group, Lightning's DDP trains with it.
    """
    folder = recorder.folder
    own: list[Callback] = [recorder]
    if recorder.monitor is not None:
        patience = options.patience
        own.insert(0, _EarlyStopping(recorder.monitor, patience=patience, mode="max", check_on_train_epoch_end=True))
    of_group: dict[str, Any] = {}
    if joins_a_group():
        environment = JoinedProcesses()
        of_group = {
            "strategy": DDPStrategy(
                find_unused_parameters=unused, cluster_environment=environment, gradient_as_bucket_view=True
            ),
            "devices": environment.local_size(),
            "num_nodes": environment.world_size() // environment.local_size(),
            "use_distributed_sampler": False,
        }
    one: Any = 1 if device.type == "cpu" else [device.index or 0]
    return Trainer(
        **{"accelerator": device.type, "devices": one, **of_group},
        max_epochs=options.epochs,
        precision="bf16-mixed" if options.precision == "bf16" and device.type != "cpu" else "32-true",
        callbacks=[*callbacks, *own],
        logger=[*loggers],
        plugins=[AtomicCheckpointIO(mapped=split)],
        default_root_dir=folder.path,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        limit_val_batches=None if recorder.monitor is not None else 0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's notes on its own workings away from the user; its real warnings pass."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Batches differ in number from epoch to epoch, which Lightning takes for a checkpoint in mid-epoch.
            warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
            # what is logged is the same in every process
            warnings.filterwarnings("ignore", "It is recommended to use `self.log.*sync_dist=True")
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", module="lightning")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[None]:
    """Lightning answers Ctrl-C with sys.exit and leaves the signal ignored: give the caller a KeyboardInterrupt."""
    main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main_thread else None
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, handler)
