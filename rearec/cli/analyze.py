"""``rearec analyze``."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rearec.cli.common import (
    Debug,
    Device,
    ExcludeSeen,
    Force,
    Json,
    Seed,
    Threads,
    command,
    compute_device,
    dataset_path,
    emit,
    note,
    seen_of_run,
    set_threads,
)
from rearec.cli.evaluate import Split
from rearec.errors import UserError
from rearec.files import check_way

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal
    from rearec.report.page import Page

__all__ = ["register"]


class Analysis(str, Enum):
    steps = "steps"
    ceiling = "ceiling"
    subgroups = "subgroups"
    latency = "latency"
    similarity = "similarity"
    ranks = "ranks"
    case = "case"


TITLES = {
    Analysis.steps: "Metrics by reasoning step",
    Analysis.ceiling: "Ceiling: the best step of every row",
    Analysis.subgroups: "Subgroups of users and items",
    Analysis.latency: "Latency by number of reasoning steps",
    Analysis.similarity: "Similarity between reasoning steps",
    Analysis.ranks: "Rank of the target by reasoning step",
    Analysis.case: "Cases in which reasoning helps most",
}
# The options that only one analysis has, and what they are where they are not given.
OWN_OPTIONS = {
    "--rows": {Analysis.latency: 256, Analysis.similarity: 10_000},
    "--repeats": {Analysis.latency: 30},
    "--cases": {Analysis.case: 3},
    "-k": {Analysis.case: 5},
}
# Those that rank targets or items.
RANKING = (Analysis.steps, Analysis.ceiling, Analysis.subgroups, Analysis.ranks, Analysis.case)
COMPARING = (Analysis.ceiling, Analysis.subgroups)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(analyze)


@command
def analyze(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished training.")],
    analysis: Annotated[Analysis, typer.Argument(help="What to look into.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the page, its csv and its figure.")],
    split: Annotated[Split, typer.Option(help="Rows to look at.")] = Split.test,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The prepared dataset.", show_default="as trained on")
    ] = None,
    exclude_seen: ExcludeSeen = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Other runs on the same data: for ceiling as many base runs as RUN has states (K + 1) with different "
            "seeds, its control; for subgroups the runs to compare with.",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="latency: histories of a batch; similarity: most rows.", show_default="256; 10000"),
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="latency: measurements.", show_default="30")] = None,
    count: Annotated[int | None, typer.Option("--cases", min=1, help="case: how many.", show_default="3")] = None,
    k: Annotated[int | None, typer.Option("-k", min=1, help="case: items of a ranking.", show_default="5")] = None,
    force: Force = False,
    as_json: Json = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 0,
    debug: Debug = False,
) -> None:
    """Look into a trained model: a Markdown page with its numbers as csv and a figure.

    steps: metrics of each reasoning state taken alone. ceiling: if the best step were known for every row, beside the
    same for base models. subgroups: by history length and target popularity. latency: time by number of steps.
    similarity: cosine between steps. ranks: where the target stands. case: histories on which reasoning helps most.
    """
    options = _own_options(analysis, {"--rows": rows, "--repeats": repeats, "--cases": count, "-k": k})
    if against and analysis not in COMPARING:
        raise UserError(f"--against: belongs to {_listed(COMPARING)}, not {analysis.value}")
    if exclude_seen is not None and analysis not in RANKING:
        option = "--exclude-seen" if exclude_seen else "--keep-seen"
        raise UserError(f"{option}: {analysis.value} ranks nothing; it belongs to {_listed(RANKING)}")
    set_threads(threads)
    from rearec.run_folder import RunFolder

    folders = [RunFolder(path) for path in (run, *(against or []))]
    for folder in folders:
        folder.check_finished()
    _check_out(out, analysis, force)
    data = dataset_path(folders[0], data)

    from rearec.cli.analyses import ANALYSES, Subject
    from rearec.data import load_dataset
    from rearec.reasoning import ReaRec
    from rearec.report.page import Page

    dataset = load_dataset(data)
    for folder in folders:
        folder.check_fingerprint(dataset.fingerprint, data)
    where = compute_device(device)
    models = [ReaRec.from_pretrained(folder.path, map_location=where) for folder in folders]
    seen = seen_of_run(folders[0], dataset, exclude_seen) if analysis in RANKING else None
    for folder in folders[1:]:
        if seen is not None and bool(folder.excludes_seen()) != seen.exclude:
            note(f"{folder.path}: its best epoch was chosen the other way round")
    exclude = seen is not None and seen.exclude
    subject = Subject(folders, models, dataset, split.value, options, seed, exclude)
    page = Page(out, analysis.value, f"{TITLES[analysis]}: {subject.names[0]}")
    result = ANALYSES[analysis.value](subject, page)
    page.write()
    emit(
        {
            "run": str(run),
            "analysis": analysis.value,
            "split": split.value,
            **({} if seen is None else {"seen": seen.name}),
            "files": [str(path) for path in page.files],
            "result": result,
        },
        as_json,
        lambda console: _render(console, page),
    )


def _own_options(analysis: Analysis, given: dict[str, int | None]) -> dict[str, int]:
    """The options of this analysis; UserError for one that is not its own."""
    options = {}
    for name, value in given.items():
        defaults = OWN_OPTIONS[name]
        if analysis in defaults:
            options[name] = defaults[analysis] if value is None else value
        elif value is not None:
            raise UserError(f"{name}: belongs to {_listed(defaults)}, not {analysis.value}")
    return options


def _listed(analyses: Iterable[Analysis]) -> str:
    *first, last = (each.value for each in analyses)
    return f"{', '.join(first)} and {last}" if first else last


def _check_out(out: Path, analysis: Analysis, force: bool) -> None:
    """UserError where the page may not or cannot be written, before anything is computed."""
    check_way(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: exists and is not a folder; choose another one")
    for extension in ("md", "csv", "png"):
        file = out / f"{analysis.value}.{extension}"
        if file.exists() and not force:
            raise UserError(f"{file}: exists already; --force replaces it")


def _render(console: Terminal, page: Page) -> None:
    from rich.markdown import Markdown

    console.paragraphs(Markdown(page.markdown))
    console.print()
    for file in page.files:
        console.print(f"written: {file}")
