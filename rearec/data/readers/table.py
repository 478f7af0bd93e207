"""Any table by column names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from rearec.data.readers.builders import InteractionsBuilder
from rearec.data.readers.conditions import condition_columns
from rearec.data.readers.interactions import Interactions
from rearec.data.readers.options import PrepareOptions
from rearec.data.readers.selection import Decisions, UnlikeBlocks, find_roles, id_columns, wanted_columns
from rearec.data.readers.source_files import SourceFiles
from rearec.data.tables.arrays import Scratch
from rearec.data.tables.table import Table
from rearec.data.tables.table_files import is_streamed, parts_with_rows, stream_table
from rearec.errors import UserError

__all__ = ["read_tables"]

# Rows of parquet that are read at a time; memory for a byte of a file that is read as a whole; what a folder of Hive is
# called that has no value.
READ_ROWS = 1 << 20
WHOLE_BYTES = 4
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def read_tables(files: SourceFiles, options: PrepareOptions, scratch: Scratch) -> Interactions:
    """Interactions from csv, tsv, parquet or json files, one a row, or a list of a user's items a row.

    A file is read in blocks. Where all of its rows have to be known to tell what a column means, it is read as a whole.
    """
    # Without a file of titles a column that is named for them is one of the table itself.
    title = options.title_column if options.titles is None else None
    columns = [*wanted_columns(options), *([title] if title else [])]
    paths = parts_with_rows(files.paths, columns)
    rows = min(READ_ROWS, scratch.block_rows)
    as_whole: set[Path] = set()
    while True:
        builder = InteractionsBuilder(files, options, scratch)
        try:
            for path in paths:
                decisions = Decisions(path, known=path in as_whole)
                for table in _tables(path, columns, options, None if path in as_whole else rows):
                    builder.add_table(table, find_roles(table, options), title, decisions)
            return builder.build()
        except UnlikeBlocks as unlike:
            as_whole.add(unlike.path)


def _tables(path: Path, columns: list[str], options: PrepareOptions, rows: int | None) -> Iterator[Table]:
    """The file in blocks, with the columns that the folders around it stand for."""
    if rows is None or not is_streamed(path):
        _check_memory(path, options)
    folders = _hive_columns(path)
    flags = condition_columns(options.where)
    for table in stream_table(path, columns, options.layout, id_columns(options), flags, rows):
        own = {name: value for name, value in folders.items() if name not in table.names}
        added = [pl.lit(value, dtype=pl.String).alias(name) for name, value in own.items() if name in columns]
        yield replace(table, frame=table.frame.with_columns(added), names=(*table.names, *own)) if own else table


def _check_memory(path: Path, options: PrepareOptions) -> None:
    """UserError where a file is too large to be read as a whole."""
    size = path.stat().st_size if path.is_file() else 0
    if options.memory is not None and size * WHOLE_BYTES > options.memory:
        raise UserError(
            f"{path}: is read as a whole, for which --memory-limit {options.memory_limit} is too little: write it as "
            "parquet with a row for each interaction, or in several files"
        )


def _hive_columns(path: Path) -> dict[str, str | None]:
    """What the folders around a file, up to one of another name, say as ``column=value``."""
    found: list[tuple[str, str | None]] = []
    for folder in path.parents:
        name, sign, value = folder.name.partition("=")
        if not sign or not name:
            break
        found.append((unquote(name), None if value == NO_VALUE else unquote(value)))
    return dict(reversed(found))
