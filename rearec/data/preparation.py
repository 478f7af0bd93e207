"""From source files to a prepared dataset: read, filter, split, write."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data import filters, splits
from rearec.data.choices import FORMATS, SPLITS, Duplicates, MissingTitles
from rearec.data.dataset import SPLIT_NAMES, SequenceDataset
from rearec.data.interactions import HistoryRows, Interactions
from rearec.data.readers import READERS, ReadOptions
from rearec.data.row_filters import RowFilters, filter_rows
from rearec.data.splits import Sequences
from rearec.data.statistics import describe
from rearec.data.storage import check_out, load_dataset, save_dataset
from rearec.data.titles import read_titles
from rearec.errors import UserError

__all__ = ["assemble", "prepare"]

PART_IN_NAME = re.compile(r"(?:^|[._-])(train|valid|val|dev|test)(?:[._-]|$)")
PARTS = {"train": 0, "valid": 1, "val": 1, "dev": 1, "test": 2}


def prepare(
    format: str,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    split: str | None = None,
    valid_from: str | float | None = None,
    test_from: str | float | None = None,
    min_rating: float | None = None,
    duplicates: Duplicates = "keep",
    core: int | None = None,
    user_core: int | None = None,
    item_core: int | None = None,
    min_target_rating: float | None = None,
    min_train_history: int = 0,
    min_eval_history: int = 0,
    known_items: bool = False,
    titles: str | Path | None = None,
    title_column: str = "title",
    missing_titles: MissingTitles = "error",
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | None = None,
    timestamp_column: str | None = None,
    separator: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> SequenceDataset:
    """Read interactions, filter them as asked, split them and write a prepared dataset. Nothing is filtered unasked.

    The order: ``min_rating``, ``duplicates``, core, split, then the filters on rows (``missing_titles="drop"``,
    ``min_target_rating``, the history lengths, ``known_items``). A filter on rows drops predictions, not interactions:
    histories keep all their items. Ties in time keep the order of the source.

    Args:
        format: one of ``FORMATS``.
        sources: the files, read one after the other; for a given split train, valid and test, in this order.
        out: the directory to write; written aside first and renamed at the end.
        split: one of ``SPLITS``; None: "given" for three sources, "leave-one-out" otherwise.
        valid_from, test_from: thresholds of the split "timestamp": rows from then on are valid, test.
        min_rating: drop interactions with a lower rating.
        duplicates: repeated (user, item) pairs: "keep" all, only the "first" in time, or "error".
        core: drop users and items with fewer interactions, iterated until none is left; ``user_core`` and
            ``item_core`` say it for users and items alone.
        min_target_rating: drop rows whose target has a lower rating.
        min_train_history, min_eval_history: drop rows with a shorter history, in train and in valid and test.
        known_items: drop valid and test rows with a target or history item that occurs in no train row.
        titles: a file with item titles, see ``rearec.data.titles.read_titles``.
        title_column: its column or field with the title.
        missing_titles: for an item without a title: "error", "keep" it without one, or "drop" rows that involve it.
        user_column, item_column, rating_column, timestamp_column: names of the columns ("table", "recbole").
        separator: between the fields of a text table ("table").
        force: replace an existing prepared dataset.
        progress: called with a line on what is being done.

    Returns:
        The dataset, opened from ``out``.

    Raises:
        UserError: a file, a value, an option or their combination is wrong; the message says which and where.
    """
    out = Path(out)
    paths = [Path(source) for source in sources]
    say = progress or (lambda message: None)
    if format not in READERS:
        raise UserError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")
    if not paths:
        raise UserError("no source file given")
    split = _choose_split(split, paths)
    thresholds = _thresholds(split, valid_from, test_from)
    _check_counts(1, core=core, user_core=user_core, item_core=item_core)
    _check_counts(0, min_train_history=min_train_history, min_eval_history=min_eval_history)
    for name, value in (("--min-rating", min_rating), ("--min-target-rating", min_target_rating)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"{name} must be a finite number, got {value}")
    options = ReadOptions(split == "given", user_column, item_column, rating_column, timestamp_column, separator)
    _check_reading(format, options)
    check_out(out, force)

    say(f"reading {', '.join(path.name for path in paths)}")
    source = READERS[format](paths, options)
    if len(source) == 0:
        raise UserError(f"{paths[0]}: there are no interactions")
    say("filtering and splitting")
    if isinstance(source, HistoryRows):
        if min_rating is not None or (core or user_core or item_core):
            raise UserError(
                f"{paths[0]}: holds rows with a history, from which no interactions can be removed by --min-rating "
                "or --core; use --min-target-rating, or another --split"
            )
        source = filters.same_rows(source, duplicates)
    else:
        if min_rating is not None:
            source = filters.minimum_rating(source, min_rating)
        source = filters.filter_duplicates(source, duplicates)
        source = filters.core(source, user_core or core or 0, item_core or core or 0)
        if len(source) == 0:
            raise UserError(f"{paths[0]}: the filters leave no interactions")
    if min_target_rating is not None:
        filters.checked_rating(source)
    sequences = _split(source, split, thresholds)
    _check_rows(sequences, f"{paths[0]}: the split {split!r}{_time_span(source)} leaves")

    title_of = None if titles is None else _read_titles(Path(titles), format, options, title_column, say)
    barred = None
    if title_of is not None and missing_titles == "drop":
        barred = np.asarray([token not in title_of for token in source.item_ids])
    row_filters = RowFilters(min_target_rating, min_train_history, min_eval_history, known_items)
    if row_filters.any or barred is not None:
        sequences = filter_rows(sequences, row_filters, barred)
        _check_rows(sequences, f"{paths[0]}: the filters on rows leave")

    dataset = assemble(
        sequences,
        source.user_ids,
        source.item_ids,
        title_of=title_of,
        source={"format": format, "files": [path.name for path in paths]},
        options={
            **asdict(options),
            "split": split,
            "valid_from": valid_from,
            "test_from": test_from,
            "min_rating": min_rating,
            "duplicates": duplicates,
            "user_core": user_core or core,
            "item_core": item_core or core,
            "min_target_rating": min_target_rating,
            "min_train_history": min_train_history,
            "min_eval_history": min_eval_history,
            "known_items": known_items,
            "titles": None if titles is None else Path(titles).name,
            "missing_titles": missing_titles,
        },
    )
    if title_of is not None and missing_titles == "error":
        _check_titles(dataset, source, Path(titles or ""))
    say(f"writing {out}")
    save_dataset(dataset, out, force=force)
    return load_dataset(out)


def assemble(
    sequences: Sequences,
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    *,
    title_of: dict[str, str] | None = None,
    source: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
) -> SequenceDataset:
    """A dataset in memory: users and items that occur in no sequence are left out, the order of the others stays."""
    used_items, items = _compact(sequences.items, len(item_ids))
    used_users, users = _compact(sequences.user, len(user_ids))
    rows = sequences.rows
    pairs = np.stack((rows.sequence, rows.position), axis=1).astype(np.int32)
    kept_items = [item_ids[index] for index in used_items]
    dataset = SequenceDataset(
        items=items,
        offsets=sequences.offsets.astype(np.int64),
        sequence_user=users,
        split_rows={name: pairs[rows.part == part] for part, name in enumerate(SPLIT_NAMES)},
        item_ids=kept_items,
        user_ids=[user_ids[index] for index in used_users],
        statistics={},
        source=source or {},
        options=options or {},
        item_titles=None if title_of is None else [title_of.get(token) for token in kept_items],
    )
    dataset.statistics.update(describe(dataset))
    return dataset


def _compact(codes: NDArray[np.int32], count: int) -> tuple[list[int], NDArray[np.int32]]:
    """The codes that occur, ascending, and ``codes`` as indices into them."""
    occurs = np.bincount(codes, minlength=count) > 0
    return np.flatnonzero(occurs).tolist(), (np.cumsum(occurs) - 1)[codes].astype(np.int32)


def _choose_split(split: str | None, paths: list[Path]) -> str:
    if split is None:
        split = "given" if len(paths) == 3 else "leave-one-out"
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; known are {', '.join(SPLITS)}")
    if split == "given":
        if len(paths) != 3:
            raise UserError(f"the split 'given' needs three files (train, valid, test), got {len(paths)}")
        resolved = [path.resolve() for path in paths]
        for index, path in enumerate(paths):
            if resolved[index] in resolved[:index]:
                raise UserError(f"{path}: given twice; train, valid and test must be different files")
        for index, path in enumerate(paths):
            named = {PARTS[name] for name in PART_IN_NAME.findall(path.name.lower())}
            if named and index not in named:
                expected = SPLIT_NAMES[index]
                raise UserError(f"{path}: stands in the place of the {expected} file; the order is train, valid, test")
    return split


def _thresholds(split: str, valid_from: str | float | None, test_from: str | float | None) -> tuple[str, str] | None:
    if split != "timestamp":
        if valid_from is not None or test_from is not None:
            raise UserError(f"--valid-from and --test-from are for the split 'timestamp', not {split!r}")
        return None
    if valid_from is None or test_from is None:
        raise UserError("the split 'timestamp' needs --valid-from and --test-from")
    return str(valid_from), str(test_from)


def _check_counts(fewest: int, **counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and value < fewest:
            raise UserError(f"--{name.replace('_', '-')} must be at least {fewest}, got {value}")


def _check_reading(format: str, options: ReadOptions) -> None:
    columns = (options.user_column, options.item_column, options.rating_column, options.timestamp_column)
    if any(columns) and format not in ("table", "recbole"):
        raise UserError(f"column names are for the formats 'table' and 'recbole'; {format!r} has its own")
    if options.separator is not None and format != "table":
        raise UserError(f"a separator is for the format 'table'; {format!r} has its own")
    if options.separator is not None and len(options.separator.encode()) != 1:
        raise UserError(f"the separator must be one ASCII character, got {options.separator!r}")


def _split(source: Interactions | HistoryRows, split: str, thresholds: tuple[str, str] | None) -> Sequences:
    if isinstance(source, HistoryRows):
        return splits.from_history_rows(source)
    if split == "given":
        return splits.given(source)
    if split == "timestamp":
        assert thresholds is not None
        return splits.by_timestamp(source, *thresholds)
    return splits.leave_one_out(source)


def _time_span(source: Interactions | HistoryRows) -> str:
    if isinstance(source, HistoryRows) or source.times is None:
        return ""
    first, last = source.times.name(source.times.values.min()), source.times.name(source.times.values.max())
    return f" (timestamps from {first} to {last})"


def _check_rows(sequences: Sequences, what: str) -> None:
    counts = np.bincount(sequences.rows.part, minlength=len(SPLIT_NAMES))
    if counts.min() == 0:
        got = ", ".join(f"{name} {count}" for name, count in zip(SPLIT_NAMES, counts, strict=True))
        raise UserError(f"{what} no {SPLIT_NAMES[int(counts.argmin())]} rows (rows: {got})")


def _read_titles(
    path: Path, format: str, options: ReadOptions, title_column: str, say: Callable[[str], None]
) -> dict[str, str]:
    say(f"reading {path.name}")
    return read_titles(path, "parent_asin" if format == "amazon2023" else options.item, title_column)


def _check_titles(dataset: SequenceDataset, source: Interactions | HistoryRows, path: Path) -> None:
    assert dataset.item_titles is not None
    missing = [token for token, title in zip(dataset.item_ids, dataset.item_titles, strict=True) if title is None]
    if missing:
        place = source.place_of_item(source.item_ids.index(missing[0]))
        raise UserError(
            f"{path}: no title for item {missing[0]!r} ({place}; {len(missing)} of {dataset.num_items} items have "
            "none); --missing-titles keep or drop goes on without"
        )
