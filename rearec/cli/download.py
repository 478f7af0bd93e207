"""``rearec download``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rearec.cli.command import Common, command
from rearec.cli.output import emit, note
from rearec.errors import UserError

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal
    from rearec.data.download import Source

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(download)


@command(uses=())
def download(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Without it: what there is.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the files.", show_default="NAME")] = None,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="You have read the terms of the source, may and do accept them.")
    ] = False,
    common: Common = Common(),
) -> None:
    """Fetch the public source of a dataset of the paper.

    Amazon Reviews 2023 comes from the Hugging Face Hub; a file that is there is not fetched again. For Yelp's data it
    says where to get them.
    """
    from rearec.data.download import SOURCES
    from rearec.data.download import download as fetch

    if name is None:
        listed = {key: {"terms": source.terms_address, "prepare": source.prepare} for key, source in SOURCES.items()}
        emit(listed, common.as_json, lambda console: _list(console, SOURCES))
        return
    if name not in SOURCES:
        raise UserError(f"unknown source {name!r}; known are {', '.join(SOURCES)}")
    source = SOURCES[name]
    note(f"terms: {source.terms}; see {source.terms_address}")
    if source.by_hand:
        raise UserError(f"{name}: not fetched by this command: {source.by_hand}; next: {source.prepare}")
    asked = accept_terms or sys.stdin.isatty()
    if not asked or not (accept_terms or typer.confirm("Do you accept them, and may you use the data?", err=True)):
        raise UserError(f"{name}: nothing is fetched without --accept-terms")
    folder = out or Path(name)
    note(f"fetching {', '.join(source.names)}")
    result = {
        "folder": str(folder),
        "files": fetch(source, folder),
        "prepare": source.prepare.replace("DIR", shlex.quote(str(folder))),
    }
    emit(result, common.as_json, lambda console: console.print(f"in {folder}; next: {result['prepare']}"))


def _list(console: Terminal, sources: Mapping[str, Source]) -> None:
    for key, source in sources.items():
        console.print(f"{key}: {', '.join(source.names) or source.by_hand}")
