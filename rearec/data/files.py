"""Reading source files: gzip and UTF-8 made sure of, errors that name the file and the row."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from rearec.errors import UserError

__all__ = ["check_utf8", "extension", "read_bytes", "read_lines"]

GZIP_MAGIC = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"


def read_bytes(path: Path) -> bytes:
    """The contents of a file that may be gzipped (told by its first bytes, not by its name), without a UTF-8 mark.

    Raises:
        UserError: the file is missing, unreadable, empty or a truncated or damaged gzip.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if data.startswith(GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except EOFError:
            raise UserError(f"{path}: truncated gzip: the compressed data ends too early") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: damaged gzip: {error}") from error
    elif path.suffix == ".gz" and data:
        raise UserError(f"{path}: not a gzip file, although its name ends in .gz")
    data = data.removeprefix(UTF8_BOM)
    if not data or data.isspace():
        raise UserError(f"{path}: the file is empty")
    return data


def check_utf8(path: Path, data: bytes) -> str:
    """``data`` as text.

    Raises:
        UserError: the bytes are not UTF-8; names the row.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: row {row}: not UTF-8 text (byte 0x{data[error.start]:02x})") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, which may be gzipped; line i is row i + 1."""
    # Not str.splitlines: a token may hold one of the rarer characters that it takes for a line end.
    return re.split("\r?\n", check_utf8(path, read_bytes(path)))


def extension(path: Path) -> str:
    """The last extension before ``.gz``, in lower case with its dot: ``.csv`` for ``ratings.CSV.gz``."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix
