"""What a field of an options record says of itself: its checks, command line and documentation are made of it."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import lru_cache
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from rearec.errors import UserError

__all__ = [
    "OWN",
    "Setting",
    "check_options",
    "checked_values",
    "documented",
    "in_python",
    "is_code",
    "is_own",
    "setting",
    "settings",
]

# The word for what the user hands over as a Python object, which has no name that a file could hold.
OWN: Literal["own"] = "own"
# A flag; not in a command line, which is quoted.
_FLAG = re.compile(r"'rearec [^']*'|(?<![\w-])--[a-z][a-z-]*")
NO_WORDS: Mapping[str, str] = MappingProxyType({})
_CODE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

Record = TypeVar("Record", bound=type)


@dataclass(frozen=True)
class Setting:
    """What is said of a field of an options record. Its type says the rest: whether it may be None, its words.

    Attributes:
        help: a line for the reader of ``--help``; None: it is no option of the command line.
        default: ``MISSING``: the field has none.
        more: what the record's documentation says beyond it.
        panel: the heading that it stands under in ``--help``.
        metavar: the word for its value there.
        flags: its names on the command line, unless they follow from its own.
        shown: whether ``--help`` shows the default, or what it says instead.
        at_least, above, below: the range of a number.
        expected: what a wrong value is told to be instead, unless it follows from the type and the range.
        choices: the ``Literal`` of the words that it takes, where its type is a plain ``str``.
        offered: that of the words that the command line offers, where these are not all.
        code: whether it takes the name of the user's own code too, ``module:factory``.
        backbones, methods: who alone reads it; others are not changed by its value.
        name, kind: the field's own, its type for the latter.
    """

    help: str | None = None
    default: Any = None
    more: str = ""
    panel: str | None = None
    metavar: str | None = None
    flags: str | None = None
    shown: str | bool = True
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    expected: str | None = None
    choices: Any = None
    offered: Any = None
    code: bool = False
    backbones: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    name: str = ""
    kind: Any = None

    @property
    def words(self) -> tuple[str, ...]:
        """The words that it takes; empty where it takes others."""
        kinds = (self.choices, self.kind, *get_args(self.kind))
        return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())

    @property
    def flag(self) -> str:
        """Its name on the command line; of a switch that is on by default the one that turns it off."""
        flags = (self.flags or f"--{self.name.replace('_', '-')}").split("/")
        return flags[-1] if self.default is True else flags[0]

    def is_a(self, kind: type) -> bool:
        """Whether its values are of this type, or None."""
        return kind is self.kind or kind in get_args(self.kind)

    def accepts(self, value: Any) -> bool:
        """Whether a value is of its type and in its range."""
        if value is None:
            return self.is_a(type(None))
        if self.words:
            return isinstance(value, str) and (value in self.words or (self.code and is_code(value)))
        if self.is_a(bool) or isinstance(value, bool):
            return self.is_a(bool) and isinstance(value, bool)
        if self.is_a(int) or self.is_a(float):
            return isinstance(value, Integral if self.is_a(int) else Real) and self._is_in_range(value)
        return isinstance(value, str) and bool(value)

    def plain(self, value: Any) -> Any:
        """A value that it accepts as json can hold it: numbers of other libraries as Python's own."""
        if value is None or self.words or self.is_a(bool):
            return value
        return int(value) if self.is_a(int) else float(value) if self.is_a(float) else value

    @property
    def expectation(self) -> str:
        """What it accepts, in words."""
        if self.expected or self.words:
            return self.expected or f"one of {', '.join(self.words)}{' or module:factory' if self.code else ''}"
        if self.is_a(bool):
            return "true or false"
        if not self.is_a(int) and not self.is_a(float):
            return "text"
        noun = "an integer" if self.is_a(int) else "a finite number" if self.below is None else "a number"
        return noun + self._range_in_words

    def not_read_by(self, backbone: str | None, method: str | None) -> str | None:
        """The method or else the backbone that does not read it (None: any); None where both do.

        What is the user's own may read every setting.
        """
        for name, readers in ((method, self.methods), (backbone, self.backbones)):
            if name is not None and not is_own(name) and readers is not None and name not in readers:
                return name
        return None

    @property
    def _range_in_words(self) -> str:
        if self.below is None:
            from_least = "" if self.at_least is None else f", {self.at_least} or more"
            return from_least if self.above is None else f" above {self.above}"
        power = int(self.below).bit_length() - 1
        below = f"2**{power}" if power > 16 and self.below == 2**power else self.below
        return f" in [{self.at_least}, {below})" if self.above is None else f" between {self.above} and {below}"

    def _is_in_range(self, value: Any) -> bool:
        high_enough = (self.at_least is None or value >= self.at_least) and (self.above is None or value > self.above)
        return bool(high_enough and value < (math.inf if self.below is None else self.below))


