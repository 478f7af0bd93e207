"""The prepared dataset on disk: memory-mapped flat arrays, their offsets and json, in one directory."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.tables.arrays import in_blocks
from rearec.data.words import SPLIT_NAMES
from rearec.errors import UserError
from rearec.files import OutputFolder, partial_name, read_json

__all__ = [
    "FEATURES_FILE",
    "FEATURES_NOTE",
    "FEATURES_VERSION",
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "OUTPUT",
    "PARTIAL_FEATURES",
    "PARTIAL_NOTE",
    "load_dataset",
    "save_dataset",
]

FORMAT_NAME = "rearec-dataset"
FORMAT_VERSION = 1
DESCRIPTION_FILE = "dataset.json"
# What is written; a directory that holds anything else is not deleted.
ARRAYS = ("items", "offsets", "sequence_user", *(f"{split}_rows" for split in SPLIT_NAMES))
LISTS = ("item_ids", "user_ids", "item_titles")
# Of ``rearec embed``: the features of the items, what they were made of, and the same while they are being made.
FEATURES_FILE, FEATURES_NOTE, FEATURES_VERSION = "features.npy", "features.json", 1
PARTIAL_FEATURES, PARTIAL_NOTE = ".features.partial.npy", ".features.partial.json"
# Rows that are checked at a time: they stay in the processor's cache.
CHECKED_ROWS = 1 << 17
FILES = (
    *(DESCRIPTION_FILE, FEATURES_FILE, FEATURES_NOTE, PARTIAL_FEATURES, PARTIAL_NOTE),
    *(partial_name(name) for name in (FEATURES_FILE, FEATURES_NOTE, PARTIAL_NOTE)),
    *(f"{name}.npy" for name in ARRAYS),
    *(f"{name}.json" for name in LISTS),
)


def _is_dataset(directory: Path) -> bool:
    """Whether the directory's description is one of a prepared dataset, of whatever version."""
    try:
        description: dict[str, Any] = _read_json(directory, DESCRIPTION_FILE, dict)
    except UserError:
        return False
    return description.get("format") == FORMAT_NAME


# A directory that may be written: without --force a new or an empty one, and never one with anything but a dataset.
OUTPUT = OutputFolder(
    _is_dataset,
    other="holds no prepared dataset; choose another output directory",
    taken="a prepared dataset; use --force to replace it",
    is_part=lambda entry: entry.name in FILES and not entry.is_dir(),
    stranger="which is no part of a dataset",
    no_folder="exists and is not a directory; choose another output directory",
)


