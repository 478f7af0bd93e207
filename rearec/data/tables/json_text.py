"""Parsing json of foreign origin: every fault is one line that names the file and the row."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from rearec.data.tables.files import check_utf8, read_bytes
from rearec.errors import UserError

__all__ = ["is_broken_text", "parse_json", "read_json_file"]

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


def read_json_file(path: Path) -> Any:
    """The contents of a json file, which may be gzipped.

    Raises:
        UserError: the file cannot be read, or as in `parse_json`.
    """
    return parse_json(path, check_utf8(path, read_bytes(path)))


def is_broken_text(text: str) -> bool:
    r"""Whether ``text`` holds half of a surrogate pair (json can, as in ``"\ud800"``), which no file can store."""
    return not text.isascii() and HALF_OF_A_PAIR.search(text) is not None
