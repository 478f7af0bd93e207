"""The 5-core csv files of Amazon Reviews 2023: ``user_id,parent_asin,rating,timestamp,history``."""

from __future__ import annotations

from pathlib import Path

from rearec.data.interactions import HistoryRows, Interactions
from rearec.data.readers.builders import HistoryRowsBuilder, InteractionsBuilder
from rearec.data.readers.options import ReadOptions
from rearec.data.tables import read_delimited

__all__ = ["read_amazon2023"]

USER, ITEM, RATING, TIMESTAMP, HISTORY = COLUMNS = ("user_id", "parent_asin", "rating", "timestamp", "history")


def read_amazon2023(paths: list[Path], options: ReadOptions) -> Interactions | HistoryRows:
    """Interactions from any number of files, or the rows of the three files of a given split with their histories.

    The header row is optional. The history (tokens with blanks between, empty in a user's first row) is used for a
    given split only: otherwise a user's history is made of the rows themselves, in time order.
    """
    tables = [read_delimited(path, ",", default_header=COLUMNS) for path in paths]
    if options.given and all(table.has(HISTORY) for table in tables):
        rows = HistoryRowsBuilder(paths)
        for table in tables:
            rows.add_table(table, USER, HISTORY, ITEM, RATING)
        return rows.build()
    builder = InteractionsBuilder(paths, options.given)
    for table in tables:
        builder.add_table(table, USER, ITEM, RATING, TIMESTAMP)
    return builder.build()
