"""Small files and output folders: a kill leaves the old file or the new one, every error names the user's path."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from rearec.errors import UserError, in_one_line

__all__ = [
    "OutputFolder",
    "check_folder",
    "check_free",
    "check_way",
    "open_aside",
    "partial_name",
    "read_json",
    "write_aside",
    "write_json",
]

NO_FOLDER = "exists and is not a folder; choose another one"


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


def read_json(path: Path, fault: str = "cannot be read: {}") -> Any:
    """The value of a json file.

    fault: what the error says of a file that is none, ``{}`` stands for the reason.

    Raises:
        UserError: there is no such file (its ``__cause__`` is the `OSError`), or it holds no json.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: {fault.format(in_one_line(error))}") from error


def check_way(path: Path) -> None:
    """UserError where a folder that ``path`` is to stand in is a file."""
    nearest = next((parent for parent in path.parents if parent.exists()), None)
    if nearest is not None and not nearest.is_dir():
        raise UserError(f"{path}: cannot be written: {nearest} is a file, not a folder")


def check_folder(path: Path) -> None:
    """UserError where ``path`` is no folder and cannot become one."""
    check_way(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: {NO_FOLDER}")


def check_free(file: Path, *, replace: bool) -> None:
    """UserError where there is such a file and it is not to be replaced."""
    if file.exists() and not replace:
        raise UserError(f"{file}: exists already; --force replaces it")


@dataclass(frozen=True)
class OutputFolder:
    """A kind of folder that a command writes: where there is anything else, it writes nothing.

    is_own: whether a folder was written by the command. is_part: whether an entry of such a folder was; None for a
        folder that is never deleted as a whole.
    other, taken, stranger, no_folder: what the errors say of a folder that is not its own, of one that is, of an entry
        that is no part of it, and of what is no folder.
    """

    is_own: Callable[[Path], bool]
    other: str
    taken: str = ""
    is_part: Callable[[Path], bool] | None = None
    stranger: str = ""
    no_folder: str = NO_FOLDER

    def check(self, path: Path, *, replace: bool) -> None:
        """UserError where the command may not write to ``path``; replace: one of its own may be replaced."""
        check_way(path)
        is_deleted = self.is_part is not None
        if (path.exists() and not path.is_dir()) or (is_deleted and path.is_symlink()):
            raise UserError(f"{path}: {self.no_folder}")
        entries = sorted(path.iterdir()) if path.exists() else []
        if not entries:
            return
        if not self.is_own(path):
            raise UserError(f"{path}: exists and {self.other}")
        for entry in entries:
            if self.is_part is not None and not self.is_part(entry):
                raise UserError(f"{path}: holds {entry.name!r}, {self.stranger}; move it or choose another")
        if not replace:
            raise UserError(f"{path}: already holds {self.taken}")
