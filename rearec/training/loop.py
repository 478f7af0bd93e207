"""Training through Lightning: Adam, early stopping on validation NDCG@20, a run that resumes to the same numbers.

All randomness of an epoch (order of the batches, dropout, noise) derives from (seed, epoch) alone, and the state is
saved at the end of every epoch. A training that was killed in mid-epoch therefore repeats that epoch exactly.
"""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors import SafetensorError

from rearec.data import load_dataset
from rearec.data.dataset import SequenceDataset
from rearec.errors import UserError, in_one_line
from rearec.evaluation import evaluate, seen_items
from rearec.files import write_json
from rearec.models.backbone import Backbone
from rearec.models.config import TEXT_BACKBONES, ReaRecConfig
from rearec.models.title_encoder import TitleEncoder, encoder_width
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog, RunFolder
from rearec.training.module import TrainingModule, TrainingOptions
from rearec.training.recorder import AtomicCheckpointIO, RunRecorder, load_best_weights
from rearec_kernels import annealed_cross_entropy

__all__ = ["TrainingModule", "TrainingOptions", "fitting_config", "train"]

MONITOR = "valid_ndcg@20"


class _EarlyStopping(EarlyStopping):
    """Lightning's, which also holds for a run that was killed after it had stopped and before its result."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


def fitting_config(dataset: SequenceDataset, **settings: Any) -> ReaRecConfig:
    """A configuration for a dataset: its number of items and, for a backbone that reads texts, their vectors' width.

    settings: the other fields of `ReaRecConfig`.

    Raises:
        UserError: the backbone reads features and the dataset has none, or it reads titles and there are none, or there
            is no such text encoder.
        ValueError: a setting is wrong.
    """
    backbone, width = settings.get("backbone"), 0
    if backbone in TEXT_BACKBONES and settings.get("text_encoder"):
        if not any(dataset.item_titles or []):
            raise UserError(
                "a text encoder reads the items' titles, and the dataset has none; "
                "prepare it again with 'rearec prepare ... --titles FILE'"
            )
        width = encoder_width(settings["text_encoder"])
    elif backbone in TEXT_BACKBONES:
        if dataset.features is None:
            raise UserError(
                f"{backbone} reads features of the items, and the dataset has none; make them with 'rearec embed DIR'"
            )
        width = dataset.features.shape[1]
    return ReaRecConfig(num_items=dataset.num_items, feature_dim=width, **settings)


def train(
    data: str | Path | SequenceDataset,
    run: str | Path,
    config: ReaRecConfig,
    options: TrainingOptions | None = None,
    *,
    backbone: Callable[[], Backbone] | None = None,
    device: torch.device | str = "cpu",
    resume: bool = False,
    force: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_batch: Callable[[int, int, int], None] | None = None,
) -> dict[str, Any]:
    """Train a model and leave a RUN folder (see `rearec.run_folder`).

    Torch's random state is put back afterwards; threads and other global settings are left alone.

    Args:
        data: a prepared dataset, or its path (which the RUN folder then remembers).
        run: the folder to write.
        config: the model; ``num_items`` must be the dataset's.
        options: how to train.
        backbone: makes an encoder of one's own, for a config whose backbone is ``own``.
        device: where to train.
        resume: continue from the last epoch that ended; without one start anew, and return the result of a run that
            has finished.
        force: replace a RUN folder that exists.
        on_epoch: called after each epoch with its row of metrics.csv and ``best_epoch``.
        on_batch: called after each batch with (epoch from 1, batches done, batches of the epoch).

    Returns:
        ``best_epoch`` (from 1), ``epochs`` (trained), ``stopped_early``, ``parameters``, ``seen`` ("kept" or
        "excluded", in the choice of the best epoch as in what follows), ``valid`` (metrics) and ``test`` (as `evaluate`
        returns them, floors included; None without test rows).

    Raises:
        ValueError: the configuration does not fit the dataset.
        UserError: the folder may not be written, the run to resume was started with other options or data, the dataset
            has no training or validation rows, the precision is out of reach on this device, the model does not fit in
            memory, or the loss, the weights or the scores are no longer finite.
        KeyboardInterrupt: the user's; the run can be resumed.
    """
    options = options or TrainingOptions()
    device = torch.device(device)
    folder = RunFolder(run)
    dataset = data if isinstance(data, SequenceDataset) else load_dataset(data)
    _check_dataset(dataset, config)
    _check_precision(options.precision, device)
    continues = resume and folder.last_checkpoint.is_file()
    # A run goes on as it began.
    begun = bool(folder.excludes_seen()) if continues or (resume and folder.finished) else None
    seen = seen_items(dataset, options.exclude_seen, of_run=begun)
    options = replace(options, exclude_seen=seen.exclude)
    record = {
        "rearec": version("rearec"),
        "dataset": _describe(dataset, config, None if isinstance(data, SequenceDataset) else Path(data)),
        "model": asdict(config),
        "training": asdict(options),
    }
    if resume and folder.finished:
        _check_same(folder, record)
        return folder.result()
    if continues:
        _check_same(folder, record)
    else:
        # --resume may replace a run that was killed in its first epoch.
        folder.check_writable(force=force or resume)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _quiet():
        torch.manual_seed(options.seed)
        module = TrainingModule(_build(config, dataset, None if backbone is None else backbone()), dataset, options)
        recorder = RunRecorder(folder, MONITOR, on_epoch, on_batch)
        stopping = _EarlyStopping(MONITOR, patience=options.patience, mode="max", check_on_train_epoch_end=True)
        trainer = Trainer(
            accelerator=device.type,
            devices=1 if device.type == "cpu" else [device.index or 0],
            max_epochs=options.epochs,
            precision="bf16-mixed" if options.precision == "bf16" and device.type != "cpu" else "32-true",
            callbacks=[stopping, recorder],
            logger=TensorBoardLogger(
                folder.path, name="tensorboard", version="", default_hp_metric=False, flush_secs=5
            ),
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder.path,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        if not continues:
            # Only now, when all that can be wrong with the options is known, the run that may stand there is deleted.
            folder.start(record, Catalog(dataset.item_ids, dataset.train_item_counts().tolist()))
        with _interruptible(trainer):
            trainer.fit(module, ckpt_path=folder.last_checkpoint if continues else None)
        model = load_best_weights(folder, module.model).to(device)

    measure = partial(evaluate, model, dataset, exclude_seen=seen.exclude, batch_rows=options.batch_rows)
    result = {
        "best_epoch": recorder.best_epoch,
        "epochs": len(recorder.history),
        "stopped_early": len(recorder.history) < options.epochs,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seen": seen.name,
        "valid": measure("valid", floors=False),
        "test": measure("test") if len(dataset.rows("test")) else None,
    }
    try:
        model.save_pretrained(folder.path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder.path}: the model cannot be written: {in_one_line(error)}") from error
    write_json(folder.result_file, result)
    return result


def _build(config: ReaRecConfig, dataset: SequenceDataset, backbone: Backbone | None) -> ReaRec:
    """A new model; UserError where the memory does not hold it."""
    try:
        return ReaRec(config, _texts(config, dataset), backbone=backbone)
    except (RuntimeError, MemoryError) as error:
        raise UserError(
            f"no memory for a model of {config.num_items:,} items, dim {config.dim}, ffn {config.ffn}, "
            f"layers {config.layers}, max_len {config.max_len}, steps {config.steps}"
        ) from error


def _texts(config: ReaRecConfig, dataset: SequenceDataset) -> torch.Tensor | TitleEncoder | None:
    """What the backbone knows items by, beside their ids."""
    if config.text_encoder is not None:
        return TitleEncoder.pretrained(config.text_encoder, dataset.item_titles or [], config.text_tokens)
    return torch.from_numpy(np.array(dataset.features)) if config.reads_features else None


def _check_dataset(dataset: SequenceDataset, config: ReaRecConfig) -> None:
    if config.num_items != dataset.num_items:
        raise ValueError(f"num_items: got {config.num_items}, expected the dataset's {dataset.num_items}")
    width = fitting_config(dataset, backbone=config.backbone, text_encoder=config.text_encoder).feature_dim
    if config.reads_texts and config.feature_dim != width:
        whose = "the dataset's" if config.reads_features else "the text encoder's"
        raise ValueError(f"feature_dim: got {config.feature_dim}, expected {whose} {width}")
    for split, why in (("train", "train on"), ("valid", "choose the best epoch by")):
        if not len(dataset.rows(split)):  # type: ignore[arg-type]
            raise UserError(f"the dataset has no {split} rows to {why}; choose another split when preparing it")


def _check_precision(precision: str, device: torch.device) -> None:
    """UserError where the losses cannot be computed so on this device."""
    state, table = torch.ones(1, 1, 1, device=device), torch.ones(1, 1, device=device)
    target = torch.zeros(1, dtype=torch.int64, device=device)
    try:
        annealed_cross_entropy(state, table, target, temperature=1.0, precision=precision)
    except ValueError as error:
        raise UserError(f"precision {precision!r} is out of reach here: {in_one_line(error)}") from error


def _describe(dataset: SequenceDataset, config: ReaRecConfig, path: Path | None) -> dict[str, Any]:
    return {
        "path": None if path is None else str(path.resolve()),
        "items": dataset.num_items,
        "users": dataset.num_users,
        "interactions": dataset.num_interactions,
        "fingerprint": dataset.fingerprint,
        "features": _digest(np.ascontiguousarray(dataset.features).data) if config.reads_features else None,
        "titles": None if config.text_encoder is None else _digest(json.dumps(dataset.item_titles).encode()),
        "rows": {split: len(dataset.rows(split)) for split in ("train", "valid", "test")},
    }


def _digest(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _check_same(folder: RunFolder, record: dict[str, Any]) -> None:
    """UserError where the run to resume was started with something else."""
    before = folder.options()
    before["training"]["exclude_seen"] = bool(folder.excludes_seen())
    for part in ("dataset", "model", "training"):
        for name, value in record[part].items():
            was = before[part].get(name)
            # A dataset may have moved; its fingerprint is no option that could be told.
            if name not in ("path", "fingerprint") and was != value:
                option = f"{part} option {name} = {was!r}, not {value!r}"
                what = f"other {name} of the items" if name in ("features", "titles") else option
                raise UserError(
                    f"{folder.path}: was started with {what}; resume with the same options, or start anew with --force"
                )
    folder.check_fingerprint(record["dataset"]["fingerprint"], record["dataset"]["path"] or "the dataset")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's notes on its own workings away from the user; its real warnings pass."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Batches differ in number from epoch to epoch, which Lightning takes for a checkpoint in mid-epoch.
            warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", module="lightning")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
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
