"""What to say about a table that is written otherwise than it was read."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["header_hint", "looks_like_header", "near_hint", "sniff_hint", "width_hint"]

# As a user types them; the longer before what they begin with.
SEPARATORS = {"::": "'::'", "||": "'||'", "\t": r"'\t'", ";": "';'", "|": "'|'", ",": "','", " ": "' '"}
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")
# What columns are called, in parts.
COLUMN_WORDS = {"user", "item", "product", "visitor", "session", "customer", "movie", "rating", "timestamp", "id"}
FOUR = "user_id,item_id,rating,timestamp"


def header_hint(names: Sequence[str]) -> str:
    """What to say to one who misses a column in a table whose header is this: a clause, or nothing."""
    if names and names[0].lstrip().startswith("#"):
        return " (the first row begins with #: lines of comments are taken for data, remove them)"
    if names and re.match(r'\s*[\[{]\s*["{]', names[0]):
        return " (it looks like json: let its name end in .jsonl or .json)"
    if len(names) == 1:
        separator = next((text for text in SEPARATORS if text in names[0]), None)
        if separator is None:
            return ""
        fields = names[0].split(separator)
        return (
            f" (one column with {SEPARATORS[separator]} in it: --separator {SEPARATORS[separator]}{_columns(fields)})"
        )
    columns = _columns(names)
    return f" (the first row looks like data, not like a header:{columns})" if columns else ""


def looks_like_header(cells: Sequence[str]) -> bool:
    """Whether a first row holds names of columns: words alone, and one cell such as columns are called."""
    if len(cells) < 2 or not all(re.fullmatch(r"[A-Za-z][A-Za-z_ -]*", cell.strip()) for cell in cells):
        return False
    words = [{word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", cell)} for cell in cells]
    return any(of_cell <= COLUMN_WORDS for of_cell in words)


def near_hint(names: Sequence[str], wanted: str) -> str:
    """What to say where a column differs from the wanted in what the eye passes over: a clause, or nothing."""
    near = next((name for name in names if _bare(name) == _bare(wanted)), None)
    return "" if near is None else f" ({near!a} is not {wanted!a}: give the name as the file has it)"


def _bare(name: str) -> str:
    """A name without case, blanks, marks of no width and signs."""
    return re.sub(r"[\W_]", "", name).casefold()


def width_hint(width: int, names: Sequence[str]) -> str:
    """What to say where a row has more fields than the header."""
    if len(names) == 1:
        return header_hint(names)
    if width != len(names) + 1:
        return ""
    return "; a separator that ends each line, or the row names of R, need a name in the header too"


def _columns(fields: Sequence[str]) -> str:
    """The option for a table whose first row is no header; nothing where it may be one."""
    if not any(NUMBER.fullmatch(field.strip()) for field in fields):
        return ""
    return f" --columns {FOUR if len(fields) == 4 else 'user_id,item_id,...'}"


def sniff_hint(lines: Sequence[str]) -> str:
    """What a text file of an unknown kind looks like, by its first lines: a clause, or nothing."""
    lines = [line for line in lines if line.strip()]
    if not lines:
        return ""
    if all(line.lstrip().startswith(("{", "[")) for line in lines):
        return "; it looks like json: name it .jsonl (one object per line) or .json"
    for separator, typed in SEPARATORS.items():
        counts = {line.count(separator) for line in lines}
        if len(counts) == 1 and counts != {0}:
            columns = _columns(lines[0].split(separator))
            return f"; it looks like fields separated by {typed}: --separator {typed}{columns}"
    if len({len(line.split()) for line in lines}) == 1 and len(lines[0].split()) > 1:
        return rf"; it looks like fields separated by blanks: --separator '\s+'{_columns(lines[0].split())}"
    return ""
