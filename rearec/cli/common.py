"""What the commands share: common options, the set-up of the process, errors, the two forms of output."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from rearec.errors import UserError
from rearec.threads import set_threads
from rearec.visible import visible

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from rearec.cli.terminal import Terminal
    from rearec.data.dataset import SequenceDataset
    from rearec.evaluation.seen import SeenItems, SeenName
    from rearec.run_folder import RunFolder

__all__ = [
    "Debug",
    "Device",
    "ExcludeSeen",
    "Force",
    "Json",
    "Seed",
    "Threads",
    "check_steps",
    "command",
    "compute_device",
    "dataset_path",
    "device_of",
    "emit",
    "give_up_stdout",
    "metric_table",
    "note",
    "progress_bar",
    "seen_of_run",
    "set_threads",
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; progress goes to stderr.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 leaves the choice to the libraries.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
ExcludeSeen = Annotated[
    bool | None,
    typer.Option(
        "--exclude-seen/--keep-seen",
        help="Rank among the items that are not in a row's history, or among all.",
        show_default="as the run or the data says",
    ),
]
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
            if isinstance(error, BrokenPipeError):
                # A reader such as head has had enough: typer ends quietly.
                raise
            if kwargs.get("debug"):
                for line in traceback.format_exc().splitlines():
                    note(line)
            note(f"error: {_in_one_line(error)}")
            raise typer.Exit(EXIT_USER_ERROR) from None
        except KeyboardInterrupt:
            note("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return run  # type: ignore[return-value]


def _in_one_line(error: UserError | OSError) -> str:
    """What to tell the user, with the file it is about where the error knows it."""
    if isinstance(error, UserError) or error.filename is None:
        return str(error)
    return f"{error.filename}: {error.strerror}"


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


def compute_device(name: str) -> torch.device:
    """The torch device of ``--device``, for a command that computes there.

    UserError where it does not exist or where the backend that REAREC_BACKEND asks for cannot run on it.
    """
    from rearec_kernels import available_backends

    device = device_of(name)
    wanted, available = os.environ.get("REAREC_BACKEND"), available_backends(device)
    if wanted and wanted not in available:
        raise UserError(f"REAREC_BACKEND: got {wanted!r}, expected one of {', '.join(available)} on {device}")
    return device


def dataset_path(run: RunFolder, data: Path | None) -> Path:
    """Where the dataset of a finished run is: ``--data``, or else where it was when the run was trained."""
    if data is not None:
        return data
    recorded = run.options()["dataset"].get("path")
    if recorded is None:
        raise UserError(f"{run.path}: does not say which dataset it was trained on; give it with --data")
    path = Path(recorded)
    if not path.is_dir():
        raise UserError(f"{path}: the dataset {run.path} was trained on is gone; say where it is with --data")
    return path


def seen_of_run(run: RunFolder, dataset: SequenceDataset, exclude: bool | None) -> SeenItems:
    """Whether seen items are left out in what is said of a finished run; tells the user, and why."""
    from rearec.evaluation import seen_items

    of_run = run.excludes_seen()
    seen = seen_items(dataset, exclude, of_run=of_run)
    unsaid = exclude is None and of_run is None
    note(f"{seen}; {run.path} was trained before there was a choice" if unsaid else str(seen))
    return seen


def check_steps(steps: int | None, trained: int) -> None:
    """UserError where ``--steps`` asks for more reasoning steps than the model was trained for."""
    if steps is not None and steps > trained:
        raise UserError(f"--steps: got {steps}, expected 0..{trained}: the model was trained for {trained} steps")


def note(message: str) -> None:
    """One line for the user on stderr, beside the result; control characters in it as escapes."""
    typer.echo(visible(message), err=True)


def emit(result: Mapping[str, Any], as_json: bool, render: Callable[[Terminal], None]) -> None:
    """The result of a command on stdout: one JSON object, or what ``render`` prints."""
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
    if not sys.stderr.isatty():
        note(description)
        yield lambda done, total: None
        return
    from rearec.cli.terminal import progress

    with progress() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def metric_table(
    title: str, rows: Mapping[str, Mapping[str, Any]], metrics: Sequence[str] | None = None, *, seen: SeenName
) -> Table:
    """A table of metrics, one line per name; the title says too whether seen items are in the ranking.

    metrics: the columns, with standard errors; None for those of every evaluation, NDCG@20 alone with its error.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from rearec.evaluation.metrics import METRICS, heading
    from rearec.evaluation.seen import seen_words

    with_error = ("ndcg@20",) if metrics is None else metrics
    # The usual ones are narrow enough for 80 columns, others are wrapped.
    table = Table(
        title=f"{title}, {seen_words(seen)}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", no_wrap=True)
    for column in (*(heading(metric) for metric in metrics or METRICS), "rows"):
        table.add_column(column, justify="right", no_wrap=metrics is None, overflow="fold")
    for name, row in rows.items():
        cells = []
        for metric in metrics or METRICS:
            error = row[f"{metric}_se"] if metric in with_error else None
            cells.append(_number(row[metric]) + ("" if error is None else f" ± {_number(error)}"))
        table.add_row(name, *cells, f"{row['rows']:,}")
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
