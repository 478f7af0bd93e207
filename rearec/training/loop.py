"""Training through Lightning: Adam, early stopping on validation NDCG@20, a run that resumes to the same numbers.

All randomness of an epoch (order of the batches, dropout, noise) derives from (seed, epoch) alone, and the state is
saved at the end of every epoch. A training that was killed in mid-epoch therefore repeats that epoch exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from rearec.data import load_dataset
from rearec.data.dataset import SequenceDataset
from rearec.errors import UserError, in_one_line
from rearec.evaluation import evaluate, seen_items
from rearec.fields import is_code, is_own
from rearec.files import write_json
from rearec.models.backbone import Backbone
from rearec.models.card import model_card
from rearec.models.code import load_backbone, source_of
from rearec.models.config import ReaRecConfig
from rearec.objectives import Objective, load_objective
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog, RunFolder
from rearec.training.fitting import check_dataset, describe, texts_of
from rearec.training.module import TrainingModule
from rearec.training.options import TrainingOptions
from rearec.training.recorder import RunRecorder, load_best_weights
from rearec.training.trainer import interruptible, make_trainer, quiet
from rearec_kernels import annealed_cross_entropy

__all__ = ["train"]

MONITOR = "valid_ndcg@20"


def train(
    data: str | Path | SequenceDataset,
    run: str | Path,
    config: ReaRecConfig,
    options: TrainingOptions | None = None,
    *,
    backbone: Callable[[], Backbone] | None = None,
    objective: Objective | None = None,
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
        backbone: makes an encoder of one's own, for a config whose backbone is ``own``. Where it is the name of code,
            that code is run and makes it.
        objective: of one's own, for a config whose method is ``own``; of a name of code, that code is run.
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

    Examples:
        >>> import tempfile
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.training import TrainingOptions, fitting_config, train
        >>> dataset = generate(0, planted=Planted(users=20, themes=2, items_per_theme=3))
        >>> config = fitting_config(dataset, method="prl", steps=1, dim=8, ffn=8, layers=1, max_len=8)
        >>> result = train(dataset, tempfile.mkdtemp(), config, TrainingOptions(epochs=1, batch_rows=64))
        >>> result["best_epoch"], result["stopped_early"]
        (1, False)
    """
    options = options or TrainingOptions()
    device = torch.device(device)
    folder = RunFolder(run)
    dataset = data if isinstance(data, SequenceDataset) else load_dataset(data)
    check_dataset(dataset, config)
    objective = load_objective(config, objective)
    config = objective.fitted(config)
    _check_precision(options.precision, device)
    continues = resume and folder.last_checkpoint.is_file()
    # A run goes on as it began.
    begun = bool(folder.excludes_seen()) if continues or (resume and folder.finished) else None
    seen = seen_items(dataset, options.exclude_seen, of_run=begun)
    options = replace(options, exclude_seen=seen.exclude)
    record: dict[str, Any] = {
        "rearec": version("rearec"),
        "dataset": describe(dataset, config, None if isinstance(data, SequenceDataset) else Path(data)),
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

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), quiet():
        torch.manual_seed(options.seed)
        module = TrainingModule(_build(config, dataset, _own_encoder(config, backbone)), dataset, options, objective)
        record["code"] = _own_code(config, backbone, objective)
        recorder = RunRecorder(folder, MONITOR, on_epoch, on_batch)
        trainer = make_trainer(recorder, options, device)
        if continues:
            _note_changed_code(folder, record["code"])
        else:
            # Only now, when all that can be wrong with the options is known, the run that may stand there is deleted.
            folder.start(record, _catalog(dataset))
        with interruptible(trainer):
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
        split = dataset.source.get("findings", {}).get("split") or dataset.options.get("split")
        data_said = {**record["dataset"], "split": split}
        card = model_card(config, data=data_said, training=record["training"], result=result)
        model.save_pretrained(folder.path, card=card)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder.path}: the model cannot be written: {in_one_line(error)}") from error
    write_json(folder.result_file, result)
    return result


def _own_encoder(config: ReaRecConfig, backbone: Callable[[], Backbone] | None) -> Backbone | None:
    if backbone is not None:
        return backbone()
    return load_backbone(config) if is_code(config.backbone) else None


def _own_code(
    config: ReaRecConfig, backbone: Callable[[], Backbone] | None, objective: Objective
) -> dict[str, dict[str, str | None]]:
    """What is recorded of code that is not ours: the file of each part, and its digest."""
    parts: dict[str, str | Callable[..., Any]] = {}
    if config.has_own_backbone:
        parts["backbone"] = backbone or config.backbone
    if is_own(config.method):
        parts["method"] = config.method if is_code(config.method) else objective.loss
    return {part: source_of(code) for part, code in parts.items()}


def _note_changed_code(folder: RunFolder, code: dict[str, dict[str, str | None]]) -> None:
    """A warning where the code that a run was started with is no longer as it was."""
    before = folder.options().get("code")
    for part, now in code.items():
        was = before.get(part) if isinstance(before, dict) else None
        if not isinstance(was, dict) or was.get("digest") != now["digest"]:
            warnings.warn(
                f"{folder.path}: the code of its {part}, {now['name']}, is not as it was when the run was started "
                f"({now['file']}): the epochs before and after differ in it",
                stacklevel=3,
            )


def _catalog(dataset: SequenceDataset) -> Catalog:
    """What recommendations need to know of the items."""
    return Catalog(dataset.item_ids, dataset.train_item_counts().tolist(), dataset.item_titles)


def _build(config: ReaRecConfig, dataset: SequenceDataset, backbone: Backbone | None) -> ReaRec:
    """A new model; UserError where the memory does not hold it."""
    try:
        return ReaRec(config, texts_of(config, dataset), backbone=backbone)
    except (RuntimeError, MemoryError) as error:
        raise UserError(
            f"no memory for a model of {config.num_items:,} items, dim {config.dim}, ffn {config.ffn}, "
            f"layers {config.layers}, max_len {config.max_len}, steps {config.steps}"
        ) from error


def _check_precision(precision: str, device: torch.device) -> None:
    """UserError where the losses cannot be computed so on this device."""
    state, target = torch.ones(1, 1, 1, device=device), torch.tensor([0], device=device)
    try:
        annealed_cross_entropy(state, state[0], target, temperature=1.0, precision=precision)
    except ValueError as error:
        raise UserError(f"precision {precision!r} is out of reach here: {in_one_line(error)}") from error


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
