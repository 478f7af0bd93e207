"""Any table by column names."""

from __future__ import annotations

from pathlib import Path

from rearec.data.interactions import Interactions
from rearec.data.readers.builders import InteractionsBuilder
from rearec.data.readers.options import ReadOptions
from rearec.data.tables.layout import Layout
from rearec.data.tables.table import Table
from rearec.data.tables.table_files import read_table

__all__ = ["add_interactions", "read_tables"]


def read_tables(paths: list[Path], options: ReadOptions) -> Interactions:
    """Interactions from csv, tsv, parquet or json lines files, one interaction per row."""
    builder = InteractionsBuilder(paths, options.given)
    columns = [options.user, options.item, options.rating, options.timestamp]
    for path in paths:
        add_interactions(
            builder, read_table(path, columns, Layout(separator=options.separator), ids=columns[:2]), options
        )
    return builder.build()


def add_interactions(builder: InteractionsBuilder, table: Table, options: ReadOptions) -> None:
    """Add one table; a rating or timestamp column that was not named is used where there is one."""
    rating = options.rating if options.rating_column or table.has(options.rating) else None
    timestamp = options.timestamp if options.timestamp_column or table.has(options.timestamp) else None
    builder.add_table(table, options.user, options.item, rating, timestamp)
