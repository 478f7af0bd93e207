"""Amazon Reviews 2023: the raw reviews as json lines, and the 5-core csv files with a history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from rearec.data.interactions import HistoryRows, Interactions
from rearec.data.readers.builders import HistoryRowsBuilder, InteractionsBuilder
from rearec.data.readers.options import ReadOptions
from rearec.data.tables.delimited import stream_delimited
from rearec.data.tables.files import extension
from rearec.data.tables.json_lines import JSON_LINES, stream_json_lines
from rearec.data.tables.layout import Layout
from rearec.data.tables.table import Table

__all__ = ["read_amazon2023"]

USER, ITEM, RATING, TIMESTAMP, HISTORY = COLUMNS = ("user_id", "parent_asin", "rating", "timestamp", "history")
REVIEW = {USER: pl.String(), ITEM: pl.String(), RATING: pl.Float64(), TIMESTAMP: pl.Int64()}


def read_amazon2023(paths: list[Path], options: ReadOptions) -> Interactions | HistoryRows:
    """Interactions from any number of files, or the rows of the three files of a given split with their histories.

    Files that end in .jsonl (.gz) hold raw reviews, others are csv files ``user_id,parent_asin,rating,timestamp,
    history``, whose header is optional. The history (tokens with blanks between, empty in a user's first row) is used
    for a given split only: otherwise a user's history is made of the rows themselves, in time order.
    """
    if options.given:
        rows = HistoryRowsBuilder(paths)
        if all(_add_history_rows(rows, path) for path in paths):
            return rows.build()
    builder = InteractionsBuilder(paths, options.given)
    for path in paths:
        for table in _stream(path):
            builder.add_table(table, USER, ITEM, RATING, TIMESTAMP)
    return builder.build()


def _stream(path: Path) -> Iterator[Table]:
    if extension(path) in JSON_LINES:
        return stream_json_lines(path, REVIEW, ids=(USER, ITEM))
    return stream_delimited(path, Layout(), COLUMNS, COLUMNS)


def _add_history_rows(rows: HistoryRowsBuilder, path: Path) -> bool:
    """Add the file if it has a column of histories; whether it has one."""
    if extension(path) in JSON_LINES:
        return False
    for table in stream_delimited(path, Layout(), COLUMNS, COLUMNS):
        if not table.has(HISTORY):
            return False
        rows.add_table(table, USER, HISTORY, ITEM, RATING)
    return True
