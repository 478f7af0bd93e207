"""Writing files so that a kill leaves the old one or the new one; errors that name the user's path."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from rearec.errors import UserError

__all__ = ["check_way", "open_aside", "partial_name", "write_aside", "write_json"]


def partial_name(name: str) -> str:
    """The hidden name under which a file is written before it gets its own."""
    return f".{name}.partial"


@contextmanager
def open_aside(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """A file to write under a hidden name, renamed to ``path`` when the block ends: never is there a part of it.

    Raises:
        UserError: it cannot be written; names ``path``.
    """
    partial = path.with_name(partial_name(path.name))
    try:
        with partial.open(mode, encoding=None if mode == "wb" else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.filename not in (None, str(partial)):
            raise
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def write_aside(path: Path, text: str) -> None:
    """Write a text file aside, then rename it."""
    with open_aside(path) as file:
        file.write(text)


def write_json(path: Path, value: object) -> None:
    """Write a json file aside, then rename it."""
    write_aside(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def check_way(path: Path) -> None:
    """UserError where a folder that ``path`` is to stand in is a file."""
    nearest = next((parent for parent in path.parents if parent.exists()), None)
    if nearest is not None and not nearest.is_dir():
        raise UserError(f"{path}: cannot be written: {nearest} is a file, not a folder")
