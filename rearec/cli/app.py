"""The application object and its entry point."""

from __future__ import annotations

from typing import Annotated

import typer

from rearec.cli import analyze, demo, download, embed, evaluate, info, prepare, recommend, reproduce, train
from rearec.cli.common import EXIT_USER_ERROR, give_up_stdout

__all__ = ["app", "main"]

app = typer.Typer(
    name="rearec",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"rearec {version('rearec')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Sequential recommendation with latent reasoning (ReaRec): prepare data, train, evaluate, analyze, recommend."""


for _module in (demo, download, prepare, embed, train, evaluate, analyze, reproduce, recommend, info):
    _module.register(app)


def main() -> None:
    """Entry point of the ``rearec`` script."""
    try:
        app()
    except OSError as error:
        # Commands answer for their own faults: this is --help or --version.
        typer.echo(f"error: {give_up_stdout(error)}", err=True)
        raise SystemExit(EXIT_USER_ERROR) from None