def is_code(name: object) -> bool:
    """Whether a word names code of the user's own: a module and, behind a colon, what it holds.

    >>> is_code("my.models:gru"), is_code("gru"), is_code("C:\\\\models")
    (True, False, False)
    """
    return isinstance(name, str) and _CODE.fullmatch(name) is not None


def is_own(name: object) -> bool:
    """Whether a word stands for something of the user's own, named (`is_code`) or handed over as an object."""
    return name == OWN or is_code(name)


def setting(help: str | None = None, *, default: Any = None, **more: Any) -> Any:
    """A field of a dataclass with what is said of it: the attributes of `Setting`.

    Examples:
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     rows: int = setting("Rows per batch.", default=8, at_least=1)
        >>> checked_values(Options())
        {'rows': 8}
        >>> checked_values(Options(rows=0))
        Traceback (most recent call last):
        ValueError: rows: got 0, expected an integer, 1 or more
    """
    return field(default=default, metadata={"said": Setting(help, default, **more)})


@lru_cache
def settings(record: type) -> Mapping[str, Setting]:
    """What the fields of an options record say of themselves, by name."""
    kinds = get_type_hints(record)
    return {
        entry.name: replace(entry.metadata["said"], name=entry.name, kind=kinds[entry.name]) for entry in fields(record)
    }


def checked_values(options: Any) -> dict[str, Any]:
    """The values of an options record by field, numbers as Python's own.

    Raises:
        ValueError: one is not of its field's type or range; the message names it, what it is and what is expected.
    """
    values = {}
    for name, said in settings(options.__class__).items():
        value = getattr(options, name)
        if not said.accepts(value):
            raise ValueError(f"{name}: got {value!r}, expected {said.expectation}")
        values[name] = said.plain(value)
    return values


def check_options(options: Any) -> None:
    """Look at the values of an options record as at options of the command line.

    Raises:
        UserError: a value is of another type, no finite number, less than the least, or none of the words.
    """
    for name, said in settings(options.__class__).items():
        value = getattr(options, name)
        if value is None:
            continue
        if said.words and not said.accepts(value):
            raise UserError(f"unknown {name.replace('_', ' ')} {value!r}; known are {', '.join(said.words)}")
        numeric = said.is_a(int) or said.is_a(float)
        number = Integral if said.is_a(int) else Real
        if isinstance(value, bool) != said.is_a(bool) or (numeric and not isinstance(value, number)):
            raise UserError(f"{name}: got {value!r}, expected {said.expectation}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{said.flag} must be a finite number, got {value}")
        if said.at_least is not None and value < said.at_least:
            raise UserError(f"{said.flag} must be at least {said.at_least}, got {value}")


def in_python(
    message: str, *records: type, names: Mapping[str, str] = NO_WORDS, switches: Mapping[str, str] = NO_WORDS
) -> str:
    """A message with ``core`` for ``--core``, ``drop_incomplete=True`` for ``--drop-incomplete``.

    Args:
        records: whose fields the options are.
        names: what fields are called instead.
        switches: further options, with what they become.
    """
    words = dict(switches)
    for record in records:
        for name, said in settings(record).items():
            called = names.get(name, name)
            on, *off = (said.flags or f"--{name.replace('_', '-')}").strip().split("/")
            if not said.is_a(bool):
                words[on.strip()] = called
                continue
            words |= {on.strip(): f"{called}=True", **{flag.strip(): f"{called}=False" for flag in off}}
    return _FLAG.sub(lambda found: words.get(found[0], found[0]), message)


def documented(record: Record) -> Record:
    """A decorator: the docstring of an options record goes on with what its fields say."""
    if record.__doc__ is not None:
        lines = "\n".join(map(_line, settings(record).values()))
        record.__doc__ = f"{record.__doc__.rstrip()}\n\n    Attributes:\n{lines}\n    "
    return record


def _line(said: Setting) -> str:
    default = None if said.default in (MISSING, None) else f"Default: {said.default!r}."
    text = " ".join(filter(None, (f"{said.name}:", said.help, said.more, default)))
    return textwrap.fill(text, width=120, initial_indent=" " * 8, subsequent_indent=" " * 12)