def save_dataset(dataset: SequenceDataset, out: str | Path, *, force: bool = False) -> None:
    """Write ``dataset`` into the directory ``out``: aside first, under a hidden name, then renamed in one go.

    Raises:
        UserError: ``out`` exists (and ``force`` is not given, or it holds no prepared dataset), or cannot be written.

    Examples:
        >>> from rearec.data import load_dataset, save_dataset
        >>> from rearec.data.synthetic import Planted, generate
        >>> save_dataset(generate(0, planted=Planted(users=50)), "data")
        >>> load_dataset("data").num_users
        50
    """
    out = Path(os.path.abspath(out))
    OUTPUT.check(out, replace=force)
    partial = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        _write_files(dataset, partial)
        _replace(partial, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_files(dataset: SequenceDataset, directory: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {f"{split}_rows": dataset.split_rows[split] for split in SPLIT_NAMES}
    arrays |= {"items": dataset.items, "offsets": dataset.offsets, "sequence_user": dataset.sequence_user}
    for name, array in arrays.items():
        _write_array(directory / f"{name}.npy", array)
    lists: dict[str, list[Any]] = {"item_ids": dataset.item_ids, "user_ids": dataset.user_ids}
    if dataset.item_titles is not None:
        lists["item_titles"] = dataset.item_titles
    for name, values in lists.items():
        _write_json(directory / f"{name}.json", values)
    description = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "source": dataset.source,
        "options": dataset.options,
        "shapes": {name: list(array.shape) for name, array in arrays.items()}
        | {name: [len(values)] for name, values in lists.items()},
        "statistics": dataset.statistics,
        "fingerprint": dataset.fingerprint,
    }
    # Written last: a directory without it is not a dataset.
    _write_json(directory / DESCRIPTION_FILE, description, indent=2)


def _write_array(path: Path, array: NDArray[Any]) -> None:
    """As `numpy.save`; of a mapped file a block at a time is in memory."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        for (block,) in in_blocks(array):
            file.write(np.ascontiguousarray(block).data)


def _write_json(path: Path, value: object, indent: int | None = None) -> None:
    path.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")


def _replace(partial: Path, out: Path) -> None:
    """Rename ``partial`` to ``out``; an old dataset is moved aside first and removed only after that."""
    if out.exists() and any(out.iterdir()):
        old = out.parent / f".{out.name}.{secrets.token_hex(4)}.old"
        out.rename(old)
        try:
            partial.rename(out)
        except OSError:
            old.rename(out)
            raise
        shutil.rmtree(old)
        return
    if out.exists():
        out.rmdir()
    partial.rename(out)


def load_dataset(path: str | Path, *, features: bool = True) -> SequenceDataset:
    """Open a prepared dataset; the arrays are memory-mapped, read only.

    Args:
        features: with the features of the items, if it has some.

    Raises:
        UserError: ``path`` is no prepared dataset, is of another version, or is damaged.

    Examples:
        >>> import rearec
        >>> from rearec.data import save_dataset
        >>> from rearec.data.synthetic import Planted, generate
        >>> save_dataset(generate(0, planted=Planted(users=50)), "data")
        >>> dataset = rearec.load_dataset("data")
        >>> dataset.num_users, len(dataset.rows("test"))
        (50, 50)
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such directory; expected a prepared dataset (see 'rearec prepare')")
    if not (path / DESCRIPTION_FILE).is_file():
        raise UserError(f"{path}: not a prepared dataset: it has no {DESCRIPTION_FILE} (see 'rearec prepare')")
    description = _read_json(path, DESCRIPTION_FILE, dict)
    if description.get("format") != FORMAT_NAME:
        raise UserError(f"{path / DESCRIPTION_FILE}: format is {description.get('format')!r}, not {FORMAT_NAME!r}")
    if description.get("version") != FORMAT_VERSION:
        got = description.get("version")
        raise UserError(
            f"{path}: prepared by another release (version {got}, expected {FORMAT_VERSION}): prepare again"
        )
    for key in ("source", "options", "shapes", "statistics"):
        if not isinstance(description.get(key), dict):
            raise UserError(f"{path / DESCRIPTION_FILE}: the field {key!r} is missing")
    fingerprint = description.get("fingerprint")
    if not isinstance(fingerprint, str):
        raise UserError(f"{path / DESCRIPTION_FILE}: the field 'fingerprint' is missing: prepare again")
    shapes = description["shapes"]
    dataset = SequenceDataset(
        items=_read_array(path, "items", np.int32, shapes),
        offsets=_read_array(path, "offsets", np.int64, shapes),
        sequence_user=_read_array(path, "sequence_user", np.int32, shapes),
        split_rows={split: _read_array(path, f"{split}_rows", np.int32, shapes) for split in SPLIT_NAMES},
        item_ids=_read_ids(path, "item_ids", shapes),
        user_ids=_read_ids(path, "user_ids", shapes),
        statistics=description["statistics"],
        source=description["source"],
        options=description["options"],
        item_titles=_read_list(path, "item_titles", shapes) if "item_titles" in shapes else None,
        features=_read_features(path, fingerprint, shapes) if features else None,
    )
    _check_contents(path, dataset)
    # Kept from the preparation: it need not be computed again.
    vars(dataset)["fingerprint"] = fingerprint
    return dataset


def _read_features(path: Path, fingerprint: str, shapes: dict[str, Any]) -> NDArray[np.float32] | None:
    """The features of the items, memory-mapped; None where there are none."""
    if not (path / FEATURES_NOTE).exists():
        return None
    note: dict[str, Any] = _read_json(path, FEATURES_NOTE, dict)
    if note.get("version") != FEATURES_VERSION or note.get("dataset") != fingerprint:
        raise UserError(f"{path / FEATURES_NOTE}: of another dataset or release: run 'rearec embed' again with --force")
    shape = note.get("shape")
    if not isinstance(shape, list) or len(shape) != 2 or [shape[0]] != shapes.get("item_ids"):
        raise UserError(f"{path / FEATURES_NOTE}: damaged (shape {shape}): run 'rearec embed' again with --force")
    return _read_array(path, "features", np.float32, {"features": shape})


def _read_json(path: Path, name: str, kind: type) -> Any:
    try:
        value = read_json(path / name)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UserError(f"{path / name}: missing from the prepared dataset: prepare again") from None
        raise
    if not isinstance(value, kind):
        raise UserError(f"{path / name}: damaged (a json {kind.__name__} was expected): prepare again")
    return value


def _read_list(path: Path, name: str, shapes: dict[str, Any]) -> list[Any]:
    values: list[Any] = _read_json(path, f"{name}.json", list)
    if [len(values)] != shapes.get(name):
        raise UserError(f"{path / name}.json: damaged ({len(values)} entries, not {shapes.get(name)}): prepare again")
    return values


def _read_ids(path: Path, name: str, shapes: dict[str, Any]) -> list[str]:
    values = _read_list(path, name, shapes)
    if set(map(type, values)) - {str} or _any_twice(values):
        raise UserError(f"{path / name}.json: damaged (ids must be different texts): prepare again")
    return values


def _any_twice(values: list[str]) -> bool:
    # a set of all of them takes several times as long
    hashes = np.sort(np.fromiter(map(hash, values), np.int64, len(values)))
    return bool((hashes[1:] == hashes[:-1]).any()) and len(set(values)) < len(values)


def _read_array(path: Path, name: str, dtype: type[np.number], shapes: dict[str, Any]) -> NDArray[Any]:
    file = path / f"{name}.npy"
    shape = shapes.get(name)
    try:
        # An empty array cannot be memory-mapped.
        array: NDArray[Any] = np.load(file, mmap_mode=None if shape and 0 in shape else "r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{file}: missing from the prepared dataset: prepare again") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file}: damaged ({error}): prepare again") from error
    if array.dtype != dtype or list(array.shape) != shape:
        got = f"{array.dtype} {list(array.shape)}"
        raise UserError(f"{file}: damaged (is {got}, not {np.dtype(dtype)} {shape}): prepare again")
    return array


