"""Reading source files: gzip and UTF-8 made sure of, errors that name the file and the row."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from rearec.errors import UserError

__all__ = ["check_utf8", "extension", "line_blocks", "read_bytes", "read_lines"]

GZIP_MAGIC = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"
BLOCK_BYTES = 1 << 26


def read_bytes(path: Path) -> bytes:
    """The contents of a file that may be gzipped (told by its first bytes, not by its name), without a UTF-8 mark.

    Raises:
        UserError: the file is missing, unreadable, empty or a truncated or damaged gzip.
    """
    with _opened(path) as file:
        data = file.read().removeprefix(UTF8_BOM)
    if not data or data.isspace():
        raise UserError(f"{path}: the file is empty")
    return data


def line_blocks(path: Path, size: int = BLOCK_BYTES, quote: bytes | None = None) -> Iterator[bytes]:
    """The contents of a file, as `read_bytes`, in blocks of whole lines of about ``size`` bytes: bounds the memory.

    Args:
        quote: no block ends at a line end between two of these.

    Raises:
        UserError: as `read_bytes`, when it comes to it.
    """
    rest, empty, first = b"", True, True
    with _opened(path) as file:
        while piece := file.read(size):
            data = rest + (piece.removeprefix(UTF8_BOM) if first else piece)
            first = False
            end = _last_line_end(data, quote)
            if end:
                empty = empty and data[:end].isspace()
                yield data[:end]
            rest = data[end:]
        if rest:
            empty = empty and rest.isspace()
            yield rest
    if empty:
        raise UserError(f"{path}: the file is empty")


def _last_line_end(data: bytes, quote: bytes | None) -> int:
    """Where the last line of ``data`` that is whole ends, 0 where none is."""
    if quote is None or quote not in data:
        return data.rfind(b"\n") + 1
    import numpy as np

    codes = np.frombuffer(data, dtype=np.uint8)
    line_ends = np.flatnonzero(codes == ord("\n"))
    outside = line_ends[np.searchsorted(np.flatnonzero(codes == ord(quote)), line_ends) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, decompressed if it is a gzip; reading it raises UserError alone."""
    try:
        with path.open("rb") as raw:
            magic = raw.peek(2)[:2]
            if magic == GZIP_MAGIC:
                with gzip.GzipFile(fileobj=raw) as file:
                    yield cast(BinaryIO, file)
            elif path.suffix == ".gz" and magic:
                raise UserError(f"{path}: not a gzip file, although its name ends in .gz")
            else:
                yield raw
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except EOFError:
        raise UserError(f"{path}: truncated gzip: the compressed data ends too early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def check_utf8(path: Path, data: bytes, first_row: int = 1) -> str:
    """``data``, which begins in the row ``first_row``, as text.

    Raises:
        UserError: the bytes are not UTF-8; names the row.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + first_row
        raise UserError(f"{path}: row {row}: not UTF-8 text (byte 0x{data[error.start]:02x})") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, which may be gzipped; line i is row i + 1."""
    # Not str.splitlines: a token may hold one of the rarer characters that it takes for a line end.
    return re.split("\r?\n", check_utf8(path, read_bytes(path)))


def extension(path: Path) -> str:
    """The last extension before ``.gz``, in lower case with its dot: ``.csv`` for ``ratings.CSV.gz``."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix
