"""How a table is written down, as far as its file does not say so itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from rearec.errors import UserError

__all__ = ["BLANKS", "DEFAULT_LAYOUT", "QUOTING", "Layout", "Quoting"]

Quoting = Literal["auto", "csv", "none"]
QUOTING: tuple[Quoting, ...] = get_args(Quoting)
# The separator that stands for any number of blanks and tabs.
BLANKS = r"\s+"
WORDS = {"tab": "\t", "space": " ", "comma": ",", "semicolon": ";", "pipe": "|", r"\t": "\t", r"\|": "|"}


@dataclass(frozen=True)
class Layout:
    r"""What a reader of tables is told.

    Attributes:
        separator: between the fields of a text table, one character or several, or as one types them: ``\t``, ``tab``,
            ``space``, ``comma``, ``semicolon``, ``pipe``, ``\x01``, and ``\s+`` for runs of blanks; None for the
            extension's own.
        quoting: "csv": a field may stand in double quotes, as in RFC 4180, and a quote elsewhere is a character;
            "none": quotes are characters like others, as they always are where the separator is no single ASCII
            character; "auto": as "csv", but what looks as if rows or fields had been swallowed is refused. In "auto" a
            quote that opens a field of a tab separated table and does not close it is a character too, provided that
            its line has as many fields as the header.
        escape: the character that takes the meaning from a quote, separator or line end behind it, or from another such
            character; None: quotes are doubled.
        encoding: of text files, by Python's names; a byte order mark is taken off.
        names: of the columns of a text table without a header; None: the first row has them.

    Raises:
        UserError: a value makes no sense.
    """

    separator: str | None = None
    quoting: Quoting = "auto"
    escape: str | None = None
    encoding: str = "utf-8"
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.quoting not in QUOTING:
            raise UserError(f"--quoting must be one of {', '.join(QUOTING)}, got {self.quoting!r}")
        self._check_encoding()
        if self.separator is not None:
            separator = self.separator_or("")
            if not separator or re.search(r'[\r\n"\0]', separator):
                raise UserError(f"--separator must be text without quotes and line ends, got {self.separator!r}")
        if self.escape is not None and (
            len(self.escape) != 1 or self.escape in '\r\n"\0' or self.escape == self.separator
        ):
            raise UserError(f"--escape must be one character such as '\\', got {self.escape!r}")
        if self.names is not None:
            blank = next((name for name in self.names if not name.strip()), None)
            if not self.names or blank is not None:
                raise UserError("--columns must name every column, separated by commas")
            twice = next((name for name in self.names if self.names.count(name) > 1), None)
            if twice is not None:
                raise UserError(f"--columns names {twice!r} more than once")

    def _check_encoding(self) -> None:
        try:
            "a".encode(self.encoding)
        except (LookupError, ValueError):
            some = "utf-8, latin-1, cp1252, utf-16, gbk and others of Python's"
            raise UserError(f"--encoding {self.encoding!r} is unknown; known are {some}") from None

    def separator_or(self, default: str) -> str:
        """The separator itself, where it was typed as an escape or a word; ``default`` where none is given."""
        if self.separator is None:
            return default
        code = re.fullmatch(r"\\x([0-9a-fA-F]{2})", self.separator)
        return chr(int(code[1], 16)) if code else WORDS.get(self.separator, self.separator)


DEFAULT_LAYOUT = Layout()
