"""One json object that maps each user to the list of his items in time order."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rearec.data.files import check_utf8, read_bytes
from rearec.data.interactions import Interactions
from rearec.data.readers.builders import InteractionsBuilder
from rearec.data.readers.options import ReadOptions
from rearec.errors import UserError

__all__ = ["parse_json", "read_json"]


def read_json(paths: list[Path], options: ReadOptions) -> Interactions:
    """Interactions from ``{user: [item, ...]}``; items are strings or whole numbers; a user may have none."""
    builder = InteractionsBuilder(paths, options.given)
    for path in paths:
        users: list[str] = []
        items: list[str] = []
        rows: list[int] = []
        for row, (user, values) in enumerate(_read_users(path), start=1):
            if not isinstance(values, list):
                raise UserError(f"{path}: user {user!r}: expected a list of items, got a {type(values).__name__}")
            for item in values:
                if isinstance(item, bool) or not isinstance(item, (str, int)) or item == "":
                    raise UserError(f"{path}: user {user!r}: {item!r} is no item; expected text or a whole number")
            users.extend([user] * len(values))
            items.extend(map(str, values))
            rows.extend([row] * len(values))
        builder.add_tokens(users, items, np.asarray(rows, dtype=np.int64))
    return builder.build()


def _read_users(path: Path) -> list[tuple[str, Any]]:
    value = parse_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a json object {{user: [items]}}, got a {type(value).__name__}")
    return list(value.items())


def parse_json(path: Path) -> Any:
    """The contents of a json file.

    Raises:
        UserError: the file cannot be read, is not json, or names a key of one object twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise UserError(f"{path}: the key {twice!r} occurs more than once in one object")
        return result

    text = check_utf8(path, read_bytes(path))
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: row {error.lineno}, column {error.colno}: not json: {error.msg}") from None
