"""Parsing json of foreign origin: every fault is one line that names the file and the row."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from rearec.data.tables.files import read_text
from rearec.errors import UserError

__all__ = ["is_broken_text", "parse_json", "parse_json_line", "read_json_file"]

HALF_OF_A_PAIR = re.compile("[\ud800-\udfff]")


def parse_json(path: Path, text: str, row: int | None = None) -> Any:
    """The value that ``text`` holds, which is all of a file or its row ``row`` (from 1).

    Raises:
        UserError: ``text`` is not json, is nested too deeply, holds a number of thousands of digits, or, as a whole
            file, names a key of one object twice.
    """
    place = str(path) if row is None else f"{path}: row {row}"

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise UserError(f"{place}: the key {twice!r} occurs more than once in one object")
        return result

    try:
        return json.loads(text, object_pairs_hook=unique if row is None else None)
    except json.JSONDecodeError as error:
        if row is None:
            raise UserError(f"{place}: row {error.lineno}, column {error.colno}: not json: {error.msg}") from None
        raise UserError(f"{place}: not json: {error.msg} at character {error.colno}") from None
    except RecursionError:
        raise UserError(f"{place}: the json is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{place}: a number that cannot be read: {error}") from None


def parse_json_line(path: Path, line: str, row: int) -> Any:
    """The value in a line: json, or a dict as Python writes it (``{u'user': 'x', 'hours': 0.1}``).

    Raises:
        UserError: it is neither; as in `parse_json`.
    """
    try:
        return parse_json(path, line, row)
    except UserError:
        # Json has no such quotes.
        if not line.lstrip().startswith("{") or "'" not in line:
            raise
        value = _parse_literal(line)
        if not isinstance(value, dict):
            raise
        return value


def _parse_literal(line: str) -> Any:
    """The value of a literal of Python's, None where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def read_json_file(path: Path) -> Any:
    """The contents of a json file, which may be compressed.

    Raises:
        UserError: the file cannot be read, or as in `parse_json`.
    """
    return parse_json(path, read_text(path))


def is_broken_text(text: str) -> bool:
    r"""Whether ``text`` holds half of a surrogate pair (json can, as in ``"\ud800"``), which no file can store."""
    return not text.isascii() and HALF_OF_A_PAIR.search(text) is not None
