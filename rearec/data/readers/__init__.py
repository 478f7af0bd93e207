"""One module per source format; each hands on interactions or rows with an explicit history."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rearec.data.interactions import HistoryRows, Interactions
from rearec.data.readers.amazon2023 import read_amazon2023
from rearec.data.readers.json_users import read_json
from rearec.data.readers.options import ReadOptions
from rearec.data.readers.recbole import read_recbole
from rearec.data.readers.table import read_tables
from rearec.data.readers.text import read_lines_per_user, read_sasrec
from rearec.data.readers.yelp import read_yelp

__all__ = ["READERS", "ReadOptions"]

READERS: dict[str, Callable[[list[Path], ReadOptions], Interactions | HistoryRows]] = {
    "amazon2023": read_amazon2023,
    "json": read_json,
    "lines": read_lines_per_user,
    "recbole": read_recbole,
    "sasrec": read_sasrec,
    "table": read_tables,
    "yelp": read_yelp,
}
