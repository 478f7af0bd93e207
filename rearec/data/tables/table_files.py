"""Tables by column names: csv, tsv, parquet and json."""

from __future__ import annotations

import io
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from rearec.data.tables.arrays import blocks
from rearec.data.tables.compression import is_plain, opened
from rearec.data.tables.delimited import read_delimited, stream_delimited
from rearec.data.tables.files import BEGIN_BYTES, extension, line_blocks, read_bytes, refuse_other_kinds
from rearec.data.tables.hints import sniff_hint
from rearec.data.tables.json_lines import JSON_LINES, read_json_lines
from rearec.data.tables.layout import DEFAULT_LAYOUT, Layout
from rearec.data.tables.table import SAMPLE_ROWS, Table, filled_table
from rearec.errors import UserError

__all__ = ["is_streamed", "parts_with_rows", "read_table", "stream_table"]

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
PARQUET = (".parquet", ".pq")
# Of these the same libraries write parquet.
BINARY = (".feather", ".arrow", ".ipc", ".orc", ".avro", ".pkl", ".pickle", ".h5", ".xls", ".xlsx")
SNIFFED = 1 << 16


def read_table(
    path: Path,
    columns: Sequence[str],
    layout: Layout = DEFAULT_LAYOUT,
    ids: Container[str] = (),
    flags: Container[str] = (),
) -> Table:
    """A table, its kind told by the extension (before those of compressions): csv, tsv, txt, parquet or json.

    Args:
        columns: the columns that may be used; only these are kept, and of parquet decoded.
        layout: of a text table; its separator is the extension's own unless given (a comma for csv, a tab otherwise).
        ids: columns that hold text or whole numbers; json is checked for it.
        flags: columns that may hold true and false also in json.

    Raises:
        UserError: the file cannot be read, or has an unknown extension and no separator is given.
    """
    kind, layout = _kind(path, layout)
    if kind in PARQUET:
        return next(_parquet_tables(path, columns, None))
    if kind in JSON_LINES:
        return read_json_lines(path, columns, ids, layout.encoding, flags)
    return read_delimited(path, layout, columns)


def stream_table(
    path: Path,
    columns: Sequence[str],
    layout: Layout = DEFAULT_LAYOUT,
    ids: Container[str] = (),
    flags: Container[str] = (),
    rows: int | None = None,
) -> Iterator[Table]:
    """The same in tables of some of the rows each, all with the first one's sample; json comes in one.

    Args:
        rows: most rows of a table of parquet; None: all. Text comes in blocks of about the same size.

    Raises:
        UserError: as in `read_table`.
    """
    kind, layout = _kind(path, layout)
    if kind in PARQUET:
        yield from _parquet_tables(path, columns, rows)
    elif kind in JSON_LINES or rows is None:
        yield read_table(path, columns, layout, ids, flags)
    else:
        yield from stream_delimited(path, layout, columns)


def is_streamed(path: Path) -> bool:
    """Whether `stream_table` reads the file in blocks."""
    return extension(path) not in JSON_LINES


def parts_with_rows(paths: Sequence[Path], columns: Sequence[str]) -> list[Path]:
    """The files of one table, without those of parquet that have no rows, if others have some; nothing else is read.

    Raises:
        UserError: one is no parquet file, or they differ in the columns that may be used or in what these hold; whole
            numbers of any size are the same, and so are texts.
    """
    first: tuple[Path, dict[str, str]] | None = None
    with_rows = []
    for path in paths:
        if extension(path) not in PARQUET:
            with_rows.append(path)
            continue
        with _errors_of_parquet(path):
            table = _scan(path)
            schema = table.collect_schema()
            if table.select(pl.len()).collect().item():
                with_rows.append(path)
        kinds = {name: _kind_of_values(dtype) for name, dtype in schema.items() if name in columns}
        if first is None:
            first = path, kinds
        for name in {**first[1], **kinds}:
            here, there = kinds.get(name), first[1].get(name)
            if here == there:
                continue
            if here is None or there is None:
                without, having = (path, first[0]) if here is None else (first[0], path)
                raise UserError(f"{without}: no column {name!r}, but {having} has one")
            raise UserError(f"{path}: column {name!r} is of {here}, that of {first[0]} of {there}")
    return with_rows or list(paths)


