"""Options of a preparation: what fits together, before anything is read."""

from __future__ import annotations

import math
import re
from pathlib import Path

from rearec.data.dataset import SPLIT_NAMES
from rearec.data.preparation.choices import SPLITS
from rearec.data.readers import ReadOptions
from rearec.errors import UserError

__all__ = ["check_at_least", "check_finite", "check_reading", "choose_split", "thresholds"]

PART_IN_NAME = re.compile(r"(?:^|[._-])(train|valid|val|dev|test)(?:[._-]|$)")
PARTS = {"train": 0, "valid": 1, "val": 1, "dev": 1, "test": 2}


def choose_split(split: str | None, paths: list[Path]) -> str:
    """The split that is meant, "given" for three files unless it is named.

    Raises:
        UserError: there is no such split, or the files are not those of a given one.
    """
    if split is None:
        split = "given" if len(paths) == 3 else "leave-one-out"
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; known are {', '.join(SPLITS)}")
    if split == "given":
        if len(paths) != 3:
            raise UserError(f"the split 'given' needs three files (train, valid, test), got {len(paths)}")
        resolved = [path.resolve() for path in paths]
        for index, path in enumerate(paths):
            if resolved[index] in resolved[:index]:
                raise UserError(f"{path}: given twice; train, valid and test must be different files")
        for index, path in enumerate(paths):
            named = {PARTS[name] for name in PART_IN_NAME.findall(path.name.lower())}
            if named and index not in named:
                expected = SPLIT_NAMES[index]
                raise UserError(f"{path}: stands in the place of the {expected} file; the order is train, valid, test")
    return split


def thresholds(split: str, valid_from: str | float | None, test_from: str | float | None) -> tuple[str, str] | None:
    """The thresholds of a split by time, None for the others.

    Raises:
        UserError: they are missing, or given in vain.
    """
    if split not in ("timestamp", "time-span"):
        if valid_from is not None or test_from is not None:
            raise UserError(
                f"--valid-from and --test-from are for the splits 'timestamp' and 'time-span', not {split!r}"
            )
        return None
    if valid_from is None or test_from is None:
        raise UserError(f"the split {split!r} needs --valid-from and --test-from")
    return str(valid_from), str(test_from)


def check_finite(**values: float | None) -> None:
    """UserError where an option is no finite number."""
    for name, value in values.items():
        if value is not None and not math.isfinite(value):
            raise UserError(f"--{name.replace('_', '-')} must be a finite number, got {value}")


def check_at_least(fewest: int, **counts: int | None) -> None:
    """UserError where an option is less than ``fewest``."""
    for name, value in counts.items():
        if value is not None and value < fewest:
            raise UserError(f"--{name.replace('_', '-')} must be at least {fewest}, got {value}")


def check_reading(format: str, options: ReadOptions) -> None:
    """UserError where an option is not for the format."""
    columns = (options.user_column, options.item_column, options.rating_column, options.timestamp_column)
    if format == "yelp" and options.given:
        raise UserError("the split 'given' is not for the format 'yelp', whose reviews are not split yet")
    if any(columns) and format not in ("table", "recbole"):
        raise UserError(f"column names are for the formats 'table' and 'recbole'; {format!r} has its own")
    if options.separator is not None and format != "table":
        raise UserError(f"a separator is for the format 'table'; {format!r} has its own")
    if options.separator is not None and len(options.separator.encode()) != 1:
        raise UserError(f"the separator must be one ASCII character, got {options.separator!r}")
