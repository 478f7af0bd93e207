"""Errors as a user reads them: the one exception that means the input was wrong, and text that is safe to print."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["LostProcessError", "UserError", "in_one_line", "some_of", "visible"]

# Control characters, the line and paragraph separators, and the halves of surrogate pairs, which cannot be encoded.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(Exception):
    """An error the user caused and can mend.

    Its text is one clear line: what was wrong, where (file and row or column) and what is expected. The command line
    prints it as ``error: ...`` on stderr and exits with code 2. Line breaks and other control characters, as a path may
    hold them, become their escapes (`visible`); use `in_one_line` for the texts of other errors.

    Examples:
        >>> import rearec
        >>> try:
        ...     rearec.load_dataset("nowhere")
        ... except rearec.UserError as error:
        ...     print(error)
        nowhere: no such directory; expected a prepared dataset (see 'rearec prepare')
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


class LostProcessError(UserError):
    """Another process of several was lost: nothing to mend here, but a training can be resumed."""


def in_one_line(error: Exception) -> str:
    """What a library's error says, its paragraphs run together."""
    return " ".join(str(error).split())


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first of several names, and how many more there are.

    >>> some_of(["a", "b", "c"]), some_of(["a", "b", "c"], 1)
    ('a, b, c', 'a and 2 more')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def visible(text: str) -> str:
    r"""The text as it is, but for what would move a cursor, break a line or fail to be encoded: that as its escape.

    >>> visible("[b]\x1b[2J\n")
    '[b]\\x1b[2J\\n'
    """
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)
