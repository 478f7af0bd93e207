"""Reading source files: text of any encoding as UTF-8, whole or in blocks, errors that name the file and the row."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rearec.data.tables.compression import inner_name, opened
from rearec.errors import UserError

__all__ = ["BEGIN_BYTES", "extension", "line_blocks", "read_bytes", "read_lines", "read_text", "refuse_other_kinds"]

BLOCK_BYTES = 1 << 24
MARK = "\ufeff"
MARK_BYTES = 4
# The longer marks first: that of UTF-32 begins as that of UTF-16.
WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# What a file may be in place of the text that is looked for, by what it begins with in lower case.
OTHER_KINDS = {
    b"<!doctype html": "a web page, not data: the download was answered by a page to read",
    b"<html": "a web page, not data: the download was answered by a page to read",
    b"version https://git-lfs.github.com/spec/": "a pointer of Git LFS, not the file itself: git lfs pull fetches it",
    b"par1": "a parquet file: let its name end in .parquet",
}

BEGIN_BYTES = 64


def read_bytes(path: Path) -> bytes:
    """The contents of a file, which may be compressed (see `rearec.data.tables.compression`).

    Raises:
        UserError: the file is missing, unreadable, empty, or compressed and truncated or damaged.
    """
    with opened(path) as file:
        data = file.read()
    if not data or data.isspace():
        raise UserError(f"{path}: the file is empty")
    return data


def line_blocks(path: Path, size: int = BLOCK_BYTES, encoding: str = "utf-8") -> Iterator[bytes]:
    r"""The text of a file in blocks of whole lines of about ``size`` bytes, as UTF-8 without a byte order mark.

    Where the first block has no ``\n`` but ``\r``, those are the line ends and become ``\n``.

    Raises:
        UserError: when it comes to it: as in `read_bytes`, or the file is not text in this encoding; names the row.
    """
    line: list[bytes] = []
    row, empty = 1, True
    old_line_ends: bool | None = None
    with opened(path) as file:
        for text in _decoded(path, file, size, encoding):
            if old_line_ends is None and b"\n" in text:
                old_line_ends = False
            elif old_line_ends is None and (b"\r" in text[:-1] or (line and line[-1].endswith(b"\r"))):
                old_line_ends = True
                line = [part.replace(b"\r", b"\n") for part in line]
            data = text.replace(b"\r", b"\n") if old_line_ends else text
            end = data.rfind(b"\n") + 1
            if end:
                block = b"".join([*line, data[:end]])
                line.clear()
                if empty and block.isspace():
                    line += [block, data[end:]]
                    continue
                yield _checked(path, block, row, first=empty)
                row += block.count(b"\n")
                empty = False
            line.append(data[end:])
    rest = b"".join(line)
    if empty and (not rest or rest.isspace()):
        raise UserError(f"{path}: the file is empty")
    if rest:
        yield _checked(path, rest, row, first=empty)


def _decoded(path: Path, file: BinaryIO, size: int, encoding: str) -> Iterator[bytes]:
    """The text in pieces, as UTF-8."""
    utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    decoder = codecs.getincrementaldecoder("utf-8" if utf8 else encoding)()
    row, first, done, checked = 1, True, False, False
    while not done:
        data = file.read(max(size, MARK_BYTES))
        done = not data
        if first and utf8:
            wide = next((name for mark, name in WIDE_MARKS.items() if data.startswith(mark)), None)
            if wide is not None:
                raise UserError(f"{path}: begins with a {wide.upper()} byte order mark: --encoding {wide} reads it")
        try:
            text = decoder.decode(data, final=done)
            # Not every decoder refuses halves of surrogate pairs, which no file can store.
            encoded = text.encode("utf-8")
        except UnicodeDecodeError as error:
            row += error.object[: error.start].decode(encoding, errors="replace").count("\n")
            raise UserError(_undecodable(path, row, error.object[error.start], encoding, utf8)) from None
        except UnicodeError as error:
            raise UserError(f"{path}: row {row} or later: not {encoding} text: {error}") from None
        if first and text:
            first = False
            encoded = encoded.removeprefix(MARK.encode())
        row += encoded.count(b"\n")
        if not utf8 and not checked and not data.isascii():
            checked = _refuse_utf8(path, data, encoding)
        if encoded:
            yield encoded


def _refuse_utf8(path: Path, data: bytes, encoding: str) -> bool:
    """UserError where text is UTF-8, which an encoding of a byte a character would take for other characters.

    Returns:
        Whether the data can tell.
    """
    if not codecs.lookup(encoding).name.startswith(("iso8859", "cp125", "cp437", "cp850", "mac", "koi8")):
        return True
    try:
        if codecs.getincrementaldecoder("utf-8")().decode(data, final=False).isascii():
            return False
    except UnicodeDecodeError:
        return True
    raise UserError(f"{path}: is UTF-8 text, which --encoding {encoding} would garble: leave the option out")


def _undecodable(path: Path, row: int, byte: int, encoding: str, utf8: bool) -> str:
    if utf8:
        return f"{path}: row {row}: not UTF-8 text (byte 0x{byte:02x}); --encoding cp1252 or latin-1 may read it"
    return f"{path}: row {row}: not {encoding} text (byte 0x{byte:02x})"


def _checked(path: Path, block: bytes, row: int, first: bool) -> bytes:
    """The block; UserError where it holds what no text does: what is left of a file that was not written to its end.

    Args:
        first: whether the file begins with it; it is no data then if it looks like a page or a pointer in its place.
    """
    if first:
        refuse_other_kinds(path, block[:BEGIN_BYTES])
    at = block.find(b"\0")
    if at >= 0:
        row += block.count(b"\n", 0, at)
        raise UserError(f"{path}: row {row}: a NUL byte: the file is damaged, or in UTF-16 (--encoding utf-16-le)")
    return block


def refuse_other_kinds(path: Path, begin: bytes) -> None:
    """UserError where a file that begins so is a page or a pointer in place of the data, or a parquet file."""
    found = begin.lstrip().lower()
    other = next((what for mark, what in OTHER_KINDS.items() if found.startswith(mark)), None)
    if other is not None:
        raise UserError(f"{path}: {other}")


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """All of a text file.

    Raises:
        UserError: as in `line_blocks`.
    """
    return b"".join(line_blocks(path, encoding=encoding)).decode("utf-8")


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """The lines of a text file; line i is row i + 1.

    Raises:
        UserError: as in `line_blocks`.
    """
    # Not str.splitlines: a token may hold one of the rarer characters that it takes for a line end.
    return re.split("\r?\n", read_text(path, encoding))


def extension(path: Path) -> str:
    """The last extension before those of compressions, in lower case with its dot: ``.csv`` for ``ratings.CSV.gz``.

    Raises:
        UserError: the path is a zip archive with several members.
    """
    return Path(inner_name(path).lower()).suffix
