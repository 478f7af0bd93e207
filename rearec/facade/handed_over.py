"""Looks at what is handed over as an object, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from rearec.inference import Recommender
from rearec.objectives import Objective
from rearec.reasoning import ReaRec

__all__ = ["check_handed_over"]


def check_handed_over(backbone: object, objective: object, callbacks: object, init: object, out: object) -> None:
    """TypeError for an argument of `fit` that is of another kind than it takes; the message names it."""
    if backbone is not None and not isinstance(backbone, str) and not callable(backbone):
        raise TypeError(f"backbone: got {_kind(backbone)}, expected a name or a function that makes an encoder")
    if objective is not None and not isinstance(objective, Objective):
        raise TypeError(f"objective: got {_kind(objective)}, expected a rearec.objectives.Objective")
    if not isinstance(callbacks, Sequence) or not all(isinstance(each, Callback) for each in callbacks):
        raise TypeError(f"callbacks: got {callbacks!r}, expected a list of Lightning callbacks")
    if init is not None and not isinstance(init, str | Path | ReaRec | Recommender):
        raise TypeError(f"init: got {_kind(init)}, expected a RUN folder or a model")
    if out is not None and not isinstance(out, str | Path):
        raise TypeError(f"out: got {_kind(out)}, expected the path of a folder")


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
