"""``rearec tune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.command import Common, ExcludeSeen, Force, command
from rearec.cli.output import emit, metric_table, note
from rearec.cli.process import compute_device
from rearec.errors import UserError
from rearec.experiments.named_settings import check_names, parse_settings
from rearec.experiments.search_space import parse_search
from rearec.models.config import Method, PaperBackbone
from rearec.training.presets import Preset

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from rearec.cli.terminal import Terminal
    from rearec.experiments.study_result import StudyResult

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(tune)


@command
def tune(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset made by 'rearec prepare'.")],
    out: Annotated[Path, typer.Option(metavar="STUDY", help="Folder for the study, its page and the best RUN.")],
    method: Annotated[Method, typer.Option(help="Whose settings are searched.")] = "prl",
    backbone: Annotated[PaperBackbone, typer.Option(help="unisrec and morec: run 'rearec embed' before.")] = "sasrec",
    preset: Annotated[Preset, typer.Option(help="The settings of the first trial.")] = "best",
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Trials in all.", show_default="20, or as many as --minutes allows"),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="End after so many.", show_default="no limit")] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=RANGE",
            help="What else, or otherwise, is tried: lr=1e-4:1e-2:log, steps=1,2,3, dim=32:128; repeatable.",
        ),
    ] = None,
    fixed: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting that is fixed; repeatable.")
    ] = None,
    exclude_seen: ExcludeSeen = None,
    resume: Annotated[bool, typer.Option("--resume", help="Only go on with a study that is there.")] = False,
    prune: Annotated[bool, typer.Option("--prune/--no-prune", help="End trials early that are bad.")] = True,
    keep_runs: Annotated[bool, typer.Option("--keep-runs", help="Keep the RUN folders of all trials.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Trials side by side.")] = 1,
    force: Force = False,
    common: Common = Common(),
) -> None:
    """Search for the settings that do best on validation, with Optuna; the same command goes on after a kill.

    The test rows are ranked once, by the chosen training: STUDY/best. STUDY/best.yaml has its settings. Needs Optuna,
    which the extra tune installs.
    """
    check_names([backbone], [method])
    settings = parse_settings(fixed or [])
    parse_search(search or [])
    for name in ("backbone", "method", "seed", "exclude_seen"):
        if name in settings:
            option = "--exclude-seen or --keep-seen" if name == "exclude_seen" else f"--{name}"
            raise UserError(f"--set {name}: is chosen by {option}")
    if exclude_seen is not None:
        settings["exclude_seen"] = exclude_seen
    from rearec.experiments.tune import tune as search_settings

    try:
        result = search_settings(
            data,
            out,
            method=method,
            backbone=backbone,
            preset=preset,
            trials=trials,
            minutes=minutes,
            search=search or [],
            settings=settings,
            seed=common.seed,
            resume=resume,
            force=force,
            prune=prune,
            keep_runs=keep_runs,
            jobs=jobs,
            threads=common.threads,
            device=compute_device(common.device),
            on_start=_tell_start,
            on_trial=_tell_trial,
            on_epoch=_tell_epoch,
        )
    except KeyboardInterrupt:
        note("what is trained is kept: the same command goes on from there")
        raise
    emit(result.to_dict(), common.as_json, lambda console: _render(console, result, method))


def _tell_start(ended: int, notes: list[str]) -> None:
    if ended:
        note(f"going on with a study of {ended} trial{'' if ended == 1 else 's'}")
    for line in notes:
        note(line)


def _tell_epoch(number: int, row: dict[str, Any]) -> None:
    note(f"  trial {number}  epoch {row['epoch']:>3}  valid NDCG@20 {row['valid_ndcg@20']:.4f}")


def _tell_trial(trial: FrozenTrial) -> None:
    state = trial.state.name.lower()
    settings = ", ".join(f"{name} {_short(value)}" for name, value in trial.user_attrs.get("settings", {}).items())
    if state == "complete":
        state = f"valid NDCG@20 {trial.value:.4f} (epoch {trial.user_attrs['best_epoch']})"
    elif state == "fail":
        state = f"FAILED: {trial.user_attrs.get('error', 'its process died')}"
    note(f"trial {trial.number}: {state}  {settings}")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _render(console: Terminal, result: StudyResult, method: str) -> None:
    from rearec.report.floors import beside_floors

    for line in repr(result).splitlines():
        console.print(line)
    if result.test is not None:
        rows = beside_floors(method, result.test)
        console.print(metric_table("Test rows, full catalogue", rows, seen=result.test["seen"]))
    for file in result.files:
        console.print(f"written: {file}")
    console.print(f"the best training: {result.run}")
