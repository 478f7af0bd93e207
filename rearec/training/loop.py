"""Training through Lightning: Adam, early stopping on validation NDCG@20, a run that resumes to the same numbers.

All randomness of an epoch (order of the batches, dropout, noise) derives from (seed, epoch) alone, and the state is
saved at the end of every epoch. A training that was killed in mid-epoch therefore repeats that epoch exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from rearec.data import load_dataset
from rearec.data.dataset import SequenceDataset
from rearec.distributed import DEFAULT_TIMEOUT, agreed, joined, lost_processes
from rearec.errors import UserError, in_one_line
from rearec.evaluation import SeenItems, evaluate, seen_items
from rearec.models.backbone import Backbone
from rearec.models.config import ReaRecConfig
from rearec.objectives import Objective, load_objective
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder
from rearec.training.fitting import check_dataset, describe, differing
from rearec.training.graph_prior import fit_prior
from rearec.training.loggers import Loggers
from rearec.training.options import TrainingOptions
from rearec.training.presets import Preset
from rearec.training.resuming import begun_from, check_same, goes_on
from rearec.training.session import Session, same_everywhere
from rearec.training.split_table import check_split
from rearec_kernels import annealed_cross_entropy

__all__ = ["train"]


def train(
    data: str | Path | SequenceDataset,
    run: str | Path,
    config: ReaRecConfig,
    options: TrainingOptions | None = None,
    *,
    preset: Preset | None = None,
    backbone: Callable[[], Backbone] | None = None,
    objective: Objective | None = None,
    device: torch.device | str = "cpu",
    resume: bool = False,
    force: bool = False,
    init: str | Path | ReaRec | None = None,
    callbacks: Sequence[Callback] = (),
    logger: Loggers = "tensorboard",
    test: bool = True,
    timeout: float = DEFAULT_TIMEOUT,
    data_path: str | Path | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_batch: Callable[[int, int, int], None] | None = None,
) -> dict[str, Any]:
    """Train a model and leave a RUN folder (see `rearec.run_folder`).

    Torch's random state is put back afterwards; threads and other global settings are left alone. In several processes,
    which torchrun or srun has started with the same arguments, all train one model: each on its share of every batch,
    the first one writes, and the numbers are those of one process but for rounding.

    Args:
        data: a prepared dataset, or its path (which the RUN folder then remembers).
        run: the folder to write.
        config: the model; ``num_items`` must be the dataset's.
        options: how to train.
        preset: the preset that the settings come from (see `settings_for`), which options.json then names with what
            differs from it.
        backbone: makes an encoder of one's own, for a config whose backbone is ``own``. Where it is the name of code,
            that code is run and makes it.
        objective: of one's own, for a config whose method is ``own``; of a name of code, that code is run.
        device: where to train.
        resume: continue from the last epoch that ended; without one start anew, and return the result of a run that
            has finished. More epochs or more patience than the run was started with extend it: with a constant
            schedule the numbers are those of a run started so.
        force: replace a RUN folder that exists.
        init: a finished RUN folder whose weights are the start: items are matched by their ids, new ones start as
            new, all else must have the same shape. Or a model, for a dataset with the same items. What was taken over
            stands in options.json. A run that is resumed needs it no more.
        callbacks: Lightning callbacks. Their state is part of the checkpoints, which hold tensors and plain values
            only; they are called before the epoch's checkpoint is written.
        logger: "tensorboard", "csv", "wandb", "mlflow", "none", a Lightning logger, or several of these. metrics.csv
            is written in any case.
        test: whether the test rows are ranked at the end; a search for settings looks at the validation rows alone.
        timeout: of several processes, how many seconds one waits for the others.
        data_path: where a dataset that was loaded already lies, for the RUN folder to remember.
        on_epoch: called after each epoch with its row of metrics.csv and ``best_epoch``.
        on_batch: called after each batch with (epoch from 1, batches done, batches of the epoch).

    Returns:
        ``best_epoch`` (from 1), ``epochs`` (trained), ``stopped_early``, ``parameters``, ``seen`` ("kept" or
        "excluded", in the choice of the best epoch as in what follows), ``valid`` (metrics) and ``test`` (as `evaluate`
        returns them, floors included; None without test rows, or where ``test`` is False). Of a model that got a graph
        prior they are with it, those of the best epoch's choice are in metrics.csv and below ``without_prior``.

    Raises:
        LostProcessError: one of several processes is gone; the run can be resumed.
        ValueError: the configuration does not fit the dataset.
        UserError: the folder may not be written, the run to resume was started with other options or data, the dataset
            has no training or validation rows, the precision is out of reach on this device, the model does not fit in
            memory or not to the weights of ``init``, a logger is not installed, or the loss, the weights or the scores
            are no longer finite.
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
    folder = RunFolder(run)
    with joined(torch.device(device), timeout) as device:
        path = data if data_path is None and not isinstance(data, SequenceDataset) else data_path
        asked = _Asked(data, path, folder, options or TrainingOptions(), preset, device, resume, force)
        with agreed(lambda: same_everywhere(folder, start.record)):
            start = _start(asked, config, load_objective(config, objective), init)
        if start.has_ended:
            return folder.result()
        session = Session(
            folder, start.dataset, start.options, device, callbacks, logger, on_epoch, on_batch, backbone,
            start.objective,
        )  # fmt: skip
        return _trained(session, start, test)


