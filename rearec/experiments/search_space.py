"""What a search for settings tries: one table, by the fields of ReaRecConfig and TrainingOptions.

`rearec.experiments.tune` takes the ranges, `rearec.experiments.search` the grids; either takes of them what the method
and the backbone read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rearec.errors import UserError
from rearec.training.presets import DECIDED, KNOWN, relevant

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["SPACE", "Choice", "Range", "grids", "parse_axis", "parse_search", "space_of"]

# The part of a range that stands for 0 where 0 is to be tried too.
ZERO_PART = 0.2


@dataclass(frozen=True)
class Range:
    """Numbers from low to high.

    log: evenly in their logarithm. integer: whole ones. zero: 0 too, with a fifth of the chance (with log only).
    grid: those that `rearec reproduce search` draws from; empty: it leaves the setting alone.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False
    zero: bool = False
    grid: tuple[float, ...] = ()

    def __str__(self) -> str:
        """As `parse_axis` reads it."""
        return f"{'0,' if self.zero else ''}{self.low:g}:{self.high:g}{':log' if self.log else ''}"

    @property
    def words(self) -> str:
        """For reading."""
        return f"{'0, ' if self.zero else ''}{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"

    def suggest(self, trial: Trial, name: str) -> float:
        """A value of a trial."""
        if self.integer:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        value = trial.suggest_float(name, self._lowest, self.high, log=self.log)
        return 0.0 if self.zero and value < self.low else value

    def nearest(self, value: Any) -> float:
        """The value of the range that is nearest to one."""
        if self.zero and value == 0:
            return 0.0
        return min(max(value, self.low), self.high)

    def internal(self, value: float) -> float:
        """What the study holds for a value of the range."""
        return (self._lowest * self.low) ** 0.5 if self.zero and value == 0 else value

    @property
    def _lowest(self) -> float:
        """Below ``low`` is what stands for 0."""
        return self.low * (self.low / self.high) ** (ZERO_PART / (1 - ZERO_PART)) if self.zero else self.low


@dataclass(frozen=True)
class Choice:
    """Some values, without an order."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        """As `parse_axis` reads it."""
        return ",".join(value if isinstance(value, str) else json.dumps(value) for value in self.values)

    @property
    def words(self) -> str:
        """For reading."""
        return str(self).replace(",", ", ")

    def suggest(self, trial: Trial, name: str) -> Any:
        """A value of a trial."""
        return trial.suggest_categorical(name, self.values)

    def nearest(self, value: Any) -> Any:
        """The value itself where it is one of them, else the first."""
        return value if value in self.values else self.values[0]

    def internal(self, value: Any) -> Any:
        """What the study holds for a value."""
        return value


Axis = Range | Choice

SPACE: Mapping[str, Range] = {
    "lr": Range(1e-4, 5e-3, log=True, grid=(5e-4, 1e-3, 2e-3)),
    "dropout": Range(0.1, 0.6, grid=(0.3, 0.4, 0.5)),
    "input_dropout": Range(0.0, 0.5, grid=(0.1, 0.2, 0.3)),
    "temperature": Range(0.03, 0.2, log=True, grid=(0.05, 0.07, 0.1)),
    "steps": Range(1, 4, integer=True, grid=(1, 2, 3)),
    "kl_weight": Range(1e-3, 0.1, log=True, zero=True, grid=(0.0, 0.001, 0.005, 0.01, 0.05)),
    "alpha": Range(1.0, 5.0, log=True, grid=(1, 1.2, 1.5, 2)),
    "cl_weight": Range(1e-3, 1.0, log=True, zero=True, grid=(0.0, 0.01, 0.1, 1.0)),
    "weight_decay": Range(1e-6, 1e-3, log=True, zero=True),
    "adaptor_dropout": Range(0.0, 0.5),
}


def space_of(backbone: str, method: str, fixed: Mapping[str, Any], changes: Mapping[str, Axis]) -> dict[str, Axis]:
    """What is tried for a backbone and a method: the table but for what is fixed, and ``changes`` to it.

    Raises:
        UserError: a change that the backbone or the method does not read, that is fixed too, or nothing is left.
    """
    for name in changes:
        if name in fixed:
            raise UserError(f"--search {name}: is fixed by --set too; give one of them")
        reader = KNOWN[name].not_read_by(backbone, method)
        if reader is not None:
            raise UserError(f"--search {name}: {reader} does not read it")
    axes = {**SPACE, **changes}
    space = {name: axis for name, axis in axes.items() if name not in fixed and relevant(name, backbone, method)}
    if not space:
        raise UserError("every setting is fixed: there is nothing to search")
    return space


def grids(backbone: str, method: str, fixed: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """The values that a search over a grid draws from, by setting."""
    space = space_of(backbone, method, fixed, {})
    return {name: axis.grid for name, axis in space.items() if isinstance(axis, Range) and axis.grid}


def parse_search(texts: Sequence[str]) -> dict[str, Axis]:
    """What is to be tried, written as name=low:high, name=low:high:log, name=0,low:high:log or name=value,value.

    Raises:
        UserError: any other text, an unknown setting, a value that the setting does not take.
    """
    axes = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or not name or not rest:
            raise UserError(f"--search {text}: expected name=low:high, name=low:high:log or name=value,value")
        axes[name] = parse_axis(name, rest)
    return axes


def parse_axis(name: str, text: str) -> Axis:
    """One of them, without its name."""
    if name not in KNOWN or name in DECIDED:
        known = ", ".join(each for each in KNOWN if each not in DECIDED)
        raise UserError(f"--search {name}: unknown setting, or one that is not searched; known are {known}")
    said = KNOWN[name]
    if ":" not in text:
        values = tuple(dict.fromkeys(_checked(name, _value(part)) for part in text.split(",")))
        if len(values) < 2:
            raise UserError(f"--search {name}: got one value, expected two or more; --set fixes a setting")
        return Choice(values)
    zero = text.startswith("0,")
    ends, log = text.removeprefix("0,").split(":"), False
    if len(ends) == 3 and ends[2] == "log":
        ends, log = ends[:2], True
    if len(ends) != 2 or not (said.is_a(int) or said.is_a(float)) or said.is_a(bool):
        raise UserError(f"--search {name}={text}: expected low:high or low:high:log of a number, or value,value")
    low, high = (_checked(name, _value(end)) for end in ends)
    if low is None or high is None or low >= high:
        raise UserError(f"--search {name}={text}: expected the lower end first, then a higher one")
    if log and low <= 0:
        raise UserError(f"--search {name}={text}: a logarithmic range begins above 0, such as 0,0.001:1:log with 0 too")
    if zero:
        _checked(name, 0)
        if not log or said.is_a(int):
            raise UserError(f"--search {name}={text}: 0 beside a range is for logarithmic ones of fractions")
    return Range(low, high, log, said.is_a(int), zero)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _checked(name: str, value: Any) -> Any:
    """UserError where the setting does not take the value."""
    said = KNOWN[name]
    if not said.accepts(value):
        raise UserError(f"--search {name}: got {value!r}, expected {said.expectation}")
    return said.plain(value)
