"""The final fit: the settings of a run that was chosen, trained on every interaction that there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rearec.data import load_dataset
from rearec.data.dataset import SequenceDataset
from rearec.distributed import DEFAULT_TIMEOUT, agreed, joined
from rearec.errors import UserError
from rearec.evaluation.seen import seen_name
from rearec.models.backbone import Backbone
from rearec.models.saved import load_prior
from rearec.objectives import Objective, load_objective
from rearec.run_folder import RunFolder
from rearec.training.fitting import check_dataset, describe
from rearec.training.loggers import Loggers
from rearec.training.loop import check_precision
from rearec.training.own_code import check_trusted
from rearec.training.resuming import begun_from, settings_of_run
from rearec.training.session import Session, same_everywhere
from rearec.training.split_table import check_split

__all__ = ["refit"]


def refit(
    run: str | Path,
    out: str | Path,
    *,
    data: str | Path | SequenceDataset | None = None,
    epochs: int | None = None,
    backbone: Callable[[], Backbone] | None = None,
    objective: Objective | None = None,
    trust_code: bool = False,
    device: torch.device | str = "cpu",
    force: bool = False,
    logger: Loggers = "tensorboard",
    timeout: float = DEFAULT_TIMEOUT,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_batch: Callable[[int, int, int], None] | None = None,
) -> dict[str, Any]:
    """Train a model anew as a finished run was, on its training, validation and test rows alike.

    That is the model to put to use: nothing is held back, so nothing can measure it or stop it early. It is trained for
    as many epochs as the run's best one had behind it; each has more rows than it had there. A schedule of the
    learning rate ends with the last of them. A run that began with the weights of another one does so again. The run's
    graph prior keeps its numbers, its graph is counted anew, in every interaction. Several processes share it, as they
    do `train`.

    Args:
        run: the RUN folder with the chosen settings.
        out: the RUN folder to write.
        data: the dataset, or its path; None: where the run found it. It must be the one that the run was trained on.
        epochs: how many, in place of the run's best epoch.
        backbone: makes an encoder of one's own, for a run whose backbone is ``own``. objective: for a method that is.
        trust_code: whether code that the run names (``module:factory``) may be run; otherwise such a run is refused.
        device, logger, timeout, on_epoch, on_batch: as `train` takes them.
        force: replace a RUN folder that exists.

    Returns:
        as `train`, with None for ``valid`` and ``test``, and ``refit_of``: the run's path, best epoch and metrics.

    Raises:
        UserError: the run has not finished, is a refit itself, or its dataset is gone or another one; ``out`` may not
            be written.

    Examples:
        >>> import tempfile
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.training import refit, settings_for, train
        >>> dataset = generate(0, planted=Planted(users=20, themes=2, items_per_theme=3))
        >>> settings = settings_for(dataset, method="base", dim=8, ffn=8, layers=1, max_len=8, epochs=2)
        >>> run, final = tempfile.mkdtemp(), tempfile.mkdtemp()
        >>> best = train(dataset, run, *settings)["best_epoch"]
        >>> result = refit(run, final, data=dataset)
        >>> result["epochs"] == best, result["test"]
        (True, None)
    """
    chosen, folder = RunFolder(run), RunFolder(out)
    with joined(torch.device(device), timeout) as device:
        with agreed(lambda: {**same_everywhere(folder, record), "chosen run": before}):
            chosen.check_finished()
            chosen.check_held_out()
            if chosen.path.resolve() == folder.path.resolve():
                raise UserError(f"{folder.path}: is the run to refit; choose another folder for the final fit")
            before = chosen.result()
            config, options = settings_of_run(chosen)
            prior = load_prior(chosen.path, config)
            check_trusted(chosen, config, trust_code)
            objective = load_objective(config, objective)
            path = chosen.dataset_path("data=") if data is None else data
            dataset = path if isinstance(path, SequenceDataset) else load_dataset(path)
            chosen.check_fingerprint(dataset.fingerprint, "the dataset" if isinstance(path, SequenceDataset) else path)
            whole = dataset.for_refit()
            check_dataset(whole, config, validates=False)
            check_precision(options.precision, device)
            check_split(config, replace(options, prior="none"))  # the run's is kept, none is fitted
            options = replace(options, epochs=before["best_epoch"] if epochs is None else epochs)
            metrics = {name: before[name] for name in ("best_epoch", "valid", "test")}
            where = str(chosen.path.resolve())
            record = {
                "rearec": version("rearec"),
                "dataset": describe(dataset, config, None if isinstance(path, SequenceDataset) else Path(path)),
                "model": asdict(config),
                "training": asdict(options),
                "preset": chosen.options().get("preset"),
                "refit_of": {"run": where, "rows": len(whole.rows("train"))},
            }
            init = begun_from(chosen)
            folder.check_writable(force=force)
        session = Session(folder, whole, options, device, (), logger, on_epoch, on_batch, backbone, objective)
        model, recorder = session.fit(config, record, init=init)
        model.prior = None if prior is None else prior.counted_in(whole)
        result = {
            "best_epoch": recorder.best_epoch,
            "epochs": len(recorder.history),
            "stopped_early": False,
            "parameters": model.num_parameters(),
            "seen": seen_name(bool(options.exclude_seen)),
            "valid": None,
            "test": None,
            "refit_of": {"run": where, **metrics},
        }
        session.finish(model, record, result)
        return result
