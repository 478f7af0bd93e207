"""The paper's five datasets: the options that prepare them, and the counts that were published of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rearec.data.readers.formats import SOURCE_FORMATS
from rearec.data.readers.options import PrepareOptions, Split
from rearec.errors import UserError

__all__ = ["DEFAULTS", "UnexpectedCounts", "check_counts", "choose_options", "published_counts", "with_all_rows"]

# What is done without a preset, where an option is None.
DEFAULTS: Mapping[str, Any] = {
    "duplicates": "keep",
    "min_train_history": 0,
    "min_eval_history": 0,
    "known_items": False,
    "missing_titles": "error",
}
# "Rating > 3", also where ratings have fractions.
ABOVE_3 = math.nextafter(3.0, math.inf)


@dataclass(frozen=True)
class Preset:
    """How one dataset of the paper is made.

    Attributes:
        format: the format of its source.
        options: those of ``prepare`` that always hold.
        unsplit: further ones where the source is not split yet, "split" among them.
        published: Table 1 of the paper; its interactions are the rows of all splits. The rows of each split are those
            that the official notebooks print, or follow from these.
    """

    format: str
    options: Mapping[str, Any]
    unsplit: Mapping[str, Any]
    published: Mapping[str, int] = field(default_factory=dict)


def _published(users: int, items: int, rows: int, valid_rows: int, test_rows: int) -> dict[str, int]:
    counts = {"users": users, "items": items, "rows": rows, "train_rows": rows - valid_rows - test_rows}
    return counts | {"valid_rows": valid_rows, "test_rows": test_rows}


# From the raw reviews to the 5-core files, as the authors of Amazon Reviews 2023 made them.
FIVE_CORE = {
    "split": "timestamp",
    "valid_from": "1628643414042",
    "test_from": "1658002729837",
    "duplicates": "first",
    "core": 5,
}


def _amazon(min_train_history: int, min_eval_history: int, published: dict[str, int]) -> Preset:
    options = {
        "min_target_rating": ABOVE_3,
        "min_train_history": min_train_history,
        "min_eval_history": min_eval_history,
        "known_items": True,
        # The official notebooks drop items whose title is null and keep those whose title is blank.
        "missing_titles": "drop-null",
    }
    return Preset("amazon2023", options, FIVE_CORE, published)


_PRESETS: dict[str, Preset] = {
    "baby": _amazon(1, 5, _published(140_292, 30_689, 780_809, 18_418, 10_167)),
    "cds": _amazon(10, 10, _published(35_238, 87_969, 513_991, 7_221, 3_529)),
    "software": _amazon(10, 5, _published(30_049, 16_705, 168_029, 11_306, 4_992)),
    "video-games": _amazon(1, 5, _published(89_021, 22_933, 530_989, 7_688, 3_616)),
    "yelp": Preset(
        "yelp",
        {
            "min_rating": ABOVE_3,
            "core": 20,
            "min_train_history": 5,
            "min_eval_history": 5,
            "known_items": True,
            "missing_titles": "keep",
        },
        {"split": "time-span", "valid_from": "0.8", "test_from": "0.9"},
        _published(13_083, 10_697, 443_807, 49_353, 8_865),
    ),
}


def choose_options(format: str, options: PrepareOptions, given: bool) -> tuple[PrepareOptions, Split | None]:
    """The options with what the preset (a format may have its own), or else the default, says, and the split.

    Args:
        given: the files say that they are split already; what ``options.split`` says goes before it.

    Raises:
        UserError: the preset is that of another format.
    """
    preset, split = options.preset, options.split
    preset = preset or SOURCE_FORMATS[format].preset
    chosen = dict(DEFAULTS)
    if preset is not None:
        made = _PRESETS[preset]
        if made.format != format:
            raise UserError(f"the preset {preset!r} is for the format {made.format!r}, not {format!r}")
        chosen |= made.options
        if not (given and split is None) and split != "given":
            chosen |= {name: value for name, value in made.unsplit.items() if name != "split"}
            wanted = made.unsplit["split"]
            if split not in (None, wanted):
                del chosen["valid_from"], chosen["test_from"]
            split = split or wanted
    unsaid = {name: value for name, value in chosen.items() if getattr(options, name) is None}
    return replace(options, preset=preset, **unsaid), split or ("given" if given else None)


class UnexpectedCounts(UserError):
    """The counts are not the published ones; ``differences`` has a line for each that differs."""

    def __init__(self, message: str, differences: list[str]) -> None:
        super().__init__(message)
        self.differences = differences


def published_counts(preset: str) -> Mapping[str, int]:
    """The published counts of a dataset of the paper, by the names that `with_all_rows` uses."""
    return _PRESETS[preset].published


def with_all_rows(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """The statistics of a dataset and ``rows``, those of all splits: what the paper calls interactions."""
    return {**statistics, "rows": sum(statistics[f"{split}_rows"] for split in ("train", "valid", "test"))}


def check_counts(statistics: Mapping[str, Any], preset: str) -> None:
    """Compare the statistics of a dataset with the published ones.

    Raises:
        UnexpectedCounts: some differ.
    """
    got = with_all_rows(statistics)
    expected = published_counts(preset)
    differences = [
        f"{name.replace('_', ' ')}: expected {count:,}, got {got[name]:,} ({got[name] - count:+,})"
        for name, count in expected.items()
        if got[name] != count
    ]
    if differences:
        raise UnexpectedCounts(
            f"{len(differences)} of {len(expected)} counts differ from the published ones of {preset!r} (--expect): "
            "nothing is written",
            differences,
        )
