"""Bytes in, text out: compressions, archives, encodings and line ends."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import lzma
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from rearec.data.tables import files
from rearec.data.tables.files import extension, line_blocks, read_bytes, read_lines, read_text
from rearec.data.tables.layout import Layout
from rearec.errors import UserError

TEXT = "user_id,item_id\n" + "".join(f"u{n},é{n}\n" for n in range(500))
DATA = TEXT.encode()


def archive(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members:
            made.writestr(name, data)
    return file.getvalue()


def zstd(data: bytes) -> bytes:
    """Two frames of zstd, each of one block of bytes as they are."""
    half = len(data) // 2
    result = b""
    for part in (data[:half], data[half:]):
        assert len(part) < 1 << 17
        header = (len(part) << 3 | 1).to_bytes(3, "little")
        result += b"\x28\xb5\x2f\xfd" + b"\x00\x58" + header + part
    return result


READS_ZSTD = sys.version_info >= (3, 14) or importlib.util.find_spec("zstandard") is not None
needs_zstd = pytest.mark.skipif(not READS_ZSTD, reason="the package zstandard is not installed")

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
    "zip": lambda data: archive([("folder/", b""), ("__MACOSX/._t.csv", b"x"), (".DS_Store", b"x"), ("t.csv", data)]),
}
EACH = [pytest.param(name, marks=needs_zstd if name == "zst" else ()) for name in COMPRESSIONS]


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("kept", [True, False], ids=["named", "not named"])
def test_compressions_are_told_by_the_first_bytes(name: str, kept: bool, tmp_path: Path) -> None:
    path = tmp_path / (f"t.csv.{name}" if kept else "t.csv")
    path.write_bytes(COMPRESSIONS[name](DATA))
    assert read_bytes(path) == DATA
    assert b"".join(line_blocks(path, 100)) == DATA and extension(path) == ".csv"
    assert max(map(len, line_blocks(path, 100))) < 200


@pytest.mark.parametrize("name", EACH)
def test_a_name_that_promises_a_compression_must_keep_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.csv.{name}"
    path.write_bytes(DATA)
    kind = {"gz": "gzip", "bz2": "bzip2", "zst": "zstd"}.get(name, name)
    with pytest.raises(UserError) as caught:
        read_bytes(path)
    assert str(caught.value) == f"{path}: not a {kind} file, although its name ends in .{name}"
    path.write_bytes(b"")
    with pytest.raises(UserError, match="the file is empty"):
        read_bytes(path)


@pytest.mark.parametrize("name", EACH)
def test_truncated_and_damaged_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.csv.{name}"
    good = COMPRESSIONS[name](DATA)
    for size in (12, len(good) // 2 - 9, len(good) - 3):
        path.write_bytes(good[:size])
        with pytest.raises(UserError) as caught:
            b"".join(line_blocks(path, 100))
        message = str(caught.value)
        assert "\n" not in message and message.startswith(f"{path}: ")
        assert "truncated" in message or "damaged" in message
    if name != "zst":  # its frames here have no checksum
        path.write_bytes(good[: len(good) // 2] + bytes(20) + good[len(good) // 2 + 20 :])
        with pytest.raises(UserError, match="damaged"):
            b"".join(line_blocks(path, 100))


def test_a_compressed_file_in_an_archive_is_read(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    path.write_bytes(archive([("in/ratings.CSV.gz", gzip.compress(DATA))]))
    assert read_text(path) == TEXT and extension(path) == ".csv"


def test_members_of_archives_are_read_by_their_path(tmp_path: Path) -> None:
    path = tmp_path / "ml.zip"
    path.write_bytes(archive([("ml/ratings.dat", DATA), ("ml/README", b"hello"), ("ml/.hidden", b"x")]))
    assert read_text(path / "ml" / "ratings.dat") == TEXT
    assert extension(path / "ml" / "ratings.dat") == ".dat"
    listed = f"{path}: the archive holds ml/ratings.dat, ml/README; name one, as in {path}/ml/ratings.dat"
    for function in (read_text, extension):
        with pytest.raises(UserError) as caught:
            function(path)
        assert str(caught.value) == listed
    with pytest.raises(UserError, match=r"no such file in the archive, which holds ml/ratings\.dat, ml/README"):
        read_text(path / "ratings.dat")
    plain = tmp_path / "t.csv"
    plain.write_bytes(DATA)
    with pytest.raises(UserError, match="no zip archive, so there is no 'x' in it"):
        read_text(plain / "x")
    with pytest.raises(UserError, match="no such file"):
        read_text(tmp_path / "none.zip" / "x")


def test_archives_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.zip"
    path.write_bytes(archive([("__MACOSX/x", b"x")]))
    with pytest.raises(UserError, match="the archive holds no file"):
        read_text(path)
    path.write_bytes(archive([("t.csv", b"")]))
    with pytest.raises(UserError, match="the file is empty"):
        read_text(path)
    encrypted = bytearray(archive([("t.csv", DATA)]))
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(encrypted))
    with pytest.raises(UserError, match="the archive is encrypted; unpack it first"):
        read_text(path)
    import tarfile

    packed = tmp_path / "t.csv.gz"
    with tarfile.open(packed, "w:gz") as tar:
        plain = tmp_path / "t.csv"
        plain.write_bytes(DATA)
        tar.add(plain, "t.csv")
    with pytest.raises(UserError, match="a tar archive; unpack it and give the files in it"):
        read_text(packed)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "cp1252", "utf_8"]
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_encodings_are_read_whatever_the_blocks(encoding: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(TEXT.encode(encoding))
    assert b"".join(line_blocks(path, size, encoding)) == DATA
    assert all(block.endswith(b"\n") for block in line_blocks(path, size, encoding))


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        ("a\nü\n".encode("latin-1"), "utf-8", "row 2: not UTF-8 text (byte 0xfc); --encoding cp1252 or latin-1"),
        (b"a\n\n\x81\n", "cp1252", "row 3: not cp1252 text (byte 0x81)"),
        (b"a\nb\xe9", "ascii", "row 2: not ascii text (byte 0xe9)"),
        (b"a\nb\xe2\x82", "utf-8", "row 2: not UTF-8 text (byte 0xe2)"),
        ("a\nb".encode("utf-16"), "utf-8", "begins with a UTF-16 byte order mark: --encoding utf-16 reads it"),
        ("a\nb".encode("utf-32"), "utf-8", "begins with a UTF-32 byte order mark: --encoding utf-32 reads it"),
        ("a\nb".encode("utf-16-le"), "utf-8", "row 1: a NUL byte: the file is damaged, or in UTF-16"),
        (b"a\nb\n\0\0\0\0", "utf-8", "row 3: a NUL byte"),
    ],
)
@pytest.mark.parametrize("size", [2, 1 << 20])
def test_what_is_no_text_is_named_by_its_row(
    data: bytes, encoding: str, message: str, size: int, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        list(line_blocks(path, size, encoding))
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "klingon"}, "--encoding 'klingon' is unknown"),
        ({"encoding": "base64"}, "--encoding 'base64' is unknown"),
        ({"encoding": "a\0b"}, "--encoding 'a\\x00b' is unknown"),
        ({"separator": ""}, "--separator must be text"),
        ({"separator": '"'}, "--separator must be text"),
        ({"separator": "\n"}, "--separator must be text"),
        ({"escape": "ab"}, "--escape must be one character"),
        ({"escape": ";", "separator": ";"}, "--escape must be one character"),
        ({"quoting": "some"}, "--quoting must be one of auto, csv, none, got 'some'"),
        ({"names": ()}, "--columns must name every column"),
        ({"names": ("a", " ")}, "--columns must name every column"),
        ({"names": ("a", "b", "a")}, "--columns names 'a' more than once"),
    ],
)
def test_layouts_that_make_no_sense(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Layout(**options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_carriage_returns_alone_are_line_ends(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "old.txt"
    path.write_bytes(b"u a\rv b\rw c")
    assert b"".join(line_blocks(path, size)) == b"u a\nv b\nw c"
    monkeypatch.setattr(files, "BLOCK_BYTES", size)
    assert read_lines(path) == ["u a", "v b", "w c"]
    path.write_bytes(b"u a\r\nv b\r\nw c\r\n")
    assert b"".join(line_blocks(path, size)) == path.read_bytes()
