"""``rearec compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rearec.cli.command import Common, Cutoffs, ExcludeSeen, Force, Metrics, command
from rearec.cli.finished_run import TrustCode, check_code
from rearec.cli.output import emit, note, progress_bar
from rearec.cli.process import compute_device
from rearec.data.words import SplitName
from rearec.files import check_folder, check_free

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal
    from rearec.experiments.comparison_result import Comparison

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(compare)


@command
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished trainings, the baseline first.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the page, its csv files and its figures.")],
    split: Annotated[SplitName, typer.Option(help="The part of the data to predict.")] = "test",
    metrics: Metrics = None,
    cutoffs: Cutoffs = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="The baseline: a floor, such as rules, or one of the runs.",
            show_default="the first run",
        ),
    ] = None,
    exclude_seen: ExcludeSeen = None,
    users_by: Annotated[Literal["length", "none"], typer.Option(help="Groups by length of the history.")] = "length",
    items_by: Annotated[
        Literal["popularity", "none"], typer.Option(help="Groups by training count of the target.")
    ] = "popularity",
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The prepared dataset.", show_default="as trained on")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Predictions at a time.")] = 512,
    trust_code: TrustCode = False,
    force: Force = False,
    common: Common = Common(),
) -> None:
    """Say whether one run is better than another: differences on the same predictions, with 95 % intervals.

    The page has all metrics, groups of predictions by the length of the history and the popularity of the item, and
    the settings in which the runs differ.
    """
    check_folder(out)
    check_free(out / "comparison.md", replace=force)
    from rearec.evaluation.metrics import chosen_metrics
    from rearec.run_folder import RunFolder

    chosen = chosen_metrics(metrics, cutoffs)
    for run in runs:
        folder = RunFolder(run)
        folder.check_finished()
        check_code(folder, trust_code)

    from rearec.experiments.compare import compare as compare_runs

    with progress_bar(f"ranking {split} rows") as progress:
        result = compare_runs(
            runs,
            data=data,
            split=split,
            metrics=chosen,
            against=against,
            exclude_seen=exclude_seen,
            users_by=None if users_by == "none" else users_by,
            items_by=None if items_by == "none" else items_by,
            batch_rows=batch_size,
            trust_code=trust_code,
            device=compute_device(common.device),
            progress=progress,
        )
    note(str(result.seen))
    files = result.save(out, force=force)
    answer = {**result.to_dict(), "files": [str(path) for path in files]}
    emit(answer, common.as_json, lambda console: _render(console, result, files))


def _render(console: Terminal, result: Comparison, files: list[Path]) -> None:
    from rearec.experiments.comparison_result import CHANCE, short_lines

    console.print(result.title)
    for metric in result.metrics:
        console.print("")
        for line in short_lines(result.table, metric):
            console.print(line)
    console.print("")
    console.print(f"no *: {CHANCE} (the interval holds 0)")
    for file in files:
        console.print(f"written: {file}")
