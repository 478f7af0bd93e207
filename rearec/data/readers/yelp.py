"""The reviews of the Yelp Open Dataset, one json object per line."""

from __future__ import annotations

import polars as pl

from rearec.data.readers.builders import InteractionsBuilder
from rearec.data.readers.conditions import condition_columns
from rearec.data.readers.interactions import Interactions
from rearec.data.readers.options import PrepareOptions
from rearec.data.readers.selection import Roles
from rearec.data.readers.source_files import SourceFiles
from rearec.data.tables.arrays import Scratch
from rearec.data.tables.json_lines import stream_json_lines

__all__ = ["read_yelp"]

REVIEW = {"user_id": pl.String(), "business_id": pl.String(), "stars": pl.Float64(), "date": pl.String()}


def read_yelp(files: SourceFiles, options: PrepareOptions, scratch: Scratch) -> Interactions:
    """Interactions from ``yelp_academic_dataset_review.json``; the dates have no zone and are taken as UTC."""
    builder = InteractionsBuilder(files, options, scratch)
    further = [name for name in condition_columns(options.where) if name not in REVIEW]
    review = REVIEW | dict.fromkeys(further, pl.String())
    for path in files.paths:
        for table in stream_json_lines(path, review, optional=further, ids=("user_id", "business_id"), flags=further):
            builder.add_table(table, Roles("user_id", "business_id", "stars", ("date",)))
    return builder.build()
