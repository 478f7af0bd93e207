"""``rearec sample``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rearec.cli.command import Common, Force, command
from rearec.cli.output import emit

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(sample)


@command
def sample(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The csv file to write.")] = Path("events.csv"),
    force: Force = False,
    common: Common = Common(),
) -> None:
    """Write the purchases of a small shop that does not exist, with titles, to try everything on.

    Generated so that the order of purchases matters: a model that reads histories beats popularity and the last item.
    """
    from rearec.data.synthetic.shop import write_sample

    events = write_sample(out, seed=common.seed, force=force)
    columns = "--user-column user --item-column item --timestamp-column time --title-column title"
    result = {
        "file": str(out),
        "events": events,
        "next": f"rearec prepare table {shlex.quote(str(out))} {columns} --out data",
    }

    def render(console: Terminal) -> None:
        console.print(f"{events:,} purchases written to {out}")
        console.print(f"next: {result['next']}")

    emit(result, common.as_json, render)
