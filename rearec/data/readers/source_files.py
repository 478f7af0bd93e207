"""Which files the sources are: folders and patterns spelled out, and what the names say of a split."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rearec.data.readers.formats import SOURCE_FORMATS
from rearec.data.words import SPLIT_NAMES
from rearec.errors import UserError, some_of

__all__ = ["SourceFiles", "describe_parts", "ending", "find_files", "parts_by_name"]

PART_IN_NAME = re.compile(
    r"(?:^|[._\s-])(train|training|valid|validation|val|dev|test|testing)(?:[._\s-]?(?:set|data)|\d+)?(?=$|[._\s-])"
)
PARTS = {"train": 0, "training": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2, "testing": 2}
COMPRESSED = (".gz", ".bz2", ".zst", ".zip")
# Files that a note or an error names.
NAMED = 6


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source.

    Attributes:
        paths: in the order in which they are read.
        parts: of a given split what each of them is, 0 train, 1 valid, 2 test; None: all are one table.
        named: for each the parts that its name, or that of a folder given as source, speaks of.
        notes: what was decided without being asked, a line each.
        kind: what each of them is, in a word for the user: "file", or "frame" of one in memory.
    """

    paths: list[Path]
    parts: tuple[int, ...] | None = None
    named: tuple[frozenset[int], ...] = ()
    notes: tuple[str, ...] = ()
    kind: str = "file"


def find_files(
    sources: Sequence[str | Path], format: str, any_ending: bool = False, keep_order: bool = False
) -> SourceFiles:
    """The files that sources stand for: a file, all files of a folder, or a pattern such as ``part-*.csv``.

    What a folder or a pattern holds comes in natural order (part-2 before part-10), and so do files that are given in
    the order of a shell (part-10 before part-2); any other order is kept.

    Args:
        any_ending: take files of a folder whatever their names end in.
        keep_order: files stay in the order in which they are given.

    Raises:
        UserError: a folder or a pattern holds no file, or a file is given twice.
    """
    paths: list[Path] = []
    named: list[frozenset[int]] = []
    notes: list[str] = []
    for source in (Path(source) for source in sources):
        found = _spelled_out(source, format, any_ending, notes)
        paths += found
        root = source if source.is_dir() else None
        named += [_parts_in(path, root) for path in found]
    seen: set[object] = set()
    for path in paths:
        known = _identity(path)
        if known in seen:
            raise UserError(f"{path}: given twice; expected different files")
        seen.add(known)
    natural = sorted(range(len(paths)), key=lambda index: natural_key(str(paths[index])))
    texts = [str(path) for path in paths]
    if not keep_order and texts == sorted(texts) and natural != list(range(len(paths))):
        paths, named = [paths[index] for index in natural], [named[index] for index in natural]
        notes.append(f"files are read in natural order: {some_of([path.name for path in paths], NAMED)}")
    return SourceFiles(paths, None, tuple(named), tuple(notes))


def _identity(path: Path) -> object:
    """What two names of one file have in common, links or not."""
    try:
        found = path.stat()
    except OSError:
        return path.resolve()
    return found.st_dev, found.st_ino


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Sorts numbers within text as numbers."""
    return [(0, int(piece)) if piece.isdecimal() else (1, piece) for piece in re.split(r"(\d+)", text) if piece]


def parts_by_name(files: SourceFiles) -> tuple[int, ...] | None:
    """What the files are by their names; None unless each name speaks of one part, and all three are there."""
    parts = [next(iter(named)) for named in files.named if len(named) == 1]
    return tuple(parts) if len(parts) == len(files.paths) and set(parts) == {0, 1, 2} else None


def _spelled_out(source: Path, format: str, any_ending: bool, notes: list[str]) -> list[Path]:
    if source.is_dir():
        return _files_of(source, format, any_ending, notes)
    if source.exists() or not glob.has_magic(str(source)):
        return [source]
    found = [Path(name) for name in glob.glob(str(source), recursive=True)]
    files = [path for path in found if path.is_file()]
    if not files:
        # Folders, such as those of a partition.
        files = [path for folder in found for path in _files_of(folder, format, any_ending, notes)]
    if not files:
        raise UserError(f"{source}: no such file, and no file fits this pattern")
    return sorted(files, key=lambda path: natural_key(str(path)))


def _files_of(folder: Path, format: str, any_ending: bool, notes: list[str]) -> list[Path]:
    inside = [path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder))]
    inside.sort(key=lambda path: natural_key(str(path.relative_to(folder))))
    endings = SOURCE_FORMATS[format].endings
    taken = [path for path in inside if any_ending or ending(path) in endings]
    if not taken:
        holds = f"; it holds {some_of([path.name for path in inside], NAMED)}" if inside else ""
        raise UserError(f"{folder}: no file for the format {format!r} ({', '.join(endings)}){holds}")
    kinds = sorted({ending(path) for path in taken})
    if len(kinds) > 1:
        raise UserError(f"{folder}: holds files of several kinds ({', '.join(kinds)}); give those that are meant")
    left = [path.name for path in inside if path not in taken]
    if left:
        notes.append(f"left out of {folder}: {some_of(left, NAMED)}")
    return taken


def _is_hidden(path: Path) -> bool:
    """Whether a name on the way says that it is no data: hidden files, and the marks of Spark and its like."""
    return any(name.startswith((".", "_")) for name in path.parts) or path.suffix == ".crc"


def ending(path: Path) -> str:
    """What the name ends in, before what it is compressed with: '.csv' of 'events.CSV.gz'."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return Path(name).suffix


def _parts_in(path: Path, root: Path | None) -> frozenset[int]:
    """The parts that the file's name speaks of, or else that of a folder from the source on."""
    names = [path.name] if root is None else [path.name, *reversed(path.relative_to(root).parts[:-1]), root.name]
    # Capitals begin words: trainData.
    for name in (re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name) for name in names):
        found = frozenset(PARTS[word] for word in PART_IN_NAME.findall(name.lower()))
        if found:
            return found
    return frozenset()


def describe_parts(files: SourceFiles) -> str:
    """'train a.csv, valid b.csv, test c.csv'."""
    assert files.parts is not None
    by_part = [
        (name, [path.name for path, part in zip(files.paths, files.parts, strict=True) if part == index])
        for index, name in enumerate(SPLIT_NAMES)
    ]
    return ", ".join(f"{name} {some_of(names, NAMED)}" for name, names in by_part if names)
