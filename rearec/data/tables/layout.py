"""How a table is written down, as far as its file does not say so itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["PLAIN", "Layout", "Quoting"]

Quoting = Literal["auto", "csv", "none"]


@dataclass(frozen=True)
class Layout:
    """What a reader of tables is told.

    Attributes:
        separator: between the fields of a text table, one character or several; None for the extension's own.
        quoting: "csv": a field may stand in double quotes, as in RFC 4180; "none": quotes are characters like others;
            "auto": as "csv", but what looks as if rows had been swallowed is refused.
        escape: the character that takes the meaning from a quote behind it; None: quotes are doubled.
        encoding: of text files, by Python's names; a byte order mark is taken off.
        names: of the columns of a text table without a header; None: the first row has them.
    """

    separator: str | None = None
    quoting: Quoting = "auto"
    escape: str | None = None
    encoding: str = "utf-8"
    names: tuple[str, ...] | None = None


PLAIN = Layout()
