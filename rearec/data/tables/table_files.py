"""Tables by column names: csv, tsv, parquet and json lines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rearec.data.tables.delimited import read_delimited
from rearec.data.tables.files import extension, read_bytes
from rearec.data.tables.json_lines import JSON_LINES, read_json_lines
from rearec.data.tables.table import Table, filled_table
from rearec.errors import UserError

__all__ = ["read_table"]

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
PARQUET = (".parquet", ".pq")


def read_table(path: Path, columns: Sequence[str], separator: str | None = None) -> Table:
    """A table, its kind told by the extension (before ``.gz``): csv, tsv, txt, parquet or json lines.

    Args:
        columns: the columns that may be used; json lines are read for these only.
        separator: of a text table; None for the extension's own (a comma for csv, a tab otherwise).

    Raises:
        UserError: the file cannot be read, or has an unknown extension and no ``separator`` is given.
    """
    kind = extension(path)
    if kind in PARQUET:
        return _read_parquet(path)
    if kind in JSON_LINES:
        return read_json_lines(path, columns)
    if separator is None and kind not in SEPARATORS:
        known = ", ".join([*SEPARATORS, *PARQUET, *JSON_LINES])
        raise UserError(f"{path}: unknown kind of table {kind!r}; known are {known} (or give a separator)")
    return read_delimited(path, separator or SEPARATORS[kind])


def _read_parquet(path: Path) -> Table:
    """A parquet file, its columns typed.

    Raises:
        UserError: the file is no parquet file or has no rows.
    """
    try:
        frame = pl.read_parquet(io.BytesIO(read_bytes(path)))
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: not a parquet file: {str(error).splitlines()[0]}") from None
    return filled_table(path, frame, np.arange(frame.height) + 1)
