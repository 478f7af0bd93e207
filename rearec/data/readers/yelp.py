"""The reviews of the Yelp Open Dataset, one json object per line."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from rearec.data.interactions import Interactions
from rearec.data.readers.builders import InteractionsBuilder
from rearec.data.readers.options import ReadOptions
from rearec.data.tables.json_lines import stream_json_lines

__all__ = ["read_yelp"]

REVIEW = {"user_id": pl.String(), "business_id": pl.String(), "stars": pl.Float64(), "date": pl.String()}


def read_yelp(paths: list[Path], options: ReadOptions) -> Interactions:
    """Interactions from ``yelp_academic_dataset_review.json``; the dates have no zone and are taken as UTC."""
    builder = InteractionsBuilder(paths, options.given)
    for path in paths:
        for table in stream_json_lines(path, REVIEW, ids=("user_id", "business_id")):
            builder.add_table(table, *REVIEW)
    return builder.build()