def _kind_of_values(dtype: pl.DataType) -> str:
    if dtype.is_integer():
        return "whole numbers"
    if dtype.is_temporal():
        return "dates"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    return f"{dtype}"


def _kind(path: Path, layout: Layout) -> tuple[str, Layout]:
    """The extension, and the layout with the separator that follows from it.

    Raises:
        UserError: it is unknown and no separator is given, or the layout is not for it.
    """
    kind = extension(path)
    if layout.names is not None and kind in (*PARQUET, *JSON_LINES):
        raise UserError(f"{path}: --columns is for text tables without a header; {kind[1:]} files name their columns")
    if kind in (*PARQUET, *JSON_LINES):
        return kind, layout
    if layout.separator is None and kind not in SEPARATORS:
        if kind in BINARY:
            raise UserError(f"{path}: unknown kind of table {kind!r}; write it as parquet or csv")
        known = ", ".join([*SEPARATORS, *PARQUET, *JSON_LINES])
        hint = sniff_hint(_first_lines(path, layout))
        raise UserError(f"{path}: unknown kind of table {kind!r}; known are {known} (or give a separator){hint}")
    return kind, replace(layout, separator=layout.separator or SEPARATORS[kind])


def _first_lines(path: Path, layout: Layout) -> list[str]:
    # In latin-1 every byte is a character: separators are found whatever the encoding.
    encoding = "latin-1" if layout.encoding == "utf-8" else layout.encoding
    block = next(line_blocks(path, SNIFFED, encoding), b"")
    return list(islice((line.rstrip("\r") for line in block.decode("utf-8").split("\n")), 20))


def _parquet_tables(path: Path, columns: Sequence[str], rows: int | None) -> Iterator[Table]:
    """Columns of a parquet file, typed, so many rows at a time (None: all).

    Raises:
        UserError: the file is no parquet file or has no rows.
    """
    with _errors_of_parquet(path):
        table = _scan(path)
        schema = table.collect_schema()
        names = schema.names()
        height = table.select(pl.len()).collect().item()
        wanted = table.select([name for name in dict.fromkeys(columns) if name in names])
        sample = table.select([name for name in names if name in columns or not _is_vector(schema[name])])
        first = sample.head(SAMPLE_ROWS).collect()
    for part in blocks(max(1, height), rows or max(1, height)):
        with _errors_of_parquet(path):
            frame = wanted.slice(part.start, part.stop - part.start).collect()
        numbers = np.arange(part.start, min(part.stop, height)) + 1
        yield filled_table(path, frame, numbers, tuple(names), first)


def _scan(path: Path) -> pl.LazyFrame:
    # Of a file that is not compressed polars reads the parts that it needs.
    source = path if is_plain(path) else io.BytesIO(read_bytes(path))
    return pl.scan_parquet(source, glob=False, hive_partitioning=False, cache=False)


@contextmanager
def _errors_of_parquet(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        with opened(path) as file:
            begin = file.read(BEGIN_BYTES)
        if not begin.startswith(b"PAR1"):
            refuse_other_kinds(path, begin)
        raise UserError(f"{path}: not a parquet file: {str(error).splitlines()[0]}") from None


def _is_vector(dtype: pl.DataType) -> bool:
    """Whether a column holds features, of which even a few rows may take decoding all."""
    if isinstance(dtype, pl.List):
        return not isinstance(dtype.inner, pl.DataType) or dtype.inner.is_float() or _is_vector(dtype.inner)
    return isinstance(dtype, (pl.Array, pl.Struct, pl.Binary, pl.Object))
