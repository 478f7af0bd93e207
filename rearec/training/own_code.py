"""Code that is not ours in a training: the encoder or the objective that a name or an argument stands for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from rearec.errors import UserError
from rearec.fields import is_code, is_own
from rearec.models.backbone import Backbone
from rearec.models.code import load_backbone, source_of
from rearec.models.config import ReaRecConfig
from rearec.objectives import Objective
from rearec.run_folder import RunFolder

__all__ = ["check_trusted", "note_changed_code", "own_code", "own_encoder"]


def check_trusted(run: RunFolder, config: ReaRecConfig, trust_code: bool) -> None:
    """UserError where a run names code and the user has not said that it may be run."""
    for part in ("backbone", "method"):
        name = getattr(config, part)
        if is_code(name) and not trust_code:
            raise UserError(f"{run.path}: its {part} is code of somebody's own, {name}; trust_code=True runs it")


def own_encoder(config: ReaRecConfig, backbone: Callable[[], Backbone] | None) -> Backbone | None:
    """The encoder of one's own, None where the backbone is one of ours; UserError where something else is made."""
    if backbone is not None:
        made = backbone()
        if not isinstance(made, Backbone):
            raise UserError(f"backbone: made a {type(made).__name__}, expected a {Backbone.__module__}.Backbone")
        return made
    return load_backbone(config) if is_code(config.backbone) else None


def own_code(
    config: ReaRecConfig, backbone: Callable[[], Backbone] | None, objective: Objective
) -> dict[str, dict[str, str | None]]:
    """What is recorded of code that is not ours: the file of each part, and its digest."""
    parts: dict[str, str | Callable[..., Any]] = {}
    if config.has_own_backbone:
        parts["backbone"] = backbone or config.backbone
    if is_own(config.method):
        parts["method"] = config.method if is_code(config.method) else objective.loss
    return {part: source_of(code) for part, code in parts.items()}


def note_changed_code(folder: RunFolder, code: dict[str, dict[str, str | None]]) -> None:
    """A warning where the code that a run was started with is no longer as it was."""
    before = folder.options().get("code")
    for part, now in code.items():
        was = before.get(part) if isinstance(before, dict) else None
        if not isinstance(was, dict) or was.get("digest") != now["digest"]:
            warnings.warn(
                f"{folder.path}: the code of its {part}, {now['name']}, is not as it was when the run was started "
                f"({now['file']}): the epochs before and after differ in it",
                stacklevel=4,
            )
