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
        for name, member in members.items():
            yield from _sections(member, f"{path} {name}")
        return
    context = command.make_context(path, [], resilient_parsing=True)
    yield f"\n## {path}\n"
    yield _text(command.help or "") + "\n"
    yield f"```\n{' '.join([path, *command.collect_usage_pieces(context)])}\n```\n"
    panels: dict[str, list[str]] = {}
    for each in command.params:
        record = None if getattr(each, "hidden", False) else each.get_help_record(context)
        if record is not None:
            usual = "Arguments" if each.param_type_name == "argument" else "Options"
            name, text = (_text(part).replace("\n", " ").replace("|", "\\|") for part in record)
            panel = getattr(each, "rich_help_panel", None) or usual
            name = name.strip().replace("\\|", " \\| ")  # a narrow screen breaks at spaces
            panels.setdefault(panel, []).append(f"| {name} | {text} |")
    for panel, rows in panels.items():
        yield f"**{panel}**\n\n| | |\n|---|---|"
        yield "\n".join(rows) + "\n"


def _text(text: str) -> str:
    """Names of options as code; nothing else is markup."""
    text = re.sub(r"[*_\[\]]", lambda match: f"\\{match[0]}", text.replace("<", "&lt;"))
    return re.sub(r"(?<![\w`-])(--?[a-z][\w-]*)", r"`\1`", text)
