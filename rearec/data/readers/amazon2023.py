"""Amazon Reviews 2023: the raw reviews as json lines, and the 5-core csv files with a history."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from rearec.data.readers.builders import HistoryRowsBuilder, InteractionsBuilder
from rearec.data.readers.conditions import condition_columns
from rearec.data.readers.interactions import HistoryRows, Interactions
from rearec.data.readers.options import PrepareOptions
from rearec.data.readers.selection import Roles
from rearec.data.readers.source_files import SourceFiles
from rearec.data.tables.arrays import Scratch
from rearec.data.tables.delimited import stream_delimited
from rearec.data.tables.files import extension
from rearec.data.tables.json_lines import JSON_LINES, stream_json_lines

__all__ = ["has_histories", "read_amazon2023"]

USER, ITEM, RATING, TIMESTAMP, HISTORY = COLUMNS = ("user_id", "parent_asin", "rating", "timestamp", "history")
REVIEW = {USER: pl.String(), ITEM: pl.String(), RATING: pl.Float64(), TIMESTAMP: pl.Int64()}


def read_amazon2023(files: SourceFiles, options: PrepareOptions, scratch: Scratch) -> Interactions | HistoryRows:
    """Interactions from any number of files, or the rows of the files of a given split with their histories.

    Files that end in .jsonl (.gz) hold raw reviews, others are csv files ``user_id,parent_asin,rating,timestamp,
    history``, whose header is optional. The history (tokens with blanks between, empty in a user's first row) is used
    for a given split only: otherwise a user's history is made of the rows themselves, in time order.
    """
    if files.parts is not None:
        rows = HistoryRowsBuilder(files, options)
        if all(_add_history_rows(rows, path, options) for path in files.paths):
            return rows.build()
    builder = InteractionsBuilder(files, options, scratch)
    further = [name for name in condition_columns(options.where) if name not in COLUMNS]
    review = REVIEW | dict.fromkeys(further, pl.String())
    for path in files.paths:
        if extension(path) in JSON_LINES:
            tables = stream_json_lines(path, review, optional=further, ids=(USER, ITEM), flags=further)
        else:
            tables = stream_delimited(path, options.layout, (*COLUMNS, *further), COLUMNS)
        for table in tables:
            builder.add_table(table, Roles(USER, ITEM, RATING, (TIMESTAMP,)))
    return builder.build()


def has_histories(path: Path, options: PrepareOptions) -> bool:
    """Whether the file is a csv file with a column of histories."""
    if extension(path) in JSON_LINES:
        return False
    return next(stream_delimited(path, options.layout, COLUMNS, COLUMNS)).has(HISTORY)


def _add_history_rows(rows: HistoryRowsBuilder, path: Path, options: PrepareOptions) -> bool:
    """Add the file if it has a column of histories; whether it has one."""
    if extension(path) in JSON_LINES:
        return False
    for table in stream_delimited(path, options.layout, COLUMNS, COLUMNS):
        if not table.has(HISTORY):
            return False
        rows.add_table(table, USER, HISTORY, ITEM, RATING)
    return True
