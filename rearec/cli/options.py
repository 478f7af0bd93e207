"""Options of a command, made from the fields of options records."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, get_args, get_type_hints

import typer

from rearec.fields import Setting, is_code, settings

__all__ = ["completing", "options_of", "unset_options", "with_options", "with_parameters"]

Command = Callable[..., None]


def options_of(record: type) -> list[Setting]:
    """The options that set the fields of a record: all that have a help."""
    return [said for said in settings(record).values() if said.help is not None]


def unset_options(record: type, shown: Mapping[str, str]) -> list[Setting]:
    """Options for some fields of a record, None where they are not given.

    shown: by field, what ``--help`` says of the default.
    """
    known = settings(record)
    return [replace(known[name], default=None, panel=None, shown=text) for name, text in shown.items()]


def with_options(*, panels: Sequence[str] = (), **groups: Iterable[Setting]) -> Callable[[Command], Command]:
    """A decorator: one option for each setting of the groups, in place of the command's parameters of their names.

    Each of these parameters gets a dictionary of values by field.

    panels: the headings in the order in which ``--help`` shall have them, where it is not that of the settings.
    """
    order = {panel: place for place, panel in enumerate(panels)}
    options = {
        group: [_parameter(said) for said in sorted(members, key=lambda said: order.get(said.panel or "", 0))]
        for group, members in groups.items()
    }
    return lambda function: with_parameters(function, options)


def with_parameters(function: Command, groups: Mapping[str, Sequence[inspect.Parameter]]) -> Command:
    """The command with several parameters in place of each that ``groups`` names, which gets their values by name."""
    hints = get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        parameters += groups.get(name) or [parameter.replace(annotation=hints[name])]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]

    @functools.wraps(function)
    def run(**given: Any) -> None:
        values = {
            group: {parameter.name: _plain(given.pop(parameter.name)) for parameter in members}
            for group, members in groups.items()
        }
        function(**given, **values)

    # typer would look at the wrapped function otherwise.
    del run.__wrapped__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _plain(value: Any) -> Any:
    """An option that may be repeated as its record has it."""
    return tuple(value) if isinstance(value, list) else value


def _word_or_code(words: Sequence[str]) -> Callable[[str | None], str | None]:
    """Refuses what is neither one of the words nor the name of code."""

    def check(value: str | None) -> str | None:
        if value is None or value in words or is_code(value):
            return value
        raise typer.BadParameter(f"got {value!r}, expected one of {', '.join(words)} or module:factory of your own")

    return check


def completing(words: Sequence[str]) -> Callable[[str], list[str]]:
    """What a shell offers for the beginning of a word."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def _parameter(said: Setting) -> inspect.Parameter:
    # A switch that is off has no second name to turn it off.
    named = said.flags or (said.flag if said.default is False else None)
    offered = said.offered or said.choices
    option = typer.Option(
        *([named] if named else []),
        help=said.help,
        metavar=f"<{'|'.join((*get_args(offered), 'MODULE:FACTORY'))}>" if said.code else said.metavar,
        callback=_word_or_code(get_args(offered)) if said.code else None,
        autocompletion=completing(get_args(offered)) if said.code else None,
        min=said.at_least if said.is_a(int) else None,
        rich_help_panel=said.panel,
        show_default=said.shown,
    )
    several = isinstance(said.default, tuple)
    kind = list[str] if several else said.kind if said.code else offered or said.kind
    annotation = Annotated[kind | None if said.default is None else kind, option]  # type: ignore[valid-type]
    default = list(said.default) if several else said.default
    return inspect.Parameter(said.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
