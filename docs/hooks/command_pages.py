"""The reference of the command line, made of what `--help` is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer


def command_pages() -> str:
    """Markdown: a section for each command, its options in tables under the headings of `--help`."""
    from rearec.cli.app import app

    return "\n".join(_sections(typer.main.get_command(app), "rearec"))


def _sections(command: Any, path: str) -> Iterator[str]:
    members = getattr(command, "commands", None)
    if members is not None:
        for name in command.list_commands(None):
            yield from _sections(members[name], f"{path} {name}")
        return
    from rearec.cli.help import by_heading

    context = command.make_context(path, [], resilient_parsing=True)
    yield f"\n## {path}\n"
    yield _text(command.help or "") + "\n"
    yield f"```\n{' '.join([path, *command.collect_usage_pieces(context)])}\n```\n"
    for heading, rows in by_heading(command, context).items():
        if rows:
            yield f"**{heading}**\n\n| | |\n|---|---|"
            yield "\n".join(_row(*columns) for columns in rows) + "\n"


def _row(name: str, text: str) -> str:
    name, text = (_text(part).replace("\n", " ").replace("|", "\\|") for part in (name, text))
    name = name.strip().replace("\\|", " \\| ")  # a narrow screen breaks at spaces
    return f"| {name} | {text} |"


def _text(text: str) -> str:
    """Names of options as code; nothing else is markup."""
    text = re.sub(r"[*_\[\]]", lambda match: f"\\{match[0]}", text.replace("<", "&lt;"))
    return re.sub(r"(?<![\w`-])(--?[a-z][\w-]*)", r"`\1`", text)
