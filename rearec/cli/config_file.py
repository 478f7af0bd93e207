"""``--config FILE`` and ``--print-config``: the options of a command in a yaml file; the command line wins.

A command takes part with two parameters, ``config: ConfigFile = None`` and ``print_config: PrintConfig = False``, and a
call of `print_options` with what it has made of its options.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rearec.cli.output import emit
from rearec.errors import in_one_line

if TYPE_CHECKING:
    from rearec.cli.terminal import Terminal

__all__ = ["ConfigFile", "PrintConfig", "is_given", "print_options"]


def _read(context: typer.Context, value: Path | None) -> Path | None:
    """The file's values become the defaults of the command's other options."""
    if value is None or context.resilient_parsing:
        return value
    import yaml

    try:
        found = yaml.safe_load(value.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"{value}: not a readable yaml file ({in_one_line(error)})") from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{value}: expected names of options and their values, such as 'epochs: 20'")
    context.default_map = {**(context.default_map or {}), **_by_parameter(context, value, found)}
    return value


def _by_parameter(context: typer.Context, path: Path, found: Mapping[Any, Any]) -> dict[str, Any]:
    """The values by the names of the command's parameters; null means: not given."""
    parameters: dict[str, Any] = {}
    for each in context.command.params:
        words = [each.name or "", *each.opts]
        # those that turn a switch off would need the opposite value
        parameters |= {_plain(word): each for word in words if each.name not in ("config", "print_config")}
    values: dict[str, Any] = {}
    for name, value in found.items():
        parameter = parameters.get(_plain(str(name)))
        if parameter is None:
            near = difflib.get_close_matches(_plain(str(name)), parameters, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise typer.BadParameter(f"{path}: {name} is no option of '{context.command_path}'{hint}")
        if parameter.name in values:
            raise typer.BadParameter(f"{path}: {name} is there twice, under two of its names")
        if value is None:
            continue
        several = getattr(parameter, "multiple", False) or parameter.nargs != 1
        value = [value] if several and not isinstance(value, list) else value
        if isinstance(value, dict) or (isinstance(value, list) and not several):
            raise typer.BadParameter(f"{path}: {name}: got {value!r}, expected one value")
        try:
            parameter.process_value(context, value)
        except Exception as error:
            # The class has no public name, see `rearec.cli.app`.
            if not hasattr(error, "format_message"):
                raise
            raise typer.BadParameter(f"{path}: {name}: {getattr(error, 'message', error)}") from error
        values[str(parameter.name)] = value
    return values


def _plain(word: str) -> str:
    return word.lstrip("-").replace("-", "_")


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Options from a yaml file, by their names; those on the command line win.",
        callback=_read,
        is_eager=True,
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print all options as yaml, as --config reads them, and exit.")
]


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the user has set an option, on the command line or in a file."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP", "ENVIRONMENT")


def print_options(values: Mapping[str, Any], as_json: bool) -> None:
    """Options by their names on standard output; None: not given."""
    import yaml

    values = {name: value for name, value in values.items() if value is not None}
    lines = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10**6).splitlines()

    def render(console: Terminal) -> None:
        for line in lines:
            console.print(line)

    emit(values, as_json, render)
