"""Timestamps: what they count, dates as text, the thresholds of a split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.errors import UserError

__all__ = ["TimeUnit", "Times", "parse_dates", "parse_threshold"]

TimeUnit = Literal["number", "us", "ns"]


@dataclass(frozen=True)
class Times:
    """Timestamps in source order.

    Attributes:
        values: int64, or float64 where some have a fraction.
        unit: "number" as the source counts; "us" or "ns" since 1970 (UTC) where the source has dates.
    """

    values: NDArray[np.int64] | NDArray[np.float64]
    unit: TimeUnit

    def name(self, value: np.int64 | np.float64) -> str:
        """One of the values as a user writes it."""
        return str(value) if self.unit == "number" else str(np.datetime64(int(value), self.unit))


def parse_dates(values: pl.Series) -> pl.Series:
    """ISO 8601 text as microseconds since 1970, null where it is not; a time without a zone is taken as UTC."""
    text = values.str.replace("T", " ", literal=True).str.replace("Z$", "+00:00")
    text = pl.select(pl.when(text.str.contains(":")).then(text).otherwise(text + " 00:00:00"))[text.name]
    seconds = text.str.replace(r"^(\S+ \d\d:\d\d)($|[+-])", "$1:00$2")
    zoned = seconds.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%:z", strict=False, time_unit="us", time_zone="UTC")
    naive = seconds.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us")
    return zoned.dt.replace_time_zone(None).zip_with(zoned.is_not_null(), naive)


def parse_threshold(text: str, unit: TimeUnit, option: str) -> int | float:
    """A threshold of a timestamp split in the unit of the timestamps.

    Raises:
        UserError: dates and numbers are mixed up, or ``text`` is neither.
    """
    text = text.strip()
    number = re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", text) is not None
    if unit == "number":
        if not number:
            raise UserError(f"{option} is {text!r}; the timestamps are numbers, so it must be a number in their unit")
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    microseconds = None if number else parse_dates(pl.Series("date", [text]))[0]
    if microseconds is None:
        raise UserError(f"{option} is {text!r}; the timestamps are dates, so it must be one, as in 2020-05-12T22:02:32")
    value = int(pl.Series([microseconds]).to_physical()[0])
    return value * 1000 if unit == "ns" else value
