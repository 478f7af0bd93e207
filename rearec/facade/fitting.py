"""Train a model on a dataset in one call, and the chosen one anew on all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rearec.data import SequenceDataset, load_dataset
from rearec.errors import UserError
from rearec.evaluation import seen_items
from rearec.facade.device import device_of
from rearec.facade.fitted import FittedModel, TemporaryFolder
from rearec.facade.handed_over import check_handed_over
from rearec.facade.progress import TrainingBars
from rearec.facade.words import python_errors, say
from rearec.fields import is_code
from rearec.inference import Recommender
from rearec.models.backbone import Backbone
from rearec.models.config import OWN_BACKBONE, OWN_METHOD
from rearec.objectives import Objective
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder
from rearec.training import refit as train_on_all
from rearec.training import settings_for, train
from rearec.training.fitting import check_names
from rearec.training.loggers import Loggers
from rearec.training.presets import Preset
from rearec.training.resuming import preset_to_resume, settings_to_resume
from rearec.training.words import begun_line, ignored, preset_line, prior_line

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

__all__ = ["fit", "refit"]

HOW = "rearec.Dataset.from_frame(frame, user=..., item=..., time=...) makes a dataset of it"


def fit(
    data: SequenceDataset | str | Path,
    *,
    method: str = "prl",
    preset: Preset = "best",
    backbone: str | Callable[[], Backbone] = "sasrec",
    objective: Objective | None = None,
    out: str | Path | None = None,
    init: str | Path | ReaRec | Recommender | None = None,
    callbacks: Sequence[Callback] = (),
    logger: Loggers = "tensorboard",
    progress: bool = True,
    device: torch.device | str | None = None,
    force: bool = False,
    resume: bool = False,
    **settings: Any,
) -> FittedModel:
    """Train a model on a dataset; the best epoch by validation NDCG@20 is kept and tested.

    Args:
        data: a dataset, or the path of a prepared one, which the RUN folder then remembers.
        method: "base" (no reasoning), "naive", "rpe", "erl" or "prl".
        preset: "best", the best known settings, or "paper", the paper's sizes with the official code's settings.
        backbone: "sasrec", "bert4rec", "unisrec", "morec", or a function that makes an encoder of one's own.
        objective: one of your own, in place of method. Both method and backbone may be the name of code,
            ``module:factory``, which is run.
        out: the RUN folder to write; None: a temporary one, which is deleted with the model.
        init: what to start from: a finished RUN folder or a `FittedModel`, whose items are matched by their ids, or a
            model of the same items.
        callbacks: Lightning callbacks.
        logger: "tensorboard", "csv", "wandb", "mlflow", "none", a Lightning logger, or several of these.
        progress: say on standard error what differs from the preset and, afterwards, what could be better
            (`FittedModel.advice`); in a notebook or on a terminal show a bar too.
        device: where to train and to answer: "cpu", "cuda", "cuda:N"; None or "auto": a GPU where there is one.
        force: replace a RUN folder that exists.
        resume: go on with the training that was interrupted in ``out``, with its settings, or start it where there is
            none. More ``epochs`` than before extend a finished one.
        settings: fields of `ReaRecConfig` and `TrainingOptions`, in place of the preset's: ``epochs=10``, ``steps=3``,
            ``lr=1e-3``, ``exclude_seen=True``, ``seed=1``, ...

    Raises:
        TypeError: data is no dataset.
        ValueError: there is no such setting, method, backbone or preset, or a value is wrong; the message names it.
        UserError: as `rearec.training.train`.

    Examples:
        >>> import rearec
        >>> from rearec.data.synthetic import Planted, generate
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> model = rearec.fit(dataset, method="base", epochs=2, dim=8, max_len=20, progress=False)
        >>> model.config.method, model.result["epochs"], len(model.history)
        ('base', 2, 2)
        >>> further = rearec.fit(dataset, method="base", init=model, epochs=1, dim=8, max_len=20, progress=False)
        >>> rearec.fit(dataset, epoch=2)
        Traceback (most recent call last):
        ValueError: epoch: no setting of a model or a training; did you mean epochs?
    """
    if not isinstance(data, SequenceDataset | str | Path):
        raise TypeError(f"data: got a {type(data).__name__}, expected a dataset or the path of one; {HOW}")
    dataset = data if isinstance(data, SequenceDataset) else load_dataset(data)
    if resume and out is None:
        raise ValueError("resume: there is nothing to resume without out=")
    if resume and force:
        raise ValueError("resume and force: resume goes on with a run, force replaces it: give one of them")
    check_handed_over(backbone, objective, callbacks, init, out)
    own = None if isinstance(backbone, str) else backbone
    name = backbone if isinstance(backbone, str) else OWN_BACKBONE
    if objective is not None:
        method = OWN_METHOD
    # Who names code of their own here has it run; a function that makes an encoder makes the one to load, too.
    trust_code = is_code(name)
    known: Preset | None = preset
    check_names(settings)
    unread = ignored(settings, name, method)
    settings = {setting: value for setting, value in settings.items() if setting not in unread}
    with python_errors():
        resumes = resume and out is not None and RunFolder(out).options_file.is_file()
        if resumes:
            folder = RunFolder(out or "")
            known = preset_to_resume(folder, None if preset == "best" else preset)
            config, options = settings_to_resume(folder, dataset, {"backbone": name, "method": method, **settings})
        else:
            config, options = settings_for(dataset, preset=preset, backbone=name, method=method, **settings)
    place = device_of(device)
    temporary = TemporaryFolder() if out is None else None
    run = temporary.path if temporary is not None else Path(out or "")
    if isinstance(init, FittedModel):
        init = init.run
    elif isinstance(init, Recommender):
        if init.catalog.item_ids != dataset.item_ids:
            raise UserError("init: the items of the recommender are not the dataset's; give its RUN folder")
        init = init.model

    def opening() -> list[str]:
        changes = [] if resumes or known is None else [preset_line(config, options, known)]
        seen = seen_items(dataset, settings.get("exclude_seen"), of_run=options.exclude_seen)
        return [*unread.values(), *changes, str(seen), *begun_line(RunFolder(run))]

    try:
        with python_errors(), TrainingBars(config.method, options.epochs, progress, opening) as bars:
            train(
                data,
                run,
                config,
                options,
                preset=known,
                backbone=own,
                objective=objective,
                device=place,
                resume=resume,
                force=force,
                init=init,
                callbacks=callbacks,
                logger=logger,
                on_epoch=bars.on_epoch,
                on_batch=bars.on_batch,
            )
        encoder = None if own is None else own()
        model = FittedModel(run, data=data, backbone=encoder, trust_code=trust_code, device=place, keep=temporary)
        if progress:
            brought = prior_line(options, model.result)
            for line in [*([brought] if brought else []), *model.advice]:
                say(line)
        return model
    except BaseException:
        if temporary is not None:
            temporary.delete()
        raise


def refit(
    model: FittedModel | str | Path,
    *,
    out: str | Path | None = None,
    epochs: int | None = None,
    backbone: Callable[[], Backbone] | None = None,
    trust_code: bool = False,
    logger: Loggers = "tensorboard",
    progress: bool = True,
    device: torch.device | str | None = None,
    force: bool = False,
) -> FittedModel:
    """The model to put to use: trained anew as a finished one was, on validation and test rows too.

    Nothing is held back, so nothing measures it: its metrics are those of the model that it was made from.

    Args:
        model: what `fit` or `load` returned, or its RUN folder.
        epochs: how many; None: as many as the model's best epoch had behind it.
        backbone: for a model with an encoder of one's own, the function that makes it.
        trust_code: whether the code may be run that the model names for its encoder or method (``module:factory``).
        out, logger, progress, device, force: as `fit` takes them.

    Raises:
        UserError: as `rearec.training.refit`.

    Examples:
        >>> import rearec
        >>> from rearec.data.synthetic import Planted, generate
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> model = rearec.fit(dataset, epochs=2, dim=8, max_len=20, progress=False)
        >>> final = rearec.refit(model, progress=False)
        >>> final.result["epochs"] == model.result["best_epoch"], final.result["test"]
        (True, None)
    """
    check_handed_over(backbone, None, (), None, out)
    if not isinstance(model, FittedModel | str | Path):
        raise TypeError(f"model: got a {type(model).__name__}, expected what fit or load returned, or a RUN folder")
    chosen = (
        model
        if isinstance(model, FittedModel)
        else FittedModel(model, backbone=backbone and backbone(), trust_code=trust_code)
    )
    place = device_of(device)
    temporary = TemporaryFolder() if out is None else None
    run = temporary.path if temporary is not None else Path(out or "")
    # What the RUN folder remembers is a path, where there is one.
    data = chosen.dataset if chosen.dataset_path is None else chosen.dataset_path
    try:
        count = chosen.result["best_epoch"] if epochs is None else epochs
        with python_errors(), TrainingBars(f"{chosen.config.method} on all rows", count, progress, list) as bars:
            train_on_all(
                chosen.run,
                run,
                data=data,
                epochs=epochs,
                backbone=backbone,
                trust_code=trust_code,
                device=place,
                force=force,
                logger=logger,
                on_epoch=bars.on_epoch,
                on_batch=bars.on_batch,
            )
        encoder = None if backbone is None else backbone()
        return FittedModel(run, data=data, backbone=encoder, trust_code=trust_code, device=place, keep=temporary)
    except BaseException:
        if temporary is not None:
            temporary.delete()
        raise
