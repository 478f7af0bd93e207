"""Text of any origin, made safe to look at."""

from __future__ import annotations

import re

__all__ = ["visible"]

# Control characters, the line and paragraph separators, and the halves of surrogate pairs, which cannot be encoded.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text as it is, but for what would move a cursor, break a line or fail to be encoded: that as its escape.

    >>> visible("[b]\x1b[2J\n")
    '[b]\\x1b[2J\\n'
    """
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)
