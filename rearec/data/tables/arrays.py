"""Arrays as long as there are interactions: in memory, or in nameless files of which blocks are in memory at a time."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rearec.errors import UserError

__all__ = ["BLOCK_ROWS", "Array", "Column", "Scratch", "StoredArray", "blocks", "count_codes", "in_blocks", "release"]

# Rows that are in memory at a time, where nothing else is said.
BLOCK_ROWS = 1 << 22


class StoredArray:
    """An array in a file: a slice of it is read when it is asked for, and written where it is assigned to.

    Attributes:
        dtype, shape: as of an array of NumPy; the first number of the shape is the length.
    """

    def __init__(self, file: IO[bytes], folder: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._file = file
        self._folder = folder
        self.dtype = dtype
        self.shape = shape
        self._row_bytes = dtype.itemsize * int(np.prod(shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> NDArray[Any]:
        start, stop, _ = part.indices(len(self))
        values = np.empty((max(0, stop - start), *self.shape[1:]), dtype=self.dtype)
        _transfer(os.preadv, self._file, values, start * self._row_bytes, self._folder)
        return values

    def __setitem__(self, part: slice, values: NDArray[Any]) -> None:
        start, _, _ = part.indices(len(self))
        values = np.ascontiguousarray(values, dtype=self.dtype)
        _transfer(os.pwritev, self._file, values, start * self._row_bytes, self._folder)

    def mapped(self) -> NDArray[Any]:
        """The whole as an array of NumPy, mapped into memory, read only."""
        if len(self) == 0:
            return self[:]
        self._file.flush()
        return np.memmap(self._file, dtype=self.dtype, mode="r", shape=self.shape)


# What blocks are read from: slices of both are arrays in memory.
Array: TypeAlias = NDArray[Any] | StoredArray


def _transfer(move: Any, file: IO[bytes], values: NDArray[Any], offset: int, folder: Path) -> None:
    """All bytes of ``values`` from the file or into it, by `os.preadv` or `os.pwritev`."""
    left = values.reshape(-1).view(np.uint8).data if values.size else memoryview(b"")
    while len(left):
        try:
            moved = move(file.fileno(), [left], offset)
        except OSError as error:
            raise _not_written(folder, error) from error
        if moved == 0:
            raise UserError(f"{folder}: a file that was written there has become shorter")
        left, offset = left[moved:], offset + moved


def _not_written(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder}: cannot be written: {error.strerror or error}; --tmp names another folder")


class Scratch:
    """Where the arrays of a preparation are while it runs.

    Args:
        folder: files in it, which have no name and are gone with the process, however it ends; None: memory.
        block_rows: most interactions that are looked at at a time.
        ids: most ids of users and items that there is memory for; None: any number.

    Raises:
        UserError: no file can be made in the folder.

    Examples:
        >>> from rearec.data.tables.arrays import Scratch
        >>> column = Scratch().column("int32")
        >>> column.append([1, 2])
        >>> column.append([3])
        >>> column.done()
        array([1, 2, 3], dtype=int32)
    """

    def __init__(self, folder: Path | None = None, block_rows: int = BLOCK_ROWS, ids: int | None = None) -> None:
        self.folder = folder
        self.block_rows = block_rows
        self.ids = ids
        if folder is not None:
            self.file().close()

    def file(self) -> IO[bytes]:
        """A new file without a name."""
        assert self.folder is not None
        try:
            return tempfile.TemporaryFile(dir=self.folder, buffering=0)
        except OSError as error:
            raise _not_written(self.folder, error) from error

    def column(self, dtype: DTypeLike, width: int | None = None) -> Column:
        """A column to append to; width: the numbers of a row, None for one."""
        return Column(self, np.dtype(dtype), () if width is None else (width,))

    def array(self, count: int, dtype: DTypeLike) -> Array:
        """An array to be filled by slices."""
        if self.folder is None:
            return np.zeros(count, dtype=dtype)
        return StoredArray(self.file(), self.folder, np.dtype(dtype), (count,))


class Column:
    """An array that grows; with values of a wider type all of it takes that type."""

    def __init__(self, scratch: Scratch, dtype: np.dtype[Any], row: tuple[int, ...]) -> None:
        self._scratch = scratch
        self.dtype = dtype
        self._row = row
        self._count = 0
        self._parts: list[NDArray[Any]] = []
        self._stored: StoredArray | None = None
        self._empty()

    def __len__(self) -> int:
        return self._count

    def _empty(self) -> None:
        self._count, self._parts = 0, []
        folder = self._scratch.folder
        if folder is not None:
            self._stored = StoredArray(self._scratch.file(), folder, self.dtype, (0, *self._row))

    def append(self, values: NDArray[Any] | Sequence[Any]) -> None:
        """Add rows at the end."""
        values = np.asarray(values)
        wider = np.result_type(self.dtype, values.dtype) if len(values) else self.dtype
        if values.dtype != self.dtype and wider != self.dtype and wider.kind != self.dtype.kind:
            self._widen(wider)
        stop = self._count + len(values)
        if self._stored is None:
            self._parts.append(values.astype(self.dtype))
        else:
            self._stored.shape = (stop, *self._row)
            self._stored[self._count : stop] = values
        self._count = stop

    def _widen(self, dtype: np.dtype[Any]) -> None:
        old = self.done()
        self.dtype = dtype
        self._empty()
        for part in blocks(len(old), self._scratch.block_rows):
            self.append(old[part].astype(dtype))

    def done(self) -> Array:
        """All that was appended."""
        if self._stored is not None:
            return self._stored
        joined = np.concatenate(self._parts) if self._parts else np.empty((0, *self._row), dtype=self.dtype)
        self._parts = [joined]
        return joined


def blocks(count: int, rows: int = BLOCK_ROWS) -> Iterator[slice]:
    """[0, count) cut into slices of that many rows, the last one shorter."""
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def in_blocks(*arrays: Array, rows: int = BLOCK_ROWS) -> Iterator[tuple[NDArray[Any], ...]]:
    """Slices of arrays of one length, the same rows of each at a time; what is mapped leaves memory again."""
    for part in blocks(len(arrays[0]), rows):
        yield tuple(array[part] for array in arrays)
        release(*arrays)


def release(*arrays: Array) -> None:
    """Give the memory back in which mapped files are shown; they are read again when they are looked at."""
    for array in arrays:
        mapping = getattr(array, "_mmap", None)
        if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)


def count_codes(codes: Array, count: int, kept: Array | None = None, rows: int = BLOCK_ROWS) -> NDArray[np.int64]:
    """int64 [count], how often each of the numbers below ``count`` occurs where ``kept`` is true (None: everywhere)."""
    counts = np.zeros(count, dtype=np.int64)
    for part in blocks(len(codes), rows):
        values = codes[part] if kept is None else codes[part][kept[part]]
        if len(values):
            low = int(values.min())
            found = np.bincount(values - low)
            counts[low : low + len(found)] += found
        release(codes)
    return counts
