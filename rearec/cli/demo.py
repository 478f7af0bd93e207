"""``rearec demo``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.command import Common, ExcludeSeen, Force, command
from rearec.cli.output import emit, metric_table, note
from rearec.cli.process import compute_device
from rearec.experiments import DEMO_EPOCHS, DEMO_USERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from rearec.cli.terminal import Terminal
    from rearec.experiments.demo import MethodState

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(demo)


@command
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the data, the runs and the plots.")] = Path(
        "rearec-demo"
    ),
    users: Annotated[int, typer.Option(min=10, help="Users to generate.")] = DEMO_USERS,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each training.")] = DEMO_EPOCHS,
    exclude_seen: ExcludeSeen = None,
    force: Force = False,
    common: Common = Common(threads=1),
) -> None:
    """See reasoning at work in minutes: data is generated, three models are trained on it, plots are drawn.

    The data is such that the next item is found in several look-ups, one after the other. base does not reason, erl
    and prl are the paper's two methods. Takes about three minutes on two cores; the models are small, one thread is
    enough for them. demo.json in DIR has all numbers, and says at length how the data is made.
    """
    from rearec.cli.terminal import stderr_terminal
    from rearec.experiments.demo import IN_SHORT, run_demo

    if not common.as_json:
        stderr_terminal().paragraphs(IN_SHORT)
    with _live(epochs) as on_progress:
        result = run_demo(
            out,
            seed=common.seed,
            users=users,
            epochs=epochs,
            exclude_seen=exclude_seen,
            device=compute_device(common.device),
            force=force,
            on_progress=on_progress,
        )
    emit(result, common.as_json, lambda console: _render(console, out, result))


@contextmanager
def _live(epochs: int) -> Iterator[Callable[[str, Mapping[str, MethodState]], None]]:
    """The trainings side by side on stderr: a table that is kept current, or, without a terminal, a line per epoch."""
    if not sys.stderr.isatty():
        yield lambda method, states: note(_line(method, states[method], epochs))
        return
    from rich.live import Live

    from rearec.cli.terminal import stderr_terminal

    with Live(console=stderr_terminal(), transient=True) as live:
        yield lambda method, states: live.update(_table(states, epochs))


def _line(method: str, state: MethodState, epochs: int) -> str:
    assert state.row is not None
    loss, valid = state.row["train_loss"], state.row["valid_ndcg@20"]
    return f"{method:<4}  epoch {state.row['epoch']:>2}/{epochs}  loss {loss:.4f}  valid NDCG@20 {valid:.4f}"


def _table(states: Mapping[str, MethodState], epochs: int) -> Table:
    from rich.table import Table

    table = Table()
    for heading in ("", *states):
        table.add_column(heading, justify="right" if heading else "left")
    rows = {
        "epoch": lambda state: f"{state.row['epoch']}/{epochs}",
        "training loss": lambda state: f"{state.row['train_loss']:.4f}",
        "valid NDCG@20": lambda state: f"{state.row['valid_ndcg@20']:.4f}",
        "best so far": lambda state: f"{state.best:.4f}",
        "seconds": lambda state: f"{state.seconds:.0f}",
    }
    for name, cell in rows.items():
        table.add_row(name, *(cell(state) if state.row is not None else "–" for state in states.values()))
    return table


def _render(console: Terminal, out: Path, result: dict[str, Any]) -> None:
    from rearec.experiments.demo import METHODS
    from rearec.report.floors import floors_of

    rows = {**floors_of(result), **{name: result[name] for name in METHODS}}
    console.print(metric_table("Test rows, full catalogue", rows, seen=result["seen"]))
    for name, path in result["plots"].items():
        console.print(f"plot of {name}: {path}")
    example = result["example"]
    theme = f"item-{example['theme']}-"
    console.print(f"{result['seconds']:.0f} seconds; all of it is in {out}; try")
    console.print(f"  rearec recommend {shlex.join([str(out / 'erl'), *example['history']])}")
    console.paragraphs(
        f"The look-ups of this history end at theme {example['theme']}: names that begin with {theme} are right."
    )
