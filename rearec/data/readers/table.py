"""Any table by column names."""

from __future__ import annotations

from rearec.data.readers.builders import InteractionsBuilder
from rearec.data.readers.conditions import condition_columns
from rearec.data.readers.interactions import Interactions
from rearec.data.readers.options import PrepareOptions
from rearec.data.readers.selection import find_roles, id_columns, wanted_columns
from rearec.data.readers.source_files import SourceFiles
from rearec.data.tables.table_files import read_table

__all__ = ["read_tables"]


def read_tables(files: SourceFiles, options: PrepareOptions) -> Interactions:
    """Interactions from csv, tsv, parquet or json files, one a row, or a list of a user's items a row."""
    builder = InteractionsBuilder(files, options)
    # Without a file of titles a column that is named for them is one of the table itself.
    title = options.title_column if options.titles is None else None
    columns = [*wanted_columns(options), *([title] if title else [])]
    for path in files.paths:
        flags = condition_columns(options.where)
        table = read_table(path, columns, options.layout, id_columns(options), flags)
        builder.add_table(table, find_roles(table, options), title)
    return builder.build()
