"""Conditions on rows, as ``--where`` says them: ``event=view``, ``label!=0``, ``price>=10``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from rearec.errors import UserError

__all__ = ["Condition", "condition_columns", "is_any_of", "parse_conditions"]

FORM = re.compile(r"(.+?)(!=|<=|>=|==?|<|>)(.*)", re.DOTALL)
NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*")
COMPARISONS: dict[str, Callable[[pl.Series, int | float], pl.Series]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """What the value of a column must be for a row to count.

    Attributes:
        column: its name.
        sign: "=" one of the values, "!=" none of them, or a comparison with one number.
        values: as they were typed.
    """

    column: str
    sign: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.column}{self.sign}{','.join(self.values)}"

    def met(self, values: pl.Series) -> pl.Series:
        """bool [n], where it holds; no value is the empty text. Numbers are equal however they are written.

        Raises:
            UserError: the values are lists or the like, or no numbers though they are to be compared as such.
        """
        if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
            raise UserError(f"--where {self}: column {self.column!r} is of type {values.dtype}; expected single values")
        if self.sign in COMPARISONS:
            return self._compared(values)
        # A value may hold commas itself.
        names, text = [*self.values, ",".join(self.values)], values.cast(pl.String).fill_null("")
        if self.are_flags(values):
            names = _as_flags(names)
        found = is_any_of(text, names)
        return found if self.sign == "=" else ~found

    @property
    def depends_on_all(self) -> bool:
        """Whether it means another thing where all values of the column are true and false."""
        return self.sign not in COMPARISONS and _as_flags(self.values) != list(self.values)

    def are_flags(self, values: pl.Series) -> bool:
        """Whether all values are true, false or none."""
        if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
            return False
        return bool(values.cast(pl.String).fill_null("").is_in(["true", "false", ""]).all())

    def _compared(self, values: pl.Series) -> pl.Series:
        limit = self.values[0]
        number = int(limit) if re.fullmatch(r"\s*[+-]?\d+\s*", limit) else float(limit)
        numbers = values
        if values.dtype == pl.String:
            text = values.str.strip_chars()
            text = text.set(text == "", None)
            numbers = text.cast(pl.Int64, strict=False)
            if numbers.null_count() > text.null_count():
                numbers = text.cast(pl.Float64, strict=False)
            wrong = numbers.is_null() & text.is_not_null()
            if wrong.any():
                other = values[int(wrong.arg_max() or 0)]
                raise UserError(f"--where {self}: column {self.column!r} also holds {other!r}, which is no number")
        elif not values.dtype.is_numeric():
            raise UserError(f"--where {self}: column {self.column!r} is of type {values.dtype}; expected numbers")
        return COMPARISONS[self.sign](numbers, number).fill_null(False)


def _as_flags(names: Sequence[str]) -> list[str]:
    return [{"1": "true", "0": "false"}.get(name, name.lower()) for name in names]


def parse_conditions(where: Sequence[str]) -> list[Condition]:
    """The conditions, all of which a row must meet.

    Raises:
        UserError: one is of none of the forms, or compares with what is no number.
    """
    result = []
    for text in where:
        found = FORM.fullmatch(text)
        if found is None:
            forms = "column=value, column=value,value, column!=value or column>=number"
            raise UserError(f"--where {text!r}: expected {forms}")
        condition = Condition(
            found[1].strip(), found[2].replace("==", "="), tuple(value.strip() for value in found[3].split(","))
        )
        if condition.sign in COMPARISONS and not NUMBER.fullmatch(found[3]):
            raise UserError(f"--where {text!r}: {found[3]!r} is no number; {condition.sign} compares numbers")
        result.append(condition)
    return result


def condition_columns(where: Sequence[str]) -> list[str]:
    """The columns of the conditions, each once."""
    return list(dict.fromkeys(condition.column for condition in parse_conditions(where)))


def is_any_of(text: pl.Series, tokens: Sequence[str]) -> pl.Series:
    """bool [n], where text is one of the tokens, blanks around it aside and 1.0 being 1; null where it is null."""
    return _plain_numbers(text).is_in(_plain_numbers(pl.Series(tokens, dtype=pl.String)).to_list())


def _plain_numbers(values: pl.Series) -> pl.Series:
    """Text without blanks around it and, of numbers, without a plus and a fraction of zeros: 1.50 as 1.5, 1.0 as 1."""
    text = values.str.strip_chars().str.replace(r"^\+(\d)", "$1")
    return text.str.replace(r"^(-?\d+\.\d*?)0+$", "$1").str.replace(r"^(-?\d+)\.$", "$1")
