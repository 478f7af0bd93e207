"""The application object and its entry point."""

from __future__ import annotations

import functools
import io
import re
import sys
import warnings
from typing import Annotated, Any

import typer

from rearec.cli import (
    analyze,
    audit,
    compare,
    demo,
    download,
    embed,
    evaluate,
    info,
    prepare,
    prior,
    recommend,
    refit,
    reproduce,
    sample,
    serve,
    train,
    tune,
)
from rearec.cli.command import EXIT_USER_ERROR
from rearec.cli.help import Command, Group
from rearec.cli.output import give_up_stdout, note
from rearec.cli.process import COMMAND_LINE

__all__ = ["PANELS", "app", "main"]

# The commands under the headings of ``rearec --help``; each is called as its module is.
MODULES = {
    "Start": (demo, sample, prepare, train),
    "Use a trained model": (evaluate, compare, recommend, serve, prior, refit),
    "Research": (analyze, audit, reproduce, tune),
    "Data, texts and this installation": (download, embed, info),
}
PANELS = {heading: tuple(each.__name__.rpartition(".")[2] for each in those) for heading, those in MODULES.items()}

# Endings of files that people take for a format of `rearec prepare`.
FILES_OF_COLUMNS = "csv|tsv|parquet|txt|jsonl|dataframe"


class _Commands(Group):
    """Wrong arguments are one line as all other errors are, with the user's words as they are."""

    panels = PANELS

    def main(self, args: Any = None, *more: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        COMMAND_LINE.set(sys.argv[1:] if args is None else [*args])
        run = functools.partial(super().main, args, *more, **{**extra, "standalone_mode": False})
        if not standalone_mode:
            return run()
        try:
            status = run()
        except typer.Abort:
            note("aborted")
            sys.exit(1)
        except Exception as error:
            # The class has no public name: typer brings a click of its own, or not, depending on its release.
            if not hasattr(error, "format_message"):
                raise
            sys.exit(_usage_error(error))
        sys.exit(status or 0)


def _usage_error(error: Any) -> int:
    """Print what is wrong with the arguments, without any the help; returns the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message(), err=True)
        return int(error.exit_code)
    message = re.sub(r"\s*\n\s*", " ", error.format_message()).rstrip(".").replace("Value error, ", "")
    if re.search(rf"'({FILES_OF_COLUMNS})' is not one of .*'table'", message):
        message += "; files of columns have the format table"
    context = getattr(error, "ctx", None)
    note(f"error: {message}" + (f" (see '{context.command_path} --help')" if context else ""))
    return int(error.exit_code)


class _Application(typer.Typer):
    """Its commands have our kind of help."""

    def command(self, *names: Any, **options: Any) -> Any:
        return super().command(*names, **{"cls": Command, **options})


app = _Application(
    name="rearec",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
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
    """Sequential recommendation with latent reasoning (ReaRec): prepare data, train, evaluate, analyze, recommend.

    Every command takes --json, --seed, --device, --threads and --debug; its help shows those that change anything.
    """


for _modules in MODULES.values():
    for _module in _modules:
        _module.register(app)


def main() -> None:
    """Entry point of the ``rearec`` script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What its encoding lacks is shown as an escape, as it is on stderr, instead of ending the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    # A library's warning is one line for the user, too.
    warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
    try:
        # However it was started: completion and the help's first line go by this name.
        app(prog_name="rearec")
    except OSError as error:
        # Commands answer for their own faults: this is --help or --version.
        note(f"error: {give_up_stdout(error)}")
        raise SystemExit(EXIT_USER_ERROR) from None
