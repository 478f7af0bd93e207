"""Features that were computed elsewhere: .npy, .safetensors and raw float32 (.feat1CLS), gzipped or not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.tables.files import extension, read_bytes, read_lines
from rearec.errors import UserError, in_one_line

__all__ = ["read_features", "rows_of_items"]

TENSOR_NAMES = ("features", "embeddings")


def read_features(path: Path, rows: int | None) -> NDArray[np.floating[Any]]:
    """[rows, width], what the file holds, not checked further.

    Args:
        rows: how many rows a file without a shape (.feat1CLS: float32, little-endian, row after row) has.

    Raises:
        UserError: the file cannot be read, is of another kind or holds no table of numbers with a fraction.
    """
    kind = extension(path)
    if kind == ".npy":
        array = _load_npy(path)
    elif kind == ".safetensors":
        array = _load_safetensors(path)
    elif kind.startswith(".feat"):
        array = _load_raw(path, rows)
    else:
        raise UserError(f"{path}: unknown kind of features {kind!r}; known are .npy, .safetensors, .feat1CLS")
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        got = f"{array.dtype} {list(array.shape)}"
        raise UserError(f"{path}: holds {got}; expected floating-point numbers [items, width]")
    return array


def _load_npy(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: not an array of numbers in NumPy's format: {in_one_line(error)}") from error
    return array


def _load_safetensors(path: Path) -> NDArray[Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(read_bytes(path))
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read as safetensors of float32, float64 or float16: {in_one_line(error)}"
        ) from error
    name = next((name for name in TENSOR_NAMES if name in tensors), None)
    if name is None and len(tensors) == 1:
        name = next(iter(tensors))
    if name is None:
        known = ", ".join(sorted(tensors)) or "nothing"
        raise UserError(f"{path}: holds {known}; expected one tensor, or one named {' or '.join(TENSOR_NAMES)}")
    return tensors[name]


def _load_raw(path: Path, rows: int | None) -> NDArray[Any]:
    data = read_bytes(path)
    if not rows or len(data) % (4 * rows):
        raise UserError(
            f"{path}: {len(data):,} bytes are no float32 table of {rows or 0:,} rows "
            f"({len(data) // 4 % rows if rows else 0} numbers are left over)"
        )
    return np.frombuffer(data, dtype="<f4").reshape(rows, -1)


def rows_of_items(order: str, item_ids: list[str]) -> tuple[NDArray[np.int64], int]:
    """int64 [items], the row of the features that belongs to each item of the dataset, and how many rows there are.

    Args:
        order: "ids" where the item ids are the rows, or a file of ``item row`` lines such as an ``.item2index``.

    Raises:
        UserError: an item has no row.
    """
    row_of: dict[str, str] = {item: item for item in item_ids}
    if order != "ids":
        row_of = {}
        for number, line in enumerate(read_lines(Path(order)), start=1):
            fields = line.split()
            if fields and (len(fields) != 2 or not fields[1].isdecimal()):
                raise UserError(f"{order}: row {number}: {line[:40]!r}; expected an item and its row")
            if fields:
                row_of[fields[0]] = fields[1]
    bad = next((item for item in item_ids if not row_of.get(item, "").isdecimal()), None)
    if bad is not None:
        why = "is no row number" if order == "ids" else "has no row"
        raise UserError(f"--order {order}: item {bad!r} {why}")
    rows = np.asarray([int(row_of[item]) for item in item_ids], dtype=np.int64)
    return rows, max(int(rows.max()) + 1, len(row_of))
