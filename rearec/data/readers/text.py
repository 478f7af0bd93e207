"""Plain text in time order: SASRec's ``user item`` lines, and one line per user."""

from __future__ import annotations

import numpy as np

from rearec.data.readers.builders import InteractionsBuilder
from rearec.data.readers.interactions import Interactions
from rearec.data.readers.options import PrepareOptions
from rearec.data.readers.source_files import SourceFiles
from rearec.data.tables.arrays import Scratch
from rearec.data.tables.files import read_lines
from rearec.errors import UserError

__all__ = ["read_lines_per_user", "read_sasrec"]


def read_sasrec(files: SourceFiles, options: PrepareOptions, scratch: Scratch) -> Interactions:
    """One ``user item`` per line, each user's lines in time order; blank lines are skipped."""
    builder = InteractionsBuilder(files, options, scratch)
    for path in files.paths:
        users: list[str] = []
        items: list[str] = []
        rows: list[int] = []
        for row, line in enumerate(read_lines(path, options.encoding), start=1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 2:
                raise UserError(f"{path}: row {row}: {len(fields)} fields; expected 'user item'")
            users.append(fields[0])
            items.append(fields[1])
            rows.append(row)
        builder.add_tokens(path, users, items, np.asarray(rows, dtype=np.int64))
    return builder.build()


def read_lines_per_user(files: SourceFiles, options: PrepareOptions, scratch: Scratch) -> Interactions:
    """One ``user item item ...`` per line, the items in time order; blank lines are skipped."""
    builder = InteractionsBuilder(files, options, scratch)
    for path in files.paths:
        first_row: dict[str, int] = {}
        items: list[str] = []
        counts: list[int] = []
        for row, line in enumerate(read_lines(path, options.encoding), start=1):
            fields = line.split()
            if not fields:
                continue
            user = fields[0]
            if len(fields) == 1:
                raise UserError(f"{path}: row {row}: one field; expected 'user item item ...'")
            if user in first_row:
                raise UserError(f"{path}: row {row}: user {user!r} again (also in row {first_row[user]})")
            first_row[user] = row
            items.extend(fields[1:])
            counts.append(len(fields) - 1)
        users = [user for user, count in zip(first_row, counts, strict=True) for _ in range(count)]
        builder.add_tokens(path, users, items, np.repeat(np.asarray(list(first_row.values()), dtype=np.int64), counts))
    return builder.build()
