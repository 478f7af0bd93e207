"""What the commands share: common options, the set-up of the process, errors, the two forms of output."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from rearec.errors import UserError

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "Debug",
    "Device",
    "Force",
    "Json",
    "Seed",
    "Threads",
    "command",
    "device_of",
    "emit",
    "error_console",
    "metric_table",
    "note",
    "progress_bar",
    "set_threads",
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; progress goes to stderr.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 leaves the choice to the libraries.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

Function = TypeVar("Function", bound=Callable[..., None])


def command(function: Function) -> Function:
    """Turn the errors a user can mend into one line on stderr and exit code 2; ``--debug`` shows the traceback."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (UserError, OSError) as error:
            message = _in_one_line(error)
            if message is None:
                raise
            if kwargs.get("debug"):
                traceback.print_exc()
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(EXIT_USER_ERROR) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return run  # type: ignore[return-value]


def _in_one_line(error: UserError | OSError) -> str | None:
    """What to tell the user; None where the error does not say which file it is about, and so is not his."""
    if isinstance(error, UserError):
        return str(error)
    return None if error.filename is None else f"{error.filename}: {error.strerror}"


def set_threads(threads: int) -> None:
    """Limit the threads of the libraries that are about to be imported (torch, polars); 0 changes nothing."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)


def device_of(name: str) -> torch.device:
    """The torch device of ``--device``; UserError where it does not exist here."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device: got {name!r}, expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device: got {name!r}, expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device: {name} is not usable, {torch.cuda.device_count()} CUDA devices found")
    return device


def note(message: str) -> None:
    """One line for the user on stderr, beside the result."""
    typer.echo(message, err=True)


def emit(result: Mapping[str, Any], as_json: bool, render: Callable[[Console], None]) -> None:
    """The result of a command on stdout: one JSON object, or what ``render`` prints."""
    if as_json:
        typer.echo(json.dumps(result, allow_nan=False))
        return
    from rich.console import Console

    render(Console(width=None if sys.stdout.isatty() else 120))


def error_console() -> Console:
    """A rich console on stderr."""
    from rich.console import Console

    return Console(stderr=True, width=None if sys.stderr.isatty() else 120)


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, fed with (done, total); where stderr is no terminal, the description alone."""
    if not sys.stderr.isatty():
        note(description)
        yield lambda done, total: None
        return
    from rich.progress import Progress

    with Progress(console=error_console(), transient=True) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def metric_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of metrics: one line per name, NDCG@20 with its standard error."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    # Narrow enough for 80 columns.
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for heading in ("NDCG@10", "NDCG@20", "Recall@10", "Recall@20", "MRR", "rows"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, metrics in rows.items():
        cells = [_number(metrics[key]) for key in ("ndcg@10", "ndcg@20", "recall@10", "recall@20", "mrr")]
        if metrics["ndcg@20_se"] is not None:
            cells[1] += f" ± {metrics['ndcg@20_se']:.4f}"
        table.add_row(name, *cells, f"{metrics['rows']:,}")
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