def _check_contents(path: Path, dataset: SequenceDataset) -> None:
    """Every index that is stored points at something."""

    def check(valid: bool, name: str, why: str) -> None:
        if not valid:
            raise UserError(f"{path / name}.npy: damaged ({why}): prepare again")

    items, offsets, user = dataset.items, np.asarray(dataset.offsets), dataset.sequence_user
    ends_fit = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == len(items)
    lengths = np.diff(offsets)
    check(ends_fit and bool(np.all(lengths > 0)), "offsets", "offsets do not ascend from 0 to the last item")
    check(_within(items, dataset.num_items), "items", "an item id is out of range")
    check(len(user) == len(offsets) - 1, "sequence_user", "not one user for each sequence")
    check(_within(user, dataset.num_users), "sequence_user", "a user id is out of range")
    check(bool(np.all(user[1:] >= user[:-1])), "sequence_user", "sequences are not sorted by user")
    for split in SPLIT_NAMES:
        every = dataset.split_rows[split]
        name = f"{split}_rows"
        check(every.ndim == 2 and every.shape[1] == 2, name, "not pairs of sequence and position")
        low = 1 if split == "train" else 0
        before = np.zeros((1, 2), dtype=np.int32)
        for (rows,) in in_blocks(every, rows=CHECKED_ROWS):
            sequence, position = np.concatenate([before, rows]).T.copy()
            check(_within(sequence, len(user)), name, "a sequence is out of range")
            inside = (position[1:] >= low) & (position[1:] < lengths[sequence[1:]])
            check(bool(inside.all()), name, "a position is out of range")
            rises = (sequence[1:] == sequence[:-1]) & (position[1:] >= position[:-1])
            check(bool((rises | (sequence[1:] > sequence[:-1])).all()), name, "rows are not sorted")
            before = rows[-1:].copy()


def _within(values: NDArray[Any], count: int) -> bool:
    parts = in_blocks(values)
    return all(int(part.min()) >= 0 and int(part.max()) < count for (part,) in parts)
