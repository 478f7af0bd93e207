"""What ``--help`` looks like: headings with their options or commands, nothing cut in any width."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "Group", "by_heading"]

# Left columns are at most so wide: what is longer has a line of its own.
LEFT = 26
LONGEST = 52
OPTIONS, ARGUMENTS, COMMANDS = "Options", "Arguments", "Commands"

# The words for a value differ between releases of typer, and a limit that nobody will reach is noise.
_PLAINER = {
    r"^ / ": "",
    r" (<int( range)?>|INTEGER( RANGE)?)": " N",
    r" (<float( range)?>|FLOAT( RANGE)?)": " X",
    r" (<str>|TEXT)": " TEXT",
    r" <path>": "",
    r"(; )?\d+<=x<=\d{9,}": "",
    r"\(([^()]*)\)(?=[\];])": r"\1",
}
_WORDS = re.compile(r" [<\[](?:list\[)?([\w|.:-]+\|[\w|.:-]+)\]?[>\]]")


class Command(TyperCommand):
    """A command whose options stand under their headings, its own before those of its settings."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The names of its arguments as its help has them."""
        return [re.sub(r"^\{(.*?)(\.\.\.)?\}(\.\.\.)?$", r"\1\3", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """As click does, by heading."""
        _write(formatter, by_heading(self, ctx))


class Group(TyperGroup):
    """A group of commands, which stand under headings in the order of ``panels``; those of none come last."""

    panels: Mapping[str, tuple[str, ...]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the panels."""
        order = [name for names in self.panels.values() for name in names]
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The commands with the first sentence of their help, then the options."""
        heading_of = {name: heading for heading, names in self.panels.items() for name in names}
        commands: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            found = self.get_command(ctx, name)
            if found is not None and not found.hidden:
                sentence = _first_sentence(found.help or "")
                commands.setdefault(heading_of.get(name, COMMANDS), []).append((name, sentence))
        width = max(len(name) for rows in commands.values() for name, _ in rows)
        _write(
            formatter,
            {heading: [(name.ljust(width), text) for name, text in rows] for heading, rows in commands.items()},
        )
        _write(formatter, by_heading(self, ctx))


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join(text.split("\n\n")[0].split()))[0].rstrip(".")


def by_heading(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """The two columns of a command's help, by heading."""
    found: dict[str, list[tuple[str, str]]] = {ARGUMENTS: [], OPTIONS: []}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            is_argument = parameter.param_type_name == "argument"
            heading = getattr(parameter, "rich_help_panel", None) or (ARGUMENTS if is_argument else OPTIONS)
            found.setdefault(heading, []).append(_entry(_plainer(record[0]), _plainer(record[1]), is_argument))
    return found


def _plainer(text: str) -> str:
    for pattern, instead in _PLAINER.items():
        text = re.sub(pattern, instead, text)
    return text


def _entry(left: str, right: str, is_argument: bool) -> tuple[str, str]:
    """The two columns; the words that an argument or an option may be stand in the left one where they fit."""
    words = _WORDS.search(left)
    if is_argument:
        left = left.split(" ")[0]
    elif words and len(left) > LONGEST:
        left = left.replace(words[0], " WORD")
    else:
        words = None
    if words:
        missing = [
            word for word in words[1].split("|") if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", right)
        ]
        right = f"One of {', '.join(words[1].split('|'))}. {right}" if missing else right
    return left, right


def _write(formatter: Any, sections: Mapping[str, Iterable[tuple[str, str]]]) -> None:
    for heading, rows in sections.items():
        if rows:
            with formatter.section(typer.style(heading, bold=True)):
                formatter.write_dl(list(rows), col_max=LEFT)
