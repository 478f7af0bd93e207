"""The settings of a training in words: what differs from a preset, what nobody reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rearec.models.config import ReaRecConfig
from rearec.training.options import TrainingOptions
from rearec.training.presets import KNOWN, Preset

if TYPE_CHECKING:
    from rearec.run_folder import RunFolder

__all__ = ["begun_line", "ignored", "preset_line"]


def preset_line(
    config: ReaRecConfig, options: TrainingOptions, preset: Preset, called: Callable[[str], str] = str
) -> str:
    """What differs from a preset, in a line; called: what a field is called in it."""
    from rearec.training.fitting import differing

    changes = [
        f"{called(name)} {_value(value)} ({_value(usual)})"
        for name, (value, usual) in differing(config, options, preset).items()
    ]
    return f"preset {preset}" + (f", with {', '.join(changes)}" if changes else "")


def ignored(
    given: Mapping[str, Any], backbone: str | None, method: str | None, called: Callable[[str], str] = str
) -> dict[str, str]:
    """The given settings that the backbone or the method (None: any) does not read, each with a line that says so."""
    lines = {}
    for name in KNOWN:
        if name in given and (who := KNOWN[name].not_read_by(backbone, method)):
            lines[name] = f"{called(name)} is ignored: {who} does not {'reason' if who == 'base' else 'read it'}"
    return lines


def begun_line(folder: RunFolder) -> list[str]:
    """What a training that begins with other weights has taken over; nothing of one that does not, or goes on."""
    begun = folder.options().get("init")
    if begun is None or folder.last_checkpoint.is_file():
        return []
    line = f"begins with the weights of {begun['run'] or 'a model in memory'}"
    if begun["items"] is not None:
        line += ", items: {known:,} known, {new:,} new, {dropped:,} dropped".format(**begun["items"])
    others = [f"{what}: {', '.join(begun[what])}" for what in ("new", "dropped") if begun[what]]
    return ["; ".join([line, *others])]


def _value(value: Any) -> str:
    return f"{value:g}".replace("0.", ".", 1) if isinstance(value, float) and abs(value) < 1 else str(value)