@dataclass(frozen=True)
class _Asked:
    """What `train` was asked for, as it names it, but for the model."""

    data: str | Path | SequenceDataset
    data_path: str | Path | None
    folder: RunFolder
    options: TrainingOptions
    preset: Preset | None
    device: torch.device
    resume: bool
    force: bool


@dataclass(frozen=True)
class _Start:
    """A training that may begin, or go on: all that can be wrong with what was asked for has been looked at.

    options: with the decision on seen items. record: what options.json is to hold. init: the weights to begin with.
    continues: from the last checkpoint. has_ended: there is nothing left to train.
    """

    dataset: SequenceDataset
    config: ReaRecConfig
    options: TrainingOptions
    objective: Objective
    seen: SeenItems
    record: dict[str, Any]
    init: str | Path | ReaRec | None
    continues: bool
    has_ended: bool


def _start(asked: _Asked, config: ReaRecConfig, objective: Objective, init: str | Path | ReaRec | None) -> _Start:
    """Raises as `train` does, before anything is written."""
    data, folder = asked.data, asked.folder
    dataset = data if isinstance(data, SequenceDataset) else load_dataset(data)
    check_dataset(dataset, config)
    config = objective.fitted(config)
    check_precision(asked.options.precision, asked.device)
    check_split(config, asked.options)
    continues = asked.resume and (folder.last_checkpoint.is_file() or folder.finished)
    # A run goes on as it began.
    begun = bool(folder.excludes_seen()) if continues else None
    seen = seen_items(dataset, asked.options.exclude_seen, of_run=begun)
    options = replace(asked.options, exclude_seen=seen.exclude)
    preset = asked.preset
    record: dict[str, Any] = {
        "rearec": version("rearec"),
        "dataset": describe(dataset, config, None if asked.data_path is None else Path(asked.data_path)),
        "model": asdict(config),
        "training": asdict(options),
        "preset": None if preset is None else {"name": preset, "differing": differing(config, options, preset)},
    }
    has_ended = False
    if continues:
        check_same(folder, record, init)
        has_ended = not goes_on(folder, options)
    else:
        # --resume may replace a run that was killed in its first epoch; it begins with the weights that that one had.
        folder.check_writable(force=asked.force or asked.resume)
        init = begun_from(folder) if asked.resume and init is None else init
    return _Start(dataset, config, options, objective, seen, record, init, continues, has_ended)


def _trained(session: Session, start: _Start, test: bool) -> dict[str, Any]:
    """Train, measure, and write the result."""
    dataset, options = start.dataset, start.options
    model, recorder = session.fit(start.config, start.record, init=start.init, continues=start.continues)
    with lost_processes("continue with --resume"):
        if options.prior == "graph":
            model.prior = fit_prior(model, dataset, exclude_seen=start.seen.exclude, batch_rows=options.batch_rows)
        measure = partial(evaluate, model, dataset, exclude_seen=start.seen.exclude, batch_rows=options.batch_rows)
        result = {
            "best_epoch": recorder.best_epoch,
            "epochs": len(recorder.history),
            "stopped_early": len(recorder.history) < options.epochs,
            "parameters": model.num_parameters(),
            "seen": start.seen.name,
            "valid": measure("valid", floors=False),
            "test": measure("test") if test and len(dataset.rows("test")) else None,
        }
    session.finish(model, start.record, result)
    return result


def check_precision(precision: str, device: torch.device) -> None:
    """UserError where the losses cannot be computed so on this device."""
    state, target = torch.ones(1, 1, 1, device=device), torch.tensor([0], device=device)
    try:
        annealed_cross_entropy(state, state[0], target, temperature=1.0, precision=precision)
    except ValueError as error:
        raise UserError(f"precision {precision!r} is out of reach here: {in_one_line(error)}") from error
