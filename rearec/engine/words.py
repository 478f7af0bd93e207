"""The words that the precision of an engine's passes is called by; free of imports that cost."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["STATE_PRECISIONS", "StatePrecision"]

StatePrecision = Literal["fp32", "bf16"]

STATE_PRECISIONS: tuple[StatePrecision, ...] = get_args(StatePrecision)
