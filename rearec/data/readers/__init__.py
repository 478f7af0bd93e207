"""One module per source format; each hands on interactions or rows with an explicit history."""

from __future__ import annotations

from collections.abc import Callable

from rearec.data.preparation.options import PrepareOptions
from rearec.data.readers.amazon2023 import has_histories, read_amazon2023
from rearec.data.readers.interactions import HistoryRows, Interactions
from rearec.data.readers.json_users import read_json
from rearec.data.readers.recbole import is_sequential, read_recbole
from rearec.data.readers.source_files import SourceFiles
from rearec.data.readers.table import read_tables
from rearec.data.readers.text import read_lines_per_user, read_sasrec
from rearec.data.readers.yelp import read_yelp

__all__ = ["READERS", "hold_histories"]

READERS: dict[str, Callable[[SourceFiles, PrepareOptions], Interactions | HistoryRows]] = {
    "amazon2023": read_amazon2023,
    "json": read_json,
    "lines": read_lines_per_user,
    "recbole": read_recbole,
    "sasrec": read_sasrec,
    "table": read_tables,
    "yelp": read_yelp,
}


def hold_histories(format: str, files: SourceFiles, options: PrepareOptions) -> bool:
    """Whether every file holds rows with a history, which are split already."""
    if format == "amazon2023":
        return all(has_histories(path, options) for path in files.paths)
    return format == "recbole" and all(is_sequential(path, options) for path in files.paths)
