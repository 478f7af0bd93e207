"""What commands print: notes, progress, and their result in one of two forms."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from rearec.distributed.environment import place
from rearec.distributed.launch import COURTESY, tell
from rearec.errors import UserError, visible

if TYPE_CHECKING:
    from rearec.cli.tables import FittingTable
    from rearec.cli.terminal import Terminal
    from rearec.evaluation.seen import SeenName

__all__ = [
    "emit",
    "end_line",
    "give_up_stdout",
    "is_terminal",
    "metric_table",
    "note",
    "progress_bar",
    "speaks",
    "tell_error",
]


def note(message: str) -> None:
    """One line for the user on stderr, beside the result; control characters in it as escapes.

    Of several processes that run a command together the first one speaks, here as in the functions below.
    """
    if speaks():
        typer.echo(visible(message), err=True)


def tell_error(line: str) -> None:
    """Tell the user of an error that ends the command: of several processes the first one, or who started them."""
    here = place()
    if here is None or here.rank == 0:
        if here is None or not tell(0, line):
            note(line)
        return
    if not tell(here.rank, line):
        time.sleep(COURTESY)


def end_line() -> None:
    """Begin a line on a terminal, where the ^C of an interruption or what is left of a bar stands on the last one."""
    if is_terminal():
        typer.echo(err=True)


def is_terminal() -> bool:
    """Whether somebody reads stderr as it comes."""
    return sys.stderr.isatty() and speaks()


def speaks() -> bool:
    """Whether this process is the only one, or the first, of those that torchrun or srun has started."""
    try:
        here = place()
    except UserError:
        return True
    return here is None or here.rank == 0


def emit(result: Mapping[str, Any], as_json: bool, render: Callable[[Terminal], None]) -> None:
    """The result of a command on stdout: one JSON object, or what ``render`` prints."""
    if not speaks():
        return
    try:
        if as_json:
            typer.echo(json.dumps(result, allow_nan=False))
            return
        from rearec.cli.terminal import stdout_terminal

        render(stdout_terminal())
        sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.filename is not None:
            raise
        raise UserError(give_up_stdout(error)) from error


def give_up_stdout(error: OSError) -> str:
    """What to tell the user of a standard output that cannot be written; the rest of what it was to get is dropped."""
    # Otherwise Python tries again when the process ends, and complains in its own way.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return f"standard output: cannot be written: {error.strerror or error}"


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, fed with (done, total); where stderr is no terminal, the description alone."""
    if not is_terminal():
        note(description)
        yield lambda done, total: None
        return
    from rearec.cli.terminal import progress

    with progress() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def metric_table(
    title: str, rows: Mapping[str, Mapping[str, Any]], metrics: Sequence[str] | None = None, *, seen: SeenName
) -> FittingTable:
    """A table of metrics, one line per name; the title says too whether seen items are in the ranking.

    It is as narrow as the terminal (`rearec.cli.tables`).

    metrics: the columns, with standard errors; None for those of every evaluation, NDCG@20 alone with its error.
    """
    from rearec.cli.tables import Cell, FittingTable
    from rearec.evaluation.metrics import METRICS, heading
    from rearec.evaluation.seen import seen_words
    from rearec.report.digits import number

    with_error = ("ndcg@20",) if metrics is None else metrics
    lines = []
    for name, row in rows.items():
        cells = []
        for metric in metrics or METRICS:
            error = row[f"{metric}_se"] if metric in with_error else None
            cells.append(Cell(number(row[metric]), "" if error is None else f"± {number(error)}"))
        lines.append((name, [*cells, Cell(f"{row['rows']:,}")]))
    headings = [heading(metric) for metric in metrics or METRICS]
    return FittingTable(f"{title}, {seen_words(seen)}", [*headings, "rows"], lines)
