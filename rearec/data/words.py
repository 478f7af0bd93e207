"""The words that splits of a dataset and pairings of rows are called by; free of imports that cost."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["PAIRINGS", "SPLIT_NAMES", "Pairing", "SplitName"]

SplitName = Literal["train", "valid", "test"]
Pairing = Literal["shared", "overlapping", "separate"]

SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)
