"""Options of a command, made from the fields of an options record."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Annotated, Any, get_type_hints

import typer

from rearec.fields import flag_of

__all__ = ["with_options"]


def with_options(record: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the command's parameter ``options``, a ``record``, becomes one option for each of its fields."""
    types = get_type_hints(record)

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name == "options":
                parameters += [_parameter(entry, types[entry.name]) for entry in fields(record)]
            else:
                parameters.append(parameter.replace(annotation=hints[parameter.name]))
        parameters = [entry.replace(kind=inspect.Parameter.KEYWORD_ONLY) for entry in parameters]

        @functools.wraps(function)
        def run(**given: Any) -> None:
            values = {entry.name: given.pop(entry.name) for entry in fields(record)}
            values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            function(**given, options=record(**values))

        del run.__wrapped__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {entry.name: entry.annotation for entry in parameters}
        return run

    return decorate


def _parameter(entry: Field[Any], kind: Any) -> inspect.Parameter:
    said = entry.metadata
    # A switch that is off has no second name to turn it off.
    alone = entry.default is False
    names = [said["flags"] or flag_of(entry)] if said["flags"] or alone else []
    kind = said["choices"] or kind
    if entry.default is None:
        kind = kind | None if said["choices"] else kind
    many = isinstance(entry.default, tuple)
    option = typer.Option(
        *names,
        help=said["help"],
        metavar=said["metavar"],
        min=said["at_least"],
        rich_help_panel=said["panel"],
        show_default=said["shown"],
    )
    annotation = Annotated[list[str] if many else kind, option]  # type: ignore[valid-type]
    default = [] if many else entry.default
    return inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
