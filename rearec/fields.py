"""What a field of an options record says about itself: the command line, its help and its checks come from there."""

from __future__ import annotations

import math
from dataclasses import Field, field, fields
from typing import Any, get_args

from rearec.errors import UserError

__all__ = ["check_fields", "choices_of", "flag_of", "setting"]


def setting(
    help: str,
    *,
    default: Any = None,
    panel: str | None = None,
    metavar: str | None = None,
    at_least: int | None = None,
    choices: Any = None,
    flags: str | None = None,
    shown: str | bool = False,
) -> Any:
    """A field of a dataclass with what is said of it.

    Args:
        help: a line for the reader of ``--help``.
        panel: the heading that it stands under there.
        metavar: the word for its value there.
        at_least: its least value.
        choices: the ``Literal`` of the words that it takes.
        flags: its names on the command line, unless they follow from its own.
        shown: what ``--help`` says of the default.
    """
    said = {"help": help, "panel": panel, "metavar": metavar, "at_least": at_least, "choices": choices}
    return field(default=default, metadata={**said, "flags": flags, "shown": shown})


def flag_of(entry: Field[Any]) -> str:
    """The name of a field on the command line; of a switch that is on by default the one that turns it off."""
    flags = str(entry.metadata.get("flags") or f"--{entry.name.replace('_', '-')}").split("/")
    return flags[-1] if entry.default is True else flags[0]


def choices_of(entry: Field[Any]) -> tuple[str, ...]:
    """The words that a field takes; empty where it takes others."""
    return get_args(entry.metadata.get("choices"))


def check_fields(options: Any) -> None:
    """What each field of an options record says of its values.

    Raises:
        UserError: a value is no finite number, is less than the least, or none of the words.
    """
    for entry in fields(options):
        value = getattr(options, entry.name)
        if value is None:
            continue
        words, least = choices_of(entry), entry.metadata.get("at_least")
        if words and value not in words:
            raise UserError(f"unknown {entry.name.replace('_', ' ')} {value!r}; known are {', '.join(words)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{flag_of(entry)} must be a finite number, got {value}")
        if least is not None and value < least:
            raise UserError(f"{flag_of(entry)} must be at least {least}, got {value}")
