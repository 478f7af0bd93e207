"""The words that options of ``prepare`` take; free of imports, so that the command line can list them at once."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["FORMATS", "PRESETS", "SPLITS", "Duplicates", "Format", "MissingTitles", "Preset", "Split"]

Format = Literal["amazon2023", "json", "lines", "recbole", "sasrec", "table", "yelp"]
Split = Literal["leave-one-out", "timestamp", "time-span", "given"]
Duplicates = Literal["keep", "first", "error"]
MissingTitles = Literal["error", "keep", "drop", "drop-null"]
Preset = Literal["baby", "cds", "software", "video-games", "yelp"]

FORMATS: tuple[Format, ...] = get_args(Format)
SPLITS: tuple[Split, ...] = get_args(Split)
PRESETS: tuple[Preset, ...] = get_args(Preset)
