"""``rearec download``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rearec.cli.command import Common, command
from rearec.cli.output import emit, note
from rearec.errors import UserError

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal
    from rearec.data.sources import Source

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(download)


@command
def download(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Without it: what there is.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the files.", show_default="NAME")] = None,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="You have read the terms of the source, may and do accept them.")
    ] = False,
    common: Common = Common(),
) -> None:
    """Fetch the public source of a dataset of the paper.

    What was cut goes on at the next call; files are checked against the SHA-256 of their first download.
    """
    from rearec.data.sources import SOURCES

    if name is None:
        listed = {key: {"terms": source.terms_address, "prepare": source.prepare} for key, source in SOURCES.items()}
        emit(listed, common.as_json, _list)
        return
    if name not in SOURCES:
        raise UserError(f"unknown source {name!r}; known are {', '.join(SOURCES)}")
    source = SOURCES[name]
    note(f"terms: {source.terms}; see {source.terms_address}")
    asked = accept_terms or sys.stdin.isatty()
    if not asked or not (accept_terms or typer.confirm("Do you accept them, and may you use the data?", err=True)):
        raise UserError(f"{name}: nothing is fetched without --accept-terms")
    folder = out or Path(name)
    checksums = _fetch_with_progress(source, folder)
    result = {
        "folder": str(folder),
        "files": checksums,
        "prepare": source.prepare.replace("DIR", shlex.quote(str(folder))),
    }
    emit(result, common.as_json, lambda console: console.print(f"in {folder}; next: {result['prepare']}"))


def _list(console: Terminal) -> None:
    from rearec.data.sources import SOURCES

    for key, source in SOURCES.items():
        console.print(f"{key}: {', '.join(file.name for file in source.files)}")


def _fetch_with_progress(source: Source, folder: Path) -> dict[str, str]:
    from rearec.data.download import download as fetch

    if not sys.stderr.isatty():
        note(f"fetching {', '.join(file.name for file in source.files)}")
        return fetch(source, folder)
    from rich.progress import BarColumn, DownloadColumn, TaskProgressColumn, TimeRemainingColumn, TransferSpeedColumn

    from rearec.cli.terminal import progress

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), DownloadColumn(), TransferSpeedColumn())
    with progress(*columns, transient=False) as bar:
        tasks = {file.name: bar.add_task(file.name, total=None) for file in source.files}
        return fetch(
            source, folder, lambda file, done, total: bar.update(tasks[file], completed=done, total=total or None)
        )
