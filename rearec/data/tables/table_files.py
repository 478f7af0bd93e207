"""Tables by column names: csv, tsv, parquet and json."""

from __future__ import annotations

import io
from collections.abc import Container, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from rearec.data.tables.compression import is_plain, opened
from rearec.data.tables.delimited import read_delimited
from rearec.data.tables.files import BEGIN_BYTES, extension, line_blocks, read_bytes, refuse_other_kinds
from rearec.data.tables.hints import sniff_hint
from rearec.data.tables.json_lines import JSON_LINES, read_json_lines
from rearec.data.tables.layout import DEFAULT_LAYOUT, Layout
from rearec.data.tables.table import SAMPLE_ROWS, Table, filled_table
from rearec.errors import UserError

__all__ = ["read_table"]

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
    kind = extension(path)
    if layout.names is not None and kind in (*PARQUET, *JSON_LINES):
        raise UserError(f"{path}: --columns is for text tables without a header; {kind[1:]} files name their columns")
    if kind in PARQUET:
        return _read_parquet(path, columns)
    if kind in JSON_LINES:
        return read_json_lines(path, columns, ids, layout.encoding, flags)
    if layout.separator is None and kind not in SEPARATORS:
        if kind in BINARY:
            raise UserError(f"{path}: unknown kind of table {kind!r}; write it as parquet or csv")
        known = ", ".join([*SEPARATORS, *PARQUET, *JSON_LINES])
        hint = sniff_hint(_first_lines(path, layout))
        raise UserError(f"{path}: unknown kind of table {kind!r}; known are {known} (or give a separator){hint}")
    return read_delimited(path, replace(layout, separator=layout.separator or SEPARATORS[kind]), columns)


def _first_lines(path: Path, layout: Layout) -> list[str]:
    # In latin-1 every byte is a character: separators are found whatever the encoding.
    encoding = "latin-1" if layout.encoding == "utf-8" else layout.encoding
    block = next(line_blocks(path, SNIFFED, encoding), b"")
    return list(islice((line.rstrip("\r") for line in block.decode("utf-8").split("\n")), 20))


def _read_parquet(path: Path, columns: Sequence[str]) -> Table:
    """Columns of a parquet file, typed.

    Raises:
        UserError: the file is no parquet file or has no rows.
    """
    # Of a file that is not compressed polars reads the parts that it needs.
    source = path if is_plain(path) else io.BytesIO(read_bytes(path))
    try:
        table = pl.scan_parquet(source, glob=False, hive_partitioning=False, cache=False)
        schema = table.collect_schema()
        names = schema.names()
        height = table.select(pl.len()).collect().item()
        frame = table.select([name for name in dict.fromkeys(columns) if name in names]).collect()
        sample = table.select([name for name in names if name in columns or not _is_vector(schema[name])])
        sample = sample.head(SAMPLE_ROWS)
        return filled_table(path, frame, np.arange(height) + 1, tuple(names), sample.collect())
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
