"""Timestamps: how they are written, what looks like one, what they count, the thresholds of a split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.data.tables.arrays import Array, in_blocks
from rearec.errors import UserError

__all__ = [
    "FLOAT64_DIGITS",
    "FLOAT64_WHOLE",
    "NO_DATES",
    "TimeUnit",
    "Times",
    "add_time_of_day",
    "doubtful_numbers",
    "looks_like_times",
    "parse_dates",
    "parse_threshold",
    "parse_times",
]

TimeUnit = Literal["number", "us", "ns"]

FLOAT64_WHOLE = 2**53
# What a float64 tells apart, in decimal digits.
FLOAT64_DIGITS = 17
NO_DATES = "number"

# What a column of times is called, and what makes a span, or something else, of such a word.
TIME_WORDS = {
    "time",
    "times",
    "timestamp",
    "timestamps",
    "date",
    "datetime",
    "ts",
    "epoch",
    "day",
    "tstamp",
    "unixtime",
}
TIME_WORDS |= {"timeframe", "eventdate", "eventtime", "when", "created", "reviewtime", "visitdate", "dt"}
OTHER_WORDS = {"watch", "play", "spent", "dwell", "listen", "duration", "session", "total", "release", "birth", "zone"}
OTHER_WORDS |= {"stay", "view", "video", "user", "item", "offset", "timezone", "of", "updated", "num", "count"}
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
# Seconds, milliseconds, microseconds and nanoseconds since 1970, from 2000 to 2050.
EPOCHS = [(946_684_800 * 1000**power, 2_524_608_000 * 1000**power) for power in range(4)]
# Dates written as one number: digits, format.
DATE_LETTERS = "YYYYMMDDhhmmss"
DATE_NUMBERS = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
# Formats that are known, though not read unasked: each could be taken for another, or hides its year's end.
ASKED_FORMATS = (
    *("%a %b %d %H:%M:%S %Y", "%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y", "%m %d, %Y"),
    *(f"{day}{time}" for day in ("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y") for time in (
        "", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")),
    *("%m/%d/%y", "%d/%m/%y", "%Y.%m.%d", "%Y.%m.%d %H:%M:%S", "%Y%m%d %H:%M:%S", "%Y%m%dT%H%M%S"),
)  # fmt: skip
# What a format may leave open: how it would say it, and what is added where it does not.
UNSAID = (
    (r"%[-_]?[YyCGsc]|%[DFx+]", " 1970", " %Y"),
    (r"%[-_]?[mbBhjUWsc]|%[DFx+]", " 01", " %m"),
    (r"%[-_]?[dejaAuwsc]|%[DFx+]", " 01", " %d"),
    (r"%[-_]?[HIklMscTRrX+]", " 00:00", " %H:%M"),
    (r"%[-_]?[MscTRrX+]|^(?!.*%[-_]?[HIkl])", " 00", " %M"),
)
LETTER = r"%(?:[-_0]?[YCymbBhdejaAuwUWGgVDxFvHkIlPpMSfTRrXczZs+%nt]|\.\d?f|:z|\df)"
# Of the values of one unit, the largest over the least at most.
GROUP_SPREAD = 30


@dataclass(frozen=True)
class Times:
    """Timestamps in source order.

    Attributes:
        values: int64, or float64 where some have a fraction.
        unit: "number" as the source counts; "us" or "ns" since 1970 (UTC) where the source has dates.
        then: int64 or float64, orders what is equal in ``values``; None: the order of the source does.
    """

    values: Array
    unit: TimeUnit
    then: Array | None = None

    def name(self, value: Any) -> str:
        """One of the values as a user writes it."""
        return str(value) if self.unit == "number" else str(np.datetime64(int(value), self.unit))

    def sort_keys(self) -> list[NDArray[np.int64] | NDArray[np.float64]]:
        """What orders them, the least important first, as ``numpy.lexsort`` takes it."""
        return [array[:] for array in (self.then, self.values) if array is not None]

    def span(self) -> tuple[Any, Any]:
        """The first and the last of the values."""
        found = [(values.min(), values.max()) for (values,) in in_blocks(self.values)]
        return min(low for low, _ in found), max(high for _, high in found)


def parse_dates(values: pl.Series) -> pl.Series:
    """Dates that say themselves what they mean as microseconds since 1970, null where there is none.

    ISO 8601 (year-month-day, also with slashes), RFC 2822 (Tue, 3 Apr 2012 18:00:09 +0000) and C's asctime with a zone
    (Tue Apr 03 18:00:09 +0000 2012). A time without a zone is taken as UTC; "UTC", "GMT" and "z" are zones.
    """
    text = values.str.strip_chars().str.replace(r"(?i)\s*(?:UTC|GMT|Z)$", "+00:00")
    found = pl.Series(values.name, [None], dtype=pl.Datetime("us")).new_from_index(0, len(values))
    readings = (
        lambda: _to_datetime(_spelled_out(text), "%Y-%m-%d %H:%M:%S%.f%:z", zoned=True),
        lambda: _to_datetime(_spelled_out(text), "%Y-%m-%d %H:%M:%S%.f"),
        lambda: _to_datetime(text.str.replace(r"^[A-Za-z]{3},\s*", ""), "%d %b %Y %H:%M:%S%z", zoned=True),
        lambda: _to_datetime(text.str.replace(r"^[A-Za-z]{3},\s*", ""), "%d %b %Y %H:%M:%S %z", zoned=True),
        lambda: _to_datetime(text, "%a %b %d %H:%M:%S %z %Y", zoned=True),
    )
    for read in readings:
        if found.null_count() == values.null_count():
            break
        found = found.zip_with(found.is_not_null(), read())
    return found


def _spelled_out(text: pl.Series) -> pl.Series:
    """Forms of ISO 8601 in one: 'year-month-day hour:minute:second', a zone behind it as +hh:mm."""
    changes = (
        (r"^(\d{4})/(\d{1,2})/(\d{1,2})", "$1-$2-$3"),
        (r"(?i)^(\d{4}-\d{1,2}-\d{1,2})T", "$1 "),
        (r"^(\d{4}-\d{1,2}-\d{1,2})(\+00:00)?$", "$1 00:00:00"),
        (r"^(\S+ \d{1,2}:\d\d)($|\s*[+-])", "$1:00$2"),
        (r"(:\d\d),(\d+)", "$1.$2"),
        (r"(:\d\d(?:\.\d+)?)\s*([+-]\d\d)(?::?(\d\d))?$", "$1$2:$3"),
        (r"([+-]\d\d):$", "$1:00"),
    )
    for pattern, replacement in changes:
        text = text.str.replace(pattern, replacement)
    return text


def _to_datetime(text: pl.Series, form: str, zoned: bool = False) -> pl.Series:
    if zoned:
        return text.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC").dt.replace_time_zone(None)
    return text.str.to_datetime(form, strict=False, time_unit="us")


def parse_times(text: pl.Series, time_format: str | None) -> tuple[pl.Series, str]:
    """Text without blanks around it as numbers or dates, null where it is none, and what was expected.

    Args:
        time_format: in the letters of strftime, "number", or None: whole numbers, numbers, or dates that say themselves
            what they mean (`parse_dates`).

    Raises:
        UserError: the format has an unknown letter.
    """
    if time_format not in (None, NO_DATES):
        return _parse_format(text, time_format or ""), f"a time of the form {time_format!r}"
    whole = text.cast(pl.Int64, strict=False)
    if not whole.has_nulls():
        return whole, "a number"
    floats = text.cast(pl.Float64, strict=False)
    if not floats.has_nulls() or floats[0] is not None or time_format == NO_DATES:
        return floats, "a number"
    return parse_dates(text), f"a number or an ISO 8601 date{_format_hint(text)}"


def _parse_format(text: pl.Series, form: str) -> pl.Series:
    if "%" not in form or re.search(LETTER, form) is None or re.sub(LETTER, "", form).count("%"):
        raise UserError(f"--time-format {form!r}: expected 'number' or letters of strftime, as in '%d/%m/%Y %H:%M'")
    full, told = text, form
    for said, addition, letters in UNSAID:
        if not re.search(said, form):
            full, told = full + addition, told + letters
    try:
        return _to_datetime(full, told, zoned="%z" in form or "%:z" in form)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"--time-format {form!r}: {str(error).splitlines()[0]}") from None


def _format_hint(text: pl.Series) -> str:
    """'; --time-format ... would read it' of what is known and not read unasked."""
    sample = text.head(1000)
    fitting = [form for form in ASKED_FORMATS if not _parse_format(sample, form).has_nulls()]
    return f"; --time-format {' or '.join(repr(form) for form in fitting[:2])} reads it" if fitting else ""


def add_time_of_day(days: Times, text: pl.Series) -> Times | None:
    """Days with the time of day that stands in a column of its own, as in 19:05 or 19:05:30; None where it is none."""
    if days.unit != "us" or text.dtype != pl.String or not text.str.contains(r"^\s*\d{1,2}:\d\d(:\d\d)?\s*$").all():
        return None
    full = text.str.strip_chars().str.replace(r"^(\d{1,2}:\d\d)$", "$1:00")
    times = _parse_format(full, "%H:%M:%S")
    if times.has_nulls() or np.any(days.values[:] % 86_400_000_000):
        return None
    return Times(days.values[:] + times.dt.epoch("us").to_numpy(), days.unit)


def doubtful_numbers(values: Array) -> tuple[int, str] | None:
    """Numbers that can hardly be what they count: where, and why; None if they can.

    Dates written as one number, and numbers in two groups a factor of a thousand apart (seconds beside milliseconds).
    """
    low, high = Times(values, "number").span()
    digits = len(str(int(low))) if low > 0 else 0
    if digits in DATE_NUMBERS and len(str(int(high))) == digits and 1900 <= low / 10 ** (digits - 4) < 2100:
        form = DATE_NUMBERS[digits]
        if high < 2100 * 10 ** (digits - 4) and all(_are_dates(part, form) for (part,) in in_blocks(values)):
            return 0, (
                f"looks like a date {DATE_LETTERS[:digits]}, not a count: --time-format {form} reads it, "
                "--time-format number takes it as a number"
            )
    return _two_groups(values)


def _are_dates(values: NDArray[Any], form: str) -> bool:
    whole = pl.Series(values).unique().cast(pl.Int64)
    return not _parse_format(whole.cast(pl.String), form).has_nulls()


def _two_groups(values: Array) -> tuple[int, str] | None:
    """Where and why numbers are of two units: two groups of positive ones, each of little spread and far apart."""
    lowest = min((part[part > 0].min() for (part,) in in_blocks(values) if (part > 0).any()), default=0)
    if lowest < 10**8:
        return None
    limit = np.asarray(lowest).item() * GROUP_SPREAD
    lower, upper = _Group(values, lowest, limit), _Group(values, limit, None)
    if not upper.count or upper.low / lower.high <= GROUP_SPREAD or upper.high / upper.low > GROUP_SPREAD:
        return None
    factor = upper.median() / lower.median()
    for power, name in ((3, "10^3"), (6, "10^6"), (9, "10^9")):
        if 10**power / 2 <= factor <= 10**power * 2:
            fewer = lower if lower.count <= upper.count else upper
            groups = f"{lower.count} values are near {lower.high} and {upper.count} near {upper.low}"
            return fewer.first, f"is of another unit than the others ({groups}, a factor {name} apart)"
    return None


class _Group:
    """The positive numbers from the limit ``least`` to ``most``, those of the upper group above ``least``.

    count: how many; low, high: the smallest and the largest; first: where one stands first.
    """

    def __init__(self, values: Array, least: Any, most: Any) -> None:
        self._values, self._least, self._most = values, least, most
        self.count, self.first = 0, -1
        self.low: Any = None
        self.high: Any = None
        seen = 0
        for (part,) in in_blocks(values):
            found = self._of(part)
            if found.any():
                own = part[found]
                self.low = own.min() if self.low is None else min(self.low, own.min())
                self.high = own.max() if self.high is None else max(self.high, own.max())
                self.first = seen + int(np.argmax(found)) if self.first < 0 else self.first
                self.count += len(own)
            seen += len(part)

    def _of(self, part: NDArray[Any]) -> NDArray[np.bool_]:
        return part > self._least if self._most is None else (part >= self._least) & (part <= self._most)

    def median(self) -> float:
        """As NumPy's; found by halves, without a copy of the numbers."""
        middle = [self._smallest((self.count - 1) // 2), self._smallest(self.count // 2)]
        return sum(middle) / 2

    def _smallest(self, place: int) -> float:
        """The number that stands at a place in ascending order."""
        # The bits of positive floats are in the order of the floats.
        low, high = (int(np.float64(value).view(np.int64)) for value in (self.low, self.high))
        while low < high:
            middle = (low + high) // 2
            value = np.int64(middle).view(np.float64)
            upto = sum(np.count_nonzero(self._of(part) & (part <= value)) for (part,) in in_blocks(self._values))
            low, high = (low, middle) if upto > place else (middle + 1, high)
        return float(np.int64(low).view(np.float64))


def looks_like_times(name: str, values: pl.Series) -> bool:
    """Whether a column, by its name and its first values, holds times."""
    values = values.drop_nulls()
    if values.dtype in (pl.Date,) or isinstance(values.dtype, pl.Datetime):
        return len(values) > 0
    words = {word.lower() for word in WORD.findall(name)} | {name.lower().replace("_", "")}
    named = bool(words & TIME_WORDS) and not words & OTHER_WORDS
    if values.dtype == pl.String:
        values = values.str.strip_chars()
        values = values.filter(values != "")
        if len(values) == 0:
            return False
        numbers = values.cast(pl.Float64, strict=False)
        if numbers.has_nulls():
            shaped = values.str.contains(r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}|^[A-Z][a-z]{2},? ").all()
            dated = not parse_dates(values).has_nulls()
            return dated or ((named or bool(shaped)) and bool(_format_hint(values)))
        values = numbers
    if not values.dtype.is_numeric() or len(values) == 0:
        return False
    if named:
        return True
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    identifier = bool(words & {"id", "asin", "isbn", "code", "key", "number", "no", "phone", "zip", "sku"})
    return not identifier and low < high and any(first <= low and high < last for first, last in EPOCHS)


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
