"""One json object that maps each user to the list of his items in time order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rearec.data.readers.builders import InteractionsBuilder
from rearec.data.readers.interactions import Interactions
from rearec.data.readers.options import PrepareOptions
from rearec.data.readers.source_files import SourceFiles
from rearec.data.tables.arrays import Scratch
from rearec.data.tables.json_text import is_broken_text, read_json_file
from rearec.errors import UserError

__all__ = ["read_json"]


def read_json(files: SourceFiles, options: PrepareOptions, scratch: Scratch) -> Interactions:
    """Interactions from ``{user: [item, ...]}``; items are strings or whole numbers; a user may have none."""
    builder = InteractionsBuilder(files, options, scratch)
    for path in files.paths:
        users: list[str] = []
        items: list[str] = []
        rows: list[int] = []
        for row, (user, values) in enumerate(_read_users(path), start=1):
            if is_broken_text(user):
                raise UserError(f"{path}: user {user!r} holds half of a surrogate pair, which is no text")
            if not isinstance(values, list):
                raise UserError(f"{path}: user {user!r}: expected a list of items, got a {type(values).__name__}")
            for item in values:
                if isinstance(item, bool) or not isinstance(item, (str, int)) or item == "":
                    raise UserError(f"{path}: user {user!r}: {item!r} is no item; expected text or a whole number")
                if isinstance(item, str) and is_broken_text(item):
                    raise UserError(f"{path}: user {user!r}: {item!r} holds half of a surrogate pair, which is no text")
            users.extend([user] * len(values))
            items.extend(map(str, values))
            rows.extend([row] * len(values))
        builder.add_tokens(path, users, items, np.asarray(rows, dtype=np.int64))
    return builder.build()


def _read_users(path: Path) -> list[tuple[str, Any]]:
    value = read_json_file(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a json object {{user: [items]}}, got a {type(value).__name__}")
    return list(value.items())
