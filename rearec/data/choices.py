"""The words that options of ``prepare`` take; free of imports, so that the command line can list them at once."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["FORMATS", "SPLITS", "Duplicates", "Format", "MissingTitles", "Split"]

Format = Literal["amazon2023", "json", "lines", "recbole", "sasrec", "table"]
Split = Literal["leave-one-out", "timestamp", "given"]
Duplicates = Literal["keep", "first", "error"]
MissingTitles = Literal["error", "keep", "drop"]

FORMATS: tuple[Format, ...] = get_args(Format)
SPLITS: tuple[Split, ...] = get_args(Split)
