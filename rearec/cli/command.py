"""What every command has: the common options, and errors as one line."""

from __future__ import annotations

import functools
import inspect
import os
import traceback
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_type_hints, overload

import typer

from rearec.cli.options import with_parameters
from rearec.cli.output import end_line, note, tell_error
from rearec.cli.process import set_threads
from rearec.distributed.environment import place
from rearec.distributed.launch import LAUNCHED, LOST
from rearec.errors import LostProcessError, UserError, in_one_line

__all__ = ["EXIT_USER_ERROR", "Common", "Cutoffs", "ExcludeSeen", "Force", "Metrics", "command"]

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
# Another process of several is gone.
EXIT_LOST = 1
PANEL = "Every command"

Effect = Literal["seed", "device", "threads"]
Body = Callable[..., None]
ExcludeSeen = Annotated[
    bool | None,
    typer.Option(
        "--exclude-seen/--keep-seen",
        help="Rank among the items that are not in the user's history, or among all.",
        show_default="as the run or the data says",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="ndcg@5 or ndcg, which takes the k of -k: ndcg, recall, hit (hit rate), map, mrr, coverage (share of "
        "the items that anybody is shown), novelty, arp (average popularity of what is shown).",
        show_default="ndcg and recall at 10 and 20, mrr",
    ),
]
Cutoffs = Annotated[
    str | None, typer.Option("-k", metavar="K,...", help="Lengths of the lists that are looked at: 5,10,50.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


def _option(flag: str, help: str, **more: Any) -> Any:
    return typer.Option(flag, help=help, rich_help_panel=PANEL, **more)


@dataclass(frozen=True)
class Common:
    """The options that every command has."""

    as_json: Annotated[bool, _option("--json", "Print one JSON object on stdout; progress goes to stderr.")] = False
    seed: Annotated[int, _option("--seed", "Seed of everything random.", min=0, max=2**63 - 1)] = 0
    device: Annotated[str, _option("--device", "auto, cpu, cuda or cuda:N.")] = "auto"
    threads: Annotated[int, _option("--threads", "CPU threads; 0 leaves the choice to the libraries.", min=0)] = 0
    debug: Annotated[bool, _option("--debug", "Show the traceback of an error.")] = False


@overload
def command(function: Body, /) -> Body: ...
@overload
def command(*, uses: Sequence[Effect] = ..., shared: bool = ...) -> Callable[[Body], Body]: ...
def command(
    function: Body | None = None, /, *, uses: Sequence[Effect] = get_args(Effect), shared: bool = False
) -> Body | Callable[[Body], Body]:
    """A decorator: the common options in place of the parameter ``common``, whose default has theirs.

    Errors that a user can mend become one line on stderr and exit code 2; ``--debug`` shows the traceback.

    uses: which of --seed, --device and --threads change anything. The others are accepted, as scripts give every
        command the same, but ``--help`` does not show them.
    shared: whether several processes can do its work together; another one is refused where torchrun or srun has
        started several.
    """
    return _command(function, uses, shared) if function is not None else lambda body: _command(body, uses, shared)


def _command(function: Body, uses: Sequence[str], shared: bool) -> Body:
    default = inspect.signature(function).parameters["common"].default
    kinds = get_type_hints(Common, include_extras=True)
    hidden = [name for name in get_args(Effect) if name not in uses]
    options = [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(default, entry.name),
            annotation=_hidden(kinds[entry.name]) if entry.name in hidden else kinds[entry.name],
        )
        for entry in fields(Common)
    ]

    @functools.wraps(function)
    def run(**given: Any) -> None:
        common = Common(**given.pop("common"))
        set_threads(common.threads)
        try:
            if not shared:
                _check_alone(function.__name__)
            function(**given, common=common)
        except KeyboardInterrupt:
            end_line()
            note("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except Exception as error:
            message = _told_to_the_user(error)
            if message is None:
                raise
            if common.debug:
                for line in traceback.format_exc().splitlines():
                    note(line)
            if not isinstance(error, LostProcessError):
                tell_error(f"error: {message}")
                raise typer.Exit(EXIT_USER_ERROR) from None
            if LAUNCHED in os.environ:
                raise typer.Exit(LOST) from None
            note(f"error: {message}")
            raise typer.Exit(EXIT_LOST) from None

    return with_parameters(run, {"common": options})


def _check_alone(name: str) -> None:
    """UserError where several processes have been started for a command that is the work of one."""
    here = place()
    if here is not None and here.size > 1:
        raise UserError(
            f"{name}: {here.size} processes were started, and it is the work of one; train, refit, evaluate, "
            "analyze and recommend are shared by several"
        )


def _hidden(kind: Any) -> Any:
    """An option's annotation, for one that ``--help`` does not show."""
    plain, option = get_args(kind)
    option = copy(option)
    option.hidden = True
    return Annotated[plain, option]


def _told_to_the_user(error: Exception) -> str | None:
    """What to say of an error that a user can mend; None for those of the program."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    # Where the reader of the output has had enough, typer ends quietly.
    if isinstance(error, UserError | OSError):
        return None if isinstance(error, BrokenPipeError) else str(error)
    # The kernels look at their environment variables when they are imported, and when they are called.
    return in_one_line(error) if isinstance(error, ValueError) and str(error).startswith("REAREC_") else None
