"""Settings that a user of experiments names: backbones, methods, name=value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rearec.errors import UserError
from rearec.models.config import BACKBONES, METHODS

__all__ = ["check_names", "parse_settings"]


def check_names(backbones: Sequence[str] | None, methods: Sequence[str] | None) -> None:
    """UserError for a backbone or a method that does not exist."""
    for what, chosen, known in (("backbone", backbones, BACKBONES), ("method", methods, METHODS)):
        for name in chosen or ():
            if name not in known:
                raise UserError(f"unknown {what} {name!r}; known are {', '.join(known)}")


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Settings written as name=value; UserError for any other text. Whether they exist is for the plan to say."""
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UserError(f"setting {text!r}: expected name=value, such as dropout=0.3")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings
