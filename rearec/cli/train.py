"""``rearec train``."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.command import Common, ExcludeSeen, Force, command
from rearec.cli.config_file import ConfigFile, PrintConfig, is_given, print_options
from rearec.cli.finished_run import TrustCode, check_code_to_resume
from rearec.cli.options import with_options
from rearec.cli.output import emit, metric_table, note
from rearec.cli.processes import Devices, Nodes, Strategy, Timeout, joined_processes, start_processes
from rearec.cli.training_progress import TrainingProgress
from rearec.cli.training_settings import Both, from_preset, from_run, readable, training_options, without_ignored
from rearec.errors import UserError
from rearec.models.config import MODEL, OBJECTIVE, TEXTS, ReaRecConfig
from rearec.training.options import TRAINING, TrainingOptions
from rearec.training.presets import Preset
from rearec.training.words import begun_line, prior_line

if TYPE_CHECKING:
    import torch

    from rearec.cli.terminal import Terminal
    from rearec.run_folder import RunFolder

__all__ = ["register"]

LoggerNames = Annotated[
    list[str] | None,
    typer.Option(
        "--logger",
        metavar="NAME",
        help="tensorboard, csv, wandb, mlflow or none, beside metrics.csv; repeatable.",
        show_default="tensorboard",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(train)


@with_options(
    model=training_options(ReaRecConfig),
    training=training_options(TrainingOptions),
    panels=(MODEL, TEXTS, OBJECTIVE, TRAINING),
)
@command(shared=True)
def train(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset made by 'rearec prepare'.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder for the model, metrics and checkpoints.")],
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="Where settings come from that are not given: best known, or the paper's.", show_default="best"
        ),
    ] = None,
    *,
    model: dict[str, Any],
    training: dict[str, Any],
    exclude_seen: ExcludeSeen = None,
    init: Annotated[
        Path | None,
        typer.Option("--init", metavar="RUN", help="Begin with the weights of a finished run; items by their ids."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a training; with more --epochs also a finished one.")
    ] = False,
    trust_code: TrustCode = False,
    force: Force = False,
    logger: LoggerNames = None,
    devices: Devices = 1,
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    timeout: Timeout = 600.0,
    config: ConfigFile = None,
    print_config: PrintConfig = False,
    common: Common = Common(),
) -> None:
    """Train a model; the best epoch by validation NDCG@20 is kept and tested.

    Settings that are not given come from --preset. --resume takes the options from the interrupted run; options that
    contradict them are an error, but for more --epochs and --patience, which extend the run.
    """
    if not print_config:
        start_processes(devices, nodes, strategy, timeout)
    if resume and force:
        raise UserError("--resume continues a run, --force replaces it: give one of them")
    given = {name: value for name, value in {**model, **training}.items() if value is not None}
    given |= {} if exclude_seen is None else {"exclude_seen": exclude_seen}
    if is_given(context, "seed"):
        given["seed"] = common.seed
    from rearec.data import load_dataset
    from rearec.distributed import agreed
    from rearec.run_folder import RunFolder

    folder = RunFolder(out)
    # A run that is resumed has a backbone and a method already: only those that are given can be held against it.
    resumes = resume and folder.options_file.is_file()
    usual = {} if resumes else {"backbone": "sasrec", "method": "prl"}
    chosen = usual | given
    given = without_ignored(given, chosen.get("backbone"), chosen.get("method"))
    if resumes:
        from rearec.training.resuming import preset_to_resume

        preset = preset_to_resume(folder, preset)
        check_code_to_resume(folder, set(given), trust_code)
    elif resume:
        note(f"nothing to resume in {out}: starting anew with these settings")
    with _continuable(folder, data, resumes), joined_processes(common.device, timeout) as where:
        with agreed():
            dataset = load_dataset(data)
            asked = (
                from_run(folder, dataset, given) if resumes else from_preset(dataset, preset or "best", usual | given)
            )
        preset, loggers = preset if resumes else preset or "best", logger or ["tensorboard"]
        if print_config:
            others = {"init": None if init is None else str(init), "logger": loggers}
            print_options({"preset": preset, **readable(*asked), **others}, common.as_json)
            return
        if resumes and not folder.last_checkpoint.is_file() and not folder.finished:
            note(f"{out} has ended no epoch yet: starting anew with its settings")

        from rearec.evaluation import seen_items
        from rearec.training import advice
        from rearec.training import train as run_training

        seen = seen_items(dataset, exclude_seen, of_run=asked[1].exclude_seen)
        if not resumes:  # what the data says has been counted
            asked = asked[0], replace(asked[1], exclude_seen=seen.exclude)
        before = len(folder.metrics()) if resume and folder.finished else None
        with TrainingProgress(asked[0], lambda: [str(seen), *begun_line(folder), *_busy(where)]) as progress:
            result = run_training(
                dataset,
                out,
                *asked,
                data_path=data,
                preset=preset,
                device=where,
                resume=resume,
                force=force,
                init=init,
                logger=loggers,
                on_epoch=progress.on_epoch,
                on_batch=progress.on_batch,
            )
    if before == result["epochs"]:
        note(f"{out}: this training has finished already; more --epochs extend it")
    lines = advice(result, folder.metrics(), asked[1])
    for line in lines:
        note(line)
    answer = {"run": str(out), "method": asked[0].method, "steps": asked[0].steps, "advice": lines, **result}
    emit(answer, common.as_json, lambda console: _render(console, out, asked, result))


@contextmanager
def _continuable(folder: RunFolder, data: Path, resumes: bool) -> Iterator[None]:
    """Tells after Ctrl-C how the training goes on."""

    def written() -> int | None:
        return folder.options_file.stat().st_mtime_ns if folder.options_file.is_file() else None

    before = written()
    try:
        yield
    except KeyboardInterrupt:
        # With --force an earlier run may still be there.
        if resumes or written() != before:
            command = ["rearec", "train", str(data), "--out", str(folder.path), "--resume"]
            note(f"continue with: {shlex.join(command)}")
        else:
            note(f"nothing of it is in {folder.path} yet: begin again with the same command")
        raise


def _busy(device: torch.device) -> list[str]:
    """Advice on a machine that is busy already, where the processors are to train."""
    import torch

    from rearec.training.advice import thread_advice

    line = None
    # without a load average there is nothing to say
    with suppress(OSError):
        line = thread_advice(os.getloadavg()[0], os.cpu_count() or 1, torch.get_num_threads())
    return [line] if line is not None and device.type == "cpu" else []


def _render(console: Terminal, out: Path, asked: Both, result: dict[str, Any]) -> None:
    from rearec.report.floors import beside_floors, with_and_without

    ending = "stopped early" if result["stopped_early"] else "all epochs done"
    console.print(
        f"{asked[0].method}: best epoch {result['best_epoch']} of {result['epochs']} ({ending}); "
        f"{result['parameters']:,} parameters"
    )
    rows = with_and_without("valid", result["valid"])
    if result["test"] is not None:
        rows |= beside_floors("test", result["test"])
    console.print(metric_table("Full catalogue", rows, seen=result["seen"]))
    if (line := prior_line(asked[1], result)) is not None:
        console.print(line)
    console.print(f"written to {out}")
