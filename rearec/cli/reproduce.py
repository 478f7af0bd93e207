"""``rearec reproduce``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.command import Common, Cutoffs, ExcludeSeen, command
from rearec.cli.options import unset_options, with_options
from rearec.cli.output import emit, note
from rearec.cli.process import compute_device
from rearec.errors import UserError
from rearec.experiments import ARTEFACTS
from rearec.experiments.named_settings import check_names, parse_settings
from rearec.experiments.protocols import PROTOCOLS, protocol_named
from rearec.models.config import ReaRecConfig
from rearec.training.options import TrainingOptions
from rearec.training.presets import usual_setting

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal
    from rearec.experiments.pool import Progress

__all__ = ["register"]

EXIT_FAILED_RUN = 1

# An Enum, as typer takes no list of a Literal.
Artefact = Enum("Artefact", {name: name for name in ("all", *ARTEFACTS)}, type=str)  # type: ignore[misc]

# The settings that have an option of their own, by field.
MODEL_SETTINGS, TRAINING_SETTINGS = ("steps", "dim"), ("epochs", "batch_rows", "precision")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(reproduce)


@with_options(
    settings=[
        *unset_options(ReaRecConfig, {name: usual_setting(name) for name in MODEL_SETTINGS}),
        *unset_options(TrainingOptions, {name: usual_setting(name) for name in TRAINING_SETTINGS}),
    ]
)
@command
def reproduce(
    # Both may be missing with --protocol, and are told apart below.
    artefacts: Annotated[
        list[Artefact] | None, typer.Argument(metavar="ARTEFACT...", help=f"all, {', '.join(ARTEFACTS)}.")
    ] = None,
    data: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="A dataset made by 'rearec prepare'.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Folder for the pages and, in OUT/runs, the trainings.", show_default=False),
    ] = None,
    backbones: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Backbones, with commas between.", show_default="as the paper"),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Methods, with commas between.", show_default="as the paper")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each setting, from --seed on.")] = 1,
    *,
    settings: dict[str, Any],
    exclude_seen: ExcludeSeen = None,
    further: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any other setting of the models or the training; repeatable."
        ),
    ] = None,
    search_settings: Annotated[int, typer.Option(min=1, help="search: settings to try for each method.")] = 8,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings side by side.")] = 1,
    budget_minutes: Annotated[
        float | None,
        typer.Option(
            min=0, help="Stop training after so many; the pages say what is missing.", show_default="no limit"
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Of the tables: ndcg@5, or ndcg, which takes the k of -k; ndcg, recall, hit, map, mrr.",
            show_default="ndcg and recall at 10 and 20",
        ),
    ] = None,
    cutoffs: Cutoffs = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Settings, metrics and published figures of others: {', '.join(PROTOCOLS)}. Without DIR and --out, "
            "print the commands that make its tables.",
            show_default="the paper's",
        ),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", metavar="NAME,...", help="Of the figures: png, svg, pdf, with commas between.")
    ] = "png",
    force: Annotated[bool, typer.Option("--force", help="Train anew what is there.")] = False,
    common: Common = Common(),
) -> None:
    """Make the paper's tables and figures with a dataset of yours: train what they need, write a page for each.

    Trainings are shared by their settings, and kept: the same command goes on after a kill or the end of its budget,
    and has only to write the pages when all is trained.
    """
    asked = [artefact.value for artefact in artefacts or []]
    if protocol is not None and out is None:
        _print_commands(protocol, [*asked, *([] if data is None else [str(data)])], common.as_json)
        return
    if not asked or data is None:
        raise UserError(f"got {asked[0] if asked else data or 'nothing'!s} alone, expected ARTEFACT... and then DIR")
    if out is None:
        raise UserError("--out: missing, expected a folder for the pages")
    asked_backbones, asked_methods = _names(backbones), _names(methods)
    check_names(asked_backbones, asked_methods)
    asked_settings = parse_settings(further or [])
    from rearec.evaluation.metrics import chosen_metrics
    from rearec.experiments.reproduce import reproduce as make

    asked_metrics = chosen_metrics(metrics, cutoffs)
    settings |= {"exclude_seen": exclude_seen}
    chosen = {name: value for name, value in settings.items() if value is not None}
    try:
        result = make(
            asked,
            data,
            out,
            backbones=asked_backbones,
            methods=asked_methods,
            seeds=seeds,
            first_seed=common.seed,
            settings=chosen | asked_settings,
            search_settings=search_settings,
            jobs=jobs,
            threads=common.threads,
            device=compute_device(common.device),
            budget_minutes=budget_minutes,
            formats=_names(formats) or [],
            metrics=asked_metrics,
            protocol=protocol,
            force=force,
            on_start=lambda needed, finished: note(f"{needed} trainings are needed, {finished} of them are finished"),
            on_progress=lambda progress: note(_line(progress)),
        )
    except KeyboardInterrupt:
        note("what is trained is kept: the same command goes on from there")
        raise
    for name, reason in result["left_out"].items():
        note(f"{name} is left out: {reason}")
    emit(result, common.as_json, lambda console: _render(console, result))
    if result["failed"]:
        raise typer.Exit(EXIT_FAILED_RUN)


def _print_commands(name: str, artefacts: list[str], as_json: bool) -> None:
    """What makes a protocol's tables. What stands in DIR's place is the last of them."""
    lines = protocol_named(name).commands(artefacts)
    for artefact in artefacts:
        if artefact not in ("all", *ARTEFACTS):
            raise UserError(f"--protocol {name}: got {artefact} without --out, expected OUT for what is made of it")
    if not artefacts:
        raise UserError(f"--protocol {name}: got no table or figure, expected ARTEFACT...")

    def render(console: Terminal) -> None:
        for line in lines:
            console.print(line)

    emit({"commands": lines}, as_json, render)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _line(progress: Progress) -> str:
    """One line for a run that has ended."""
    if progress.result is None:
        outcome = f"FAILED: {progress.error}"
    else:
        outcome = f"valid NDCG@20 {progress.result['valid']['ndcg@20']:.4f}"
    line = f"{progress.run.name}  {outcome}  {progress.minutes:.1f} min"
    return f"{line}  {progress.left} left" + (f", about {progress.expected_minutes:.0f} min" if progress.left else "")


def _render(console: Terminal, result: dict[str, Any]) -> None:
    from rearec.evaluation.seen import seen_words

    for name, path in result["pages"].items():
        console.print(f"{name}: {path}")
    console.print(f"full catalogue, {seen_words(result['seen'])}")
    console.print(
        f"{result['finished']} of {result['runs']} trainings are finished, {result['minutes']:.1f} minutes in all"
    )
    if result["missing"]:
        console.print("missing (the same command goes on from here):")
        for name, reason in result["missing"].items():
            console.print(f"  {name}: {reason}")
