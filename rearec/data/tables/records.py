"""One record of a text table at a time, by the rules of Python's ``csv.reader(strict=True)``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

__all__ = ["Dialect", "Fault", "Quoted", "Record", "Unfinished", "read_record"]


class Fault(Exception):
    """The text cannot be read as a record: what is wrong, at which character, and up to which where lines matter."""

    def __init__(self, at: int, message: str, until: int | None = None) -> None:
        super().__init__(message)
        self.at = at
        self.until = until
        self.message = message


class Unfinished(Exception):
    """The text ends within a field, which begins at the character ``at``, behind a quote or an escaped line end."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at


class Quoted(NamedTuple):
    """A field in quotes: which one, the index of the first quote, what stands between them in the file."""

    column: int
    at: int
    text: str


class Record(NamedTuple):
    """The values of a record (None: empty and not in quotes), where the line behind it begins, its quoted fields."""

    values: list[str | None]
    end: int
    quoted: list[Quoted]


@dataclass(frozen=True)
class Dialect:
    """How fields are written.

    Attributes:
        separator: one ASCII character.
        quotes: whether a field may stand in double quotes; a quote within is doubled.
        escape: takes the meaning from a quote, separator, line end or another escape behind it.
    """

    separator: str
    quotes: bool = True
    escape: str | None = None

    @cached_property
    def bare(self) -> re.Pattern[str]:
        """A field without quotes around it."""
        separator, escape = re.escape(self.separator), re.escape(self.escape or "")
        if not escape:
            return re.compile(rf"[^{separator}\n]*")
        return re.compile(rf"(?:[^{separator}{escape}\n]|{escape}(?:\r\n|[\s\S])?)*")

    @cached_property
    def escaped(self) -> re.Pattern[str]:
        """An escape and what it takes the meaning from; behind others it is a character."""
        escape = self.escape or ""
        return re.compile(rf'{re.escape(escape)}(\r\n|[\r\n"{re.escape(self.separator + escape)}])')

    def closing_quote(self, text: str, at: int) -> int:
        """The index of the quote that closes the field whose text begins at ``at``; -1 where none does."""
        while True:
            quote = text.find('"', at)
            if self.escape is not None:
                escape = text.find(self.escape, at, quote if quote >= 0 else len(text))
                if escape >= 0:
                    at = escape + 2
                    continue
            if quote < 0 or not text.startswith('"', quote + 1):
                return quote
            at = quote + 2

    def unescape(self, text: str) -> str:
        """The text without its escapes."""
        return text if self.escape is None or self.escape not in text else self.escaped.sub(r"\1", text)


def read_record(text: str, start: int, dialect: Dialect) -> Record:
    """The record that begins at the character ``start``, a line's first.

    Raises:
        Fault: text stands behind a closing quote, or a carriage return in a line.
        Unfinished: the last quote is not closed, or the last line end is escaped.
    """
    values: list[str | None] = []
    quoted: list[Quoted] = []
    at = start
    while True:
        if dialect.quotes and text.startswith('"', at):
            close = dialect.closing_quote(text, at + 1)
            if close < 0:
                raise Unfinished(at)
            inner = text[at + 1 : close]
            quoted.append(Quoted(len(values), at, inner))
            values.append(_unquoted(inner, dialect))
            end = _behind_returns(text, close + 1)
            if end < len(text) and text[end] not in (dialect.separator, "\n"):
                raise Fault(at, f"a field begins with a quote, but {text[end : end + 10]!r} follows the closing quote")
        else:
            match = dialect.bare.match(text, at)
            assert match is not None
            end = match.end()
            if end == len(text) and match[0].endswith("\n"):
                raise Unfinished(at)
            value = match[0] if text.startswith(dialect.separator, end) else match[0].rstrip("\r")
            if "\r" in value and (dialect.escape is None or "\r" in dialect.escaped.sub("", value)):
                raise Fault(at, "a carriage return in the middle of a line")
            values.append(dialect.unescape(value) or None)
        if not text.startswith(dialect.separator, end):
            return Record(values, end + 1, quoted)
        at = end + 1


def _unquoted(inner: str, dialect: Dialect) -> str:
    if dialect.escape is None or dialect.escape not in inner:
        return inner.replace('""', '"')
    # An escaped quote is no half of a doubled one.
    return re.sub(rf'""|{dialect.escaped.pattern}', lambda match: match[1] or '"', inner)


def _behind_returns(text: str, at: int) -> int:
    """Behind the carriage returns that belong to a line end; ``at`` where they do not."""
    end = at
    while text.startswith("\r", end):
        end += 1
    return end if end == len(text) or text[end] == "\n" else at
