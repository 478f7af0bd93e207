"""``rearec train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.command import Common, ExcludeSeen, Force, command
from rearec.cli.finished_run import TrustCode, check_code_to_resume
from rearec.cli.options import options_of, with_options
from rearec.cli.output import emit, metric_table, note
from rearec.cli.process import compute_device
from rearec.cli.training_progress import TrainingProgress
from rearec.errors import UserError
from rearec.fields import settings
from rearec.models.config import MODEL, OBJECTIVE, TEXTS, ReaRecConfig
from rearec.training.options import TRAINING, TrainingOptions

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal
    from rearec.run_folder import RunFolder

__all__ = ["register"]

SETTINGS = {**settings(ReaRecConfig), **settings(TrainingOptions)}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(train)


@with_options(
    model=options_of(ReaRecConfig),
    training=options_of(TrainingOptions),
    panels=(MODEL, TEXTS, OBJECTIVE, TRAINING),
)
@command
def train(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset made by 'rearec prepare'.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder for the model, metrics and checkpoints.")],
    model: dict[str, Any],
    training: dict[str, Any],
    exclude_seen: ExcludeSeen = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a training that was interrupted.")] = False,
    trust_code: TrustCode = False,
    force: Force = False,
    common: Common = Common(),
) -> None:
    """Train a model; the best epoch by validation NDCG@20 is kept and tested.

    --resume takes the options from the interrupted run; options that contradict them are an error.
    """
    if resume and force:
        raise UserError("--resume continues a run, --force replaces it: give one of them")
    training |= {"exclude_seen": exclude_seen, "seed": common.seed}
    given = {
        name
        for name in (*model, *training)
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    from rearec.data import load_dataset
    from rearec.run_folder import RunFolder

    folder = RunFolder(out)
    resumes = resume and folder.options_file.is_file()
    # A run that is resumed has a backbone and a method already: only those that are given can be held against it.
    chosen = [model[name] if name in given or not resumes else None for name in ("backbone", "method")]
    ignored = {name: who for name in SETTINGS if name in given and (who := SETTINGS[name].not_read_by(*chosen))}
    for name, who in ignored.items():
        note(f"{SETTINGS[name].flag} is ignored: {who} does not {'reason' if who == 'base' else 'read it'}")
    if resumes:
        before = _options_of(folder)
        _adopt(model, before["model"], given - ignored.keys())
        _adopt(training, before["training"], given - ignored.keys())
        check_code_to_resume(folder, model, given, trust_code)
    dataset = load_dataset(data)

    from rearec.evaluation import seen_items
    from rearec.training import fitting_config
    from rearec.training import train as run_training

    seen = seen_items(dataset, exclude_seen, of_run=training["exclude_seen"])
    training["exclude_seen"] = seen.exclude
    try:
        config = fitting_config(dataset, **model)
        options = TrainingOptions(**training)
    except ValueError as error:
        raise UserError(_as_option(str(error))) from None
    finished = resume and folder.finished
    with TrainingProgress(config.method, str(seen)) as progress:
        try:
            result = run_training(
                data,
                out,
                config,
                options,
                device=compute_device(common.device),
                resume=resume,
                force=force,
                on_epoch=progress.on_epoch,
                on_batch=progress.on_batch,
            )
        except KeyboardInterrupt:
            note(f"continue with: {shlex.join(['rearec', 'train', str(data), '--out', str(out), '--resume'])}")
            raise
    if finished:
        note(f"{out}: this training has finished already")
    _emit(out, {"method": config.method, "steps": config.steps}, result, common.as_json)


def _options_of(folder: RunFolder) -> dict[str, Any]:
    """The options of the interrupted run; UserError where they are none."""
    options = folder.options()
    options["training"]["exclude_seen"] = bool(folder.excludes_seen())
    try:
        ReaRecConfig.from_dict(options["model"])
        TrainingOptions(**options["training"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder.options_file}: damaged: {error}") from error
    return options


def _adopt(values: dict[str, Any], before: dict[str, Any], given: set[str]) -> None:
    """Take the options of the interrupted run; UserError for one that was given and differs."""
    for name, value in values.items():
        if name in given and value != before.get(name):
            raise UserError(
                f"{SETTINGS[name].flag}: the run to resume was started with {before.get(name)}, not {value}"
            )
        values[name] = before.get(name, value)


def _as_option(message: str) -> str:
    """``temperature: got ...`` as ``--tau: got ...``."""
    name, colon, rest = message.partition(":")
    return f"{SETTINGS[name].flag}{colon}{rest}" if name in SETTINGS else message


def _emit(out: Path, model: dict[str, Any], result: dict[str, Any], as_json: bool) -> None:
    answer = {"run": str(out), "method": model["method"], "steps": model["steps"], **result}
    emit(answer, as_json, lambda console: _render(console, out, model["method"], result))


def _render(console: Terminal, out: Path, method: str, result: dict[str, Any]) -> None:
    ending = "stopped early" if result["stopped_early"] else "all epochs done"
    console.print(
        f"best epoch {result['best_epoch']} of {result['epochs']} ({ending}); {result['parameters']:,} parameters"
    )
    rows = {f"{method} (validation)": result["valid"]}
    if result["test"] is not None:
        rows |= {method: result["test"], "popularity": result["test"]["popularity"], "markov": result["test"]["markov"]}
    console.print(metric_table("Test rows, full catalogue", rows, seen=result["seen"]))
    console.print(f"written to {out}")
