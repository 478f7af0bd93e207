"""The source formats: how their files are named, what of the options they understand, and who reads them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rearec.data.readers.options import Preset
from rearec.errors import UserError

if TYPE_CHECKING:
    from rearec.data.readers.interactions import HistoryRows, Interactions

__all__ = ["FORMATS", "SOURCE_FORMATS", "SourceFormat", "check_format"]


@dataclass(frozen=True)
class SourceFormat:
    """A source format.

    Attributes:
        help: what it is, in a few words for ``--help``.
        endings: in which its files end, before what they are compressed with; of a folder no others are read.
        reader: ``module:function`` under ``rearec.data.readers``, imported when it is used: a function of the files,
            the `PrepareOptions` and the `Scratch`.
        options: those about reading that it understands; the others are refused.
        histories: ``module:function`` that tells of a path whether its rows have histories, which makes them rows of a
            given split; None where none have.
        item_columns: item and title of the files of items that may be given among the sources; None: there are none.
        preset: the preset that holds without being named; its sources are never split yet.
    """

    help: str
    endings: tuple[str, ...]
    reader: str
    options: tuple[str, ...] = ()
    histories: str | None = None
    item_columns: tuple[str, str] | None = None
    preset: Preset | None = None

    def read(self, files: Any, options: Any, scratch: Any) -> Interactions | HistoryRows:
        """What the files hold.

        scratch: where interactions are put (`rearec.data.tables.arrays.Scratch`).

        Raises:
            UserError: they are not of this format.
        """
        return _function(self.reader)(files, options, scratch)

    def hold_histories(self, files: Any, options: Any) -> bool:
        """Whether each of the files holds rows with a history, which are split already."""
        if self.histories is None:
            return False
        has_histories = _function(self.histories)
        return all(has_histories(path, options) for path in files.paths)


def _function(name: str) -> Callable[..., Any]:
    module, function = name.split(":")
    return getattr(importlib.import_module(f"rearec.data.readers.{module}"), function)


COLUMNS = ("user_column", "item_column", "rating_column", "timestamp_column", "timestamps", "time_format")
ROWS = ("where", "drop_incomplete")

SOURCE_FORMATS: Mapping[str, SourceFormat] = {
    "table": SourceFormat(
        "csv, parquet or json, with or without header.",
        (".csv", ".tsv", ".tab", ".txt", ".parquet", ".pq", ".jsonl", ".ndjson", ".json"),
        "table:read_tables",
        (*COLUMNS, *ROWS, "columns", "lists", "item_pattern", "separator", "quoting", "escape", "encoding"),
    ),
    "recbole": SourceFormat(
        "typed headers.",
        (".inter",),
        "recbole:read_recbole",
        (*COLUMNS, *ROWS, "separator", "encoding"),
        histories="recbole:is_sequential",
    ),
    "amazon2023": SourceFormat(
        "raw and meta jsonl, or 5-core csv.",
        (".jsonl", ".csv"),
        "amazon2023:read_amazon2023",
        (*ROWS, "time_format", "quoting", "escape", "encoding"),
        histories="amazon2023:has_histories",
        item_columns=("parent_asin", "title"),
    ),
    "yelp": SourceFormat(
        "review and business json, with the filters of the paper unless said otherwise.",
        (".json",),
        "yelp:read_yelp",
        ROWS,
        item_columns=("business_id", "name"),
        preset="yelp",
    ),
    "sasrec": SourceFormat("'user item' lines.", (".txt",), "text:read_sasrec", ("encoding",)),
    "lines": SourceFormat("a user per line.", (".txt",), "text:read_lines_per_user", ("encoding",)),
    "json": SourceFormat("items by user.", (".json",), "json_users:read_json"),
}
FORMATS = tuple(sorted(SOURCE_FORMATS))


def check_format(name: str) -> None:
    """UserError where there is no such format; says which one is meant by the ending of a file."""
    if name in SOURCE_FORMATS:
        return
    known = f"unknown format {name!r}; known are {', '.join(FORMATS)}"
    endings = [f".{part.lower()}" for part in name.split(".")]
    meant = [known for known, source in SOURCE_FORMATS.items() if set(source.endings) & set(endings)]
    if not meant:
        raise UserError(known)
    if "." in name.lstrip("."):
        raise UserError(
            f"{known}; the format comes before the file, as in 'rearec prepare {meant[0]} {name} --out data'"
        )
    raise UserError(f"{known}; {name.lstrip('.')} files are the format {' or '.join(map(repr, meant[:1]))}")
