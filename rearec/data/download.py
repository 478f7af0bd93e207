"""Fetching files over HTTP: continued where they were cut, checked, and there as a whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rearec.data.sources import Source, SourceFile
from rearec.errors import UserError
from rearec.files import check_way, partial_name, write_json

__all__ = ["CHECKSUMS", "download"]

CHECKSUMS = "checksums.json"
PIECE = 1 << 20
TIMEOUT_S = 60.0
# How often a connection that is cut is made again; each of them must have brought something.
ATTEMPTS = 5


def download(source: Source, out: Path, progress: Callable[[str, int, int], None] | None = None) -> dict[str, str]:
    """Fetch the files of ``source`` into the folder ``out``; those that are there are checked instead.

    The SHA-256 of each is that of the table or, where it has none, is noted in ``checksums.json`` the first time. What
    a cut connection or a kill leaves is kept under a hidden name and continued by the next call.

    Args:
        progress: called with a file's name, the bytes that are here and those of the whole file (0: not known).

    Returns:
        The SHA-256 of each file.

    Raises:
        UserError: a file cannot be fetched or written, or its checksum is wrong.
    """
    check_way(out / "x")
    try:
        out.mkdir(parents=True, exist_ok=True)
        noted = _read_note(out / CHECKSUMS)
        for file in source.files:
            path = out / file.name
            say = _reporter(progress, file.name)
            expected = file.sha256 or noted.get(file.name)
            if not path.exists():
                _fetch(file, path, expected, say)
            digest = _digest(path)
            if expected is not None and digest != expected:
                raise UserError(
                    f"{path}: its SHA-256 is {digest}, expected {expected}: "
                    f"delete it (and its line in {CHECKSUMS} if the source has a new edition) and fetch it again"
                )
            if expected is None:
                noted[file.name] = digest
                write_json(out / CHECKSUMS, noted)
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from error
    return {file.name: file.sha256 or noted[file.name] for file in source.files}


def _reporter(progress: Callable[[str, int, int], None] | None, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total) if progress else None


def _read_note(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        note = None
    if not isinstance(note, dict) or not all(isinstance(value, str) for value in note.values()):
        raise UserError(f"{path}: damaged; expected a json object of file names and SHA-256")
    return note


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _fetch(file: SourceFile, path: Path, expected: str | None, progress: Callable[[int, int], None]) -> None:
    partial = path.with_name(partial_name(path.name))
    attempts = ATTEMPTS
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        total, complete = _fetch_piece(file, partial, progress)
        here = partial.stat().st_size
        if complete:
            break
        attempts = attempts - 1 if here > before else 0
        if attempts <= 0:
            of = f" of {total:,}" if total else ""
            raise UserError(
                f"{file.address}: the connection was cut after {here:,}{of} bytes; the next try goes on there"
            )
    digest = _digest(partial)
    if expected is not None and digest != expected:
        partial.unlink()
        _validator(partial).unlink(missing_ok=True)
        raise UserError(f"{file.address}: the SHA-256 of what came is {digest}, expected {expected}; it is deleted")
    partial.replace(path)
    _validator(partial).unlink(missing_ok=True)


def _validator(partial: Path) -> Path:
    """The file that says of which edition the partial one is."""
    return partial.with_name(partial.name + ".json")


def _fetch_piece(file: SourceFile, partial: Path, progress: Callable[[int, int], None]) -> tuple[int, bool]:
    """Append what one connection brings; the size of the whole file (0: not known), and whether all of it is here."""
    edition = _edition(partial, file.address)
    start = partial.stat().st_size if partial.exists() and edition is not None else 0
    request = urllib.request.Request(file.address, headers={"User-Agent": "rearec", "Accept-Encoding": "identity"})
    if start and edition:
        # Another edition comes from its beginning, with the status 200.
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", edition)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            resumed = response.status == 206 and _range(response.headers)[0] == start
            if response.status == 206 and not resumed:
                raise UserError(f"{file.address}: the server sent another part than bytes {start:,} and after")
            length = int(response.headers.get("Content-Length") or 0)
            begin = start if resumed else 0
            total = begin + length if length else 0
            _check_space(partial, length, file.address)
            tag = response.headers.get("ETag")
            strong = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
            write_json(_validator(partial), {"address": file.address, "edition": strong or ""})
            return total, _append(response, partial, resumed, begin, total, progress)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start and _range(error.headers)[1] == start:
                return start, True
            why = f"HTTP {error.code} {error.reason}"
        if error.code == 416:
            partial.unlink()
            return 0, False
        raise UserError(f"{file.address}: {why}") from None
    except urllib.error.URLError as error:
        raise UserError(f"{file.address}: cannot be reached: {error.reason}") from None
    except (http.client.HTTPException, TimeoutError, ConnectionError):
        partial.touch()
        return 0, False


def _append(
    response: Any, partial: Path, resumed: bool, done: int, total: int, progress: Callable[[int, int], None]
) -> bool:
    """Write what comes; whether that was all. A cut connection is an end like any other, told by the length."""
    with partial.open("ab" if resumed else "wb") as out:
        progress(done, total)
        try:
            while piece := response.read(PIECE):
                out.write(piece)
                done += len(piece)
                progress(done, total)
        except (http.client.HTTPException, TimeoutError, ConnectionError):
            return False
    return not total or done == total


def _edition(partial: Path, address: str) -> str | None:
    """What tells the edition of a partial file; None where it is none of this address that can be continued."""
    try:
        note = json.loads(_validator(partial).read_text(encoding="utf-8"))
        return str(note["edition"]) or None if note["address"] == address else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _range(headers: Any) -> tuple[int | None, int | None]:
    """The first byte and the size of the whole file that a Content-Range names."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range") or "")
    if found is None:
        return None, None
    first, whole = found.groups()
    return None if first is None else int(first), None if whole == "*" else int(whole)


def _check_space(partial: Path, length: int, address: str) -> None:
    free = shutil.disk_usage(partial.parent).free
    if length > free:
        raise UserError(f"{address}: {length:,} bytes are to come, but {partial.parent} has {free:,} left")
