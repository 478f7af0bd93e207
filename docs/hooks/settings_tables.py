"""The settings of a model and of a training, made of the fields that the checks and the command line are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING

from rearec.data.readers.options import PrepareOptions
from rearec.fields import Setting, settings
from rearec.models.config import ReaRecConfig
from rearec.training.options import TrainingOptions


def settings_tables() -> str:
    """Markdown: a table for each record, under the headings of `--help`."""
    return "\n".join(_tables())


def _tables() -> Iterator[str]:
    for record in (ReaRecConfig, TrainingOptions, PrepareOptions):
        yield f"\n## {record.__name__}\n"
        panels: dict[str, list[Setting]] = {}
        for said in settings(record).values():
            panels.setdefault(said.panel or "General", []).append(said)
        for panel, members in panels.items():
            yield f"**{panel}**\n\n| | |\n|---|---|"
            yield "\n".join(f"| `{said.name}` | {_meaning(said)} |" for said in members) + "\n"


def _meaning(said: Setting) -> str:
    parts = [said.help, said.more]
    if said.default not in (MISSING, None, ()):
        parts.append(f"Default: {said.default}.")
    parts.append(f"Takes {said.expectation}.")
    readers = [*(said.methods or ()), *(said.backbones or ())]
    if readers:
        parts.append(f"Only {', '.join(readers)} {'read' if len(readers) > 1 else 'reads'} it.")
    text = " ".join(filter(None, parts)).replace("|", "\\|").replace("<", "&lt;")
    return text.replace("``", "`").replace("*", "\\*")
