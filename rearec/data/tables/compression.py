"""Compressed files and archives, told by their first bytes: gzip, bzip2, xz, zstd and zip."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from rearec.errors import UserError, some_of

__all__ = ["inner_name", "is_plain", "opened"]

# What an archive may hold beside the data, and how many of its members an error lists.
CLUTTER = ("__MACOSX",)
LISTED = 12
# bzip2 continues with its level and the first digits of pi, or of its square root where nothing is in it.
BZIP2 = (b"1AY&SY", b"\x17rE8P\x90")
MAGIC_BYTES = 10
TAR_BYTES = 262
CHUNK = 1 << 20
SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}


def _kind(magic: bytes) -> str | None:
    """What a file that begins so is compressed with."""
    if magic.startswith(b"\x1f\x8b"):
        return "gzip"
    if magic.startswith(b"BZh") and magic[3:4].isdigit() and magic[4:10] in BZIP2:
        return "bzip2"
    if magic.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    return "zip" if magic.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")) else None


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, decompressed; ``archive.zip/member`` is a member of an archive; reading it raises UserError alone."""
    kind = "file"
    try:
        with ExitStack() as stack:
            archive, member = _split(path)
            file = cast(BinaryIO, stack.enter_context(archive.open("rb")))
            name = archive.name
            while True:
                magic = _peek(file, MAGIC_BYTES)
                found = _kind(magic)
                named = SUFFIXES.get(Path(name.lower()).suffix)
                if named is not None and named != found and magic:
                    raise UserError(f"{path}: not a {named} file, although its name ends in {Path(name).suffix}")
                if found is None:
                    if _peek(file, TAR_BYTES)[257:262] == b"ustar":
                        raise UserError(f"{path}: a tar archive; unpack it and give the files in it")
                    if member is not None:
                        raise UserError(f"{archive}: no zip archive, so there is no {member!r} in it")
                    yield file
                    return
                kind = found
                if found == "zip":
                    name, inner = _open_member(path, stack.enter_context(zipfile.ZipFile(file)), member)
                    member = None
                else:
                    name, inner = name[: -len(Path(name).suffix)] if named else name, OPENERS[found](file)
                file = cast(BinaryIO, io.BufferedReader(cast(Any, stack.enter_context(inner)), CHUNK))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except EOFError:
        raise UserError(f"{path}: truncated {kind}: the compressed data ends too early") from None
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError) as error:
        raise UserError(f"{path}: damaged {kind}: {error}") from error
    except ImportError:
        raise UserError(f"{path}: reading zstd needs the package zstandard: pip install zstandard") from None
    except OSError as error:
        if kind == "bzip2" and error.errno is None:
            raise UserError(f"{path}: damaged bzip2: {error}") from error
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def is_plain(path: Path) -> bool:
    """Whether the file holds something and is not compressed: libraries can then read it themselves."""
    try:
        with path.open("rb") as file:
            magic = file.read(MAGIC_BYTES)
            return bool(magic) and _kind(magic) is None
    except OSError:
        return False


def inner_name(path: Path) -> str:
    """The name of what is read when ``path`` is: without the suffixes of compressions, a zip's only member.

    Raises:
        UserError: the path is an archive with several members.
    """
    name = path.name
    if name.lower().endswith(".zip"):
        name = name[:-4]
        try:
            with zipfile.ZipFile(path) as archive:
                member = PurePosixPath(_only_member(path, archive)).name
        except (OSError, zipfile.BadZipFile, NotImplementedError):
            # Whoever reads the file says what is wrong with it.
            member = name
        if PurePosixPath(_without_suffixes(member)).suffix:
            name = member
    return _without_suffixes(name)


def _without_suffixes(name: str) -> str:
    while Path(name.lower()).suffix in SUFFIXES:
        name = name[: -len(Path(name).suffix)]
    return name


def _peek(file: BinaryIO, size: int) -> bytes:
    return cast(io.BufferedReader, file).peek(size)[:size]


def _split(path: Path) -> tuple[Path, str | None]:
    """The file that exists, and the rest of the path, where it leads into a zip archive."""
    if not path.exists():
        for parent in path.parents:
            if parent.is_file():
                return parent, path.relative_to(parent).as_posix()
    return path, None


def _members(archive: zipfile.ZipFile) -> list[str]:
    """The names of the files that hold data."""
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    parts = [PurePosixPath(name).parts for name in names]
    return [
        name
        for name, folders in zip(names, parts, strict=True)
        if not any(part in CLUTTER or part.startswith(".") for part in folders)
    ]


def _only_member(path: Path, archive: zipfile.ZipFile) -> str:
    names = _members(archive)
    if not names:
        raise UserError(f"{path}: the archive holds no file")
    if len(names) > 1:
        raise UserError(f"{path}: the archive holds {some_of(names, LISTED)}; name one, as in {path}/{names[0]}")
    return names[0]


def _open_member(path: Path, archive: zipfile.ZipFile, member: str | None) -> tuple[str, IO[bytes]]:
    name = _only_member(path, archive) if member is None else member
    try:
        entry = archive.getinfo(name)
    except KeyError:
        held = some_of(_members(archive), LISTED) or "nothing"
        raise UserError(f"{path}: no such file in the archive, which holds {held}") from None
    if entry.flag_bits & 1:
        raise UserError(f"{path}: the archive is encrypted; unpack it first")
    return PurePosixPath(name).name, archive.open(entry)


class _Zstd(io.RawIOBase):
    """Frames of zstd, one after the other; EOFError where the last is cut off."""

    def __init__(self, source: BinaryIO) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._source = source
        self._frame = self._new()
        self._begun = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._begun = self._new(), False
            data = data or self._source.read(CHUNK)
            if not data:
                if self._begun:
                    raise EOFError
                return 0
            self._begun = True
            try:
                self._ready = self._frame.decompress(data)
            except self._error as error:
                raise zlib.error(str(error)) from None
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


class _StandardZstd(io.RawIOBase):
    """The same with Python's own module (from 3.14)."""

    def __init__(self, source: BinaryIO) -> None:
        from compression import zstd

        self._error = zstd.ZstdError
        self._file = zstd.ZstdFile(source)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except self._error as error:
            raise zlib.error(str(error)) from None
        buffer[: len(data)] = data
        return len(data)


def _open_zstd(source: BinaryIO) -> io.RawIOBase:
    return _StandardZstd(source) if sys.version_info >= (3, 14) else _Zstd(source)


OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    "gzip": lambda source: gzip.GzipFile(fileobj=source, mode="rb"),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstd": _open_zstd,
}
