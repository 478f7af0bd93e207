"""The settings of a training in words: what differs from a preset, what nobody reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rearec.models.config import ReaRecConfig
from rearec.report.digits import number
from rearec.training.options import TrainingOptions
from rearec.training.presets import KNOWN, Preset

if TYPE_CHECKING:
    from rearec.run_folder import RunFolder

__all__ = ["begun_line", "ignored", "preset_line", "prior_line"]


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


def prior_line(options: TrainingOptions, result: Mapping[str, Any]) -> str | None:
    """What the graph prior brought to a training with this result, in a line; None where none was asked for.

    Examples:
        >>> from rearec.training import TrainingOptions
        >>> from rearec.training.words import prior_line
        >>> valid = {"prior": "graph", "ndcg@20": 0.09, "without_prior": {"ndcg@20": 0.08}}
        >>> prior_line(TrainingOptions(prior="graph"), {"valid": valid})
        'the graph prior: NDCG@20 on validation .0900, without it .0800'
    """
    valid = result["valid"]
    if options.prior == "none" or valid is None:
        return None
    if "without_prior" not in valid:
        return "no graph prior: none that was tried made NDCG@20 on validation better"
    found, without = number(valid["ndcg@20"]), number(valid["without_prior"]["ndcg@20"])
    return f"the graph prior: NDCG@20 on validation {found}, without it {without}"


def _value(value: Any) -> str:
    return f"{value:g}".replace("0.", ".", 1) if isinstance(value, float) and abs(value) < 1 else str(value)
