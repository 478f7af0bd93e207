"""From source files to a prepared dataset: read, filter, split, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SPLIT_NAMES, SequenceDataset
from rearec.data.interactions import HistoryRows, Interactions
from rearec.data.preparation import filters, splits
from rearec.data.preparation.choices import FORMATS, Duplicates, MissingTitles
from rearec.data.preparation.option_checks import check_at_least, check_finite, check_reading, choose_split, thresholds
from rearec.data.preparation.presets import check_counts, choose_options
from rearec.data.preparation.row_filters import RowFilters, filter_rows
from rearec.data.preparation.splits import Sequences
from rearec.data.preparation.statistics import describe
from rearec.data.preparation.titles import read_titles, split_off_item_file
from rearec.data.readers import READERS, ReadOptions
from rearec.data.storage import check_out, load_dataset, save_dataset
from rearec.errors import UserError

__all__ = ["assemble", "prepare"]

# The columns of the files of items that belong to a format: item and title.
ITEM_COLUMNS = {"amazon2023": ("parent_asin", "title"), "yelp": ("business_id", "name")}


def prepare(
    format: str,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    preset: str | None = None,
    expect: bool = False,
    split: str | None = None,
    valid_from: str | float | None = None,
    test_from: str | float | None = None,
    min_rating: float | None = None,
    duplicates: Duplicates | None = None,
    core: int | None = None,
    user_core: int | None = None,
    item_core: int | None = None,
    min_target_rating: float | None = None,
    min_train_history: int | None = None,
    min_eval_history: int | None = None,
    known_items: bool | None = None,
    titles: str | Path | None = None,
    title_column: str | None = None,
    missing_titles: MissingTitles | None = None,
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | None = None,
    timestamp_column: str | None = None,
    separator: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> SequenceDataset:
    """Read interactions, filter them as asked, split them and write a prepared dataset. Nothing is filtered unasked.

    An option that is None is that of the preset, without one its plain default (``rearec.data.preparation.presets``).

    The order: ``min_rating``, ``duplicates``, core, split, then the filters on rows (``missing_titles="drop"``,
    ``min_target_rating``, the history lengths, ``known_items``). A filter on rows drops predictions, not interactions:
    histories keep all their items. Ties in time keep the order of the source.

    Args:
        format: one of ``FORMATS``.
        sources: the files, read one after the other; for a given split train, valid and test, in this order. Of
            "amazon2023" and "yelp" one of them may hold the items (meta and business json): it is ``titles`` then.
        out: the directory to write; written aside first and renamed at the end.
        preset: one of ``PRESETS``, a dataset of the paper: its filters and, where the source is not split yet, its
            split. The only one of "yelp" holds without being named.
        expect: compare the counts with those that were published of the preset's dataset.
        split: one of ``SPLITS``; None: "given" for three sources, "leave-one-out" otherwise.
        valid_from, test_from: thresholds of the split "timestamp": rows from then on are valid, test; or of the split
            "time-span": rows after these shares of the time from the first to the last interaction are.
        min_rating: drop interactions with a lower rating.
        duplicates: repeated (user, item) pairs: "keep" all, only the "first" in time, or "error".
        core: drop users and items with fewer interactions, iterated until none is left; ``user_core`` and
            ``item_core`` say it for users and items alone.
        min_target_rating: drop rows whose target has a lower rating.
        min_train_history, min_eval_history: drop rows with a shorter history, in train and in valid and test.
        known_items: drop valid and test rows with a target or history item that occurs in no train row.
        titles: a file with item titles, see ``rearec.data.preparation.titles.read_titles``.
        title_column: its column or field with the title; "title" unless given, or "name" for "yelp".
        missing_titles: for an item without a title: "error", "keep" it without one, or "drop" rows that involve it;
            "drop-null" keeps items whose title is there and blank.
        user_column, item_column, rating_column, timestamp_column: names of the columns ("table", "recbole").
        separator: between the fields of a text table ("table").
        force: replace an existing prepared dataset.
        progress: called with a line on what is being done.

    Returns:
        The dataset, opened from ``out``.

    Raises:
        UnexpectedCounts: ``expect`` is given and the counts differ; nothing is written.
        UserError: a file, a value, an option or their combination is wrong; the message says which and where.
    """
    out = Path(out)
    paths = [Path(source) for source in sources]
    say = progress or (lambda message: None)
    if format not in READERS:
        raise UserError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")
    if not paths:
        raise UserError("no source file given")
    if format in ITEM_COLUMNS:
        paths, item_file = split_off_item_file(paths, ITEM_COLUMNS[format][0])
        if item_file is not None and titles is not None:
            raise UserError(f"{item_file}: a second file of items beside --titles {titles}")
        titles = titles or item_file
        if not paths:
            raise UserError(f"{item_file}: holds items, not interactions; give the reviews as well")
    preset, split, chosen = choose_options(
        format,
        preset,
        split,
        len(paths) == 3 and format != "yelp",
        {
            "valid_from": valid_from,
            "test_from": test_from,
            "min_rating": min_rating,
            "duplicates": duplicates,
            "core": core,
            "min_target_rating": min_target_rating,
            "min_train_history": min_train_history,
            "min_eval_history": min_eval_history,
            "known_items": known_items,
            "missing_titles": missing_titles,
        },
    )
    if expect and preset is None:
        raise UserError("--expect compares with the published counts of a preset's dataset: give --preset too")
    if chosen["missing_titles"] == "drop-null" and titles is None:
        raise UserError(
            f"the preset {preset!r} drops items without a title: give the meta file too, "
            "or --missing-titles keep to do without"
        )
    split = choose_split(split, paths)
    limits = thresholds(split, chosen["valid_from"], chosen["test_from"])
    check_at_least(1, core=chosen["core"], user_core=user_core, item_core=item_core)
    check_at_least(0, **{name: chosen[name] for name in ("min_train_history", "min_eval_history")})
    check_finite(**{name: chosen[name] for name in ("min_rating", "min_target_rating")})
    options = ReadOptions(split == "given", user_column, item_column, rating_column, timestamp_column, separator)
    check_reading(format, options)
    check_out(out, force)

    say(f"reading {', '.join(path.name for path in paths)}")
    source = READERS[format](paths, options)
    if len(source) == 0:
        raise UserError(f"{paths[0]}: there are no interactions")
    say("filtering and splitting")
    source = _filter_source(source, chosen, user_core, item_core)
    if chosen["min_target_rating"] is not None:
        filters.checked_rating(source)
    sequences = _split(source, split, limits)
    _check_rows(sequences, f"{paths[0]}: the split {split!r}{_time_span(source)} leaves")

    title_of = None
    if titles is not None:
        say(f"reading {Path(titles).name}")
        item_column, default_column = ITEM_COLUMNS.get(format, (options.item, "title"))
        title_of = read_titles(Path(titles), item_column, title_column or default_column)
    barred = _barred(source, title_of, chosen["missing_titles"])
    row_filters = RowFilters(
        chosen["min_target_rating"], chosen["min_train_history"], chosen["min_eval_history"], chosen["known_items"]
    )
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
            **chosen,
            "preset": preset,
            "split": split,
            "user_core": user_core or chosen["core"],
            "item_core": item_core or chosen["core"],
            "titles": None if titles is None else Path(titles).name,
        },
    )
    if title_of is not None and chosen["missing_titles"] == "error":
        _check_titles(dataset, source, Path(titles or ""))
    if expect:
        check_counts(dataset.statistics, preset or "")
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
        item_titles=None if title_of is None else [title_of.get(token) or None for token in kept_items],
    )
    dataset.statistics.update(describe(dataset))
    return dataset


def _compact(codes: NDArray[np.int32], count: int) -> tuple[list[int], NDArray[np.int32]]:
    """The codes that occur, ascending, and ``codes`` as indices into them."""
    occurs = np.bincount(codes, minlength=count) > 0
    return np.flatnonzero(occurs).tolist(), (np.cumsum(occurs) - 1)[codes].astype(np.int32)


def _filter_source(
    source: Interactions | HistoryRows, chosen: dict[str, Any], user_core: int | None, item_core: int | None
) -> Interactions | HistoryRows:
    """What is left of the source after the filters on interactions."""
    path = source.place.files[0]
    user_core, item_core = user_core or chosen["core"] or 0, item_core or chosen["core"] or 0
    if isinstance(source, HistoryRows):
        if chosen["min_rating"] is not None or user_core or item_core:
            raise UserError(
                f"{path}: holds rows with a history, from which no interactions can be removed by --min-rating "
                "or --core; use --min-target-rating, or another --split"
            )
        return filters.same_rows(source, chosen["duplicates"])
    if chosen["min_rating"] is not None:
        source = filters.minimum_rating(source, chosen["min_rating"])
    source = filters.filter_duplicates(source, chosen["duplicates"])
    source = filters.core(source, user_core, item_core)
    if len(source) == 0:
        raise UserError(f"{path}: the filters leave no interactions")
    return source


def _barred(
    source: Interactions | HistoryRows, title_of: dict[str, str] | None, missing_titles: MissingTitles
) -> NDArray[np.bool_] | None:
    """bool [items], those that no row may involve for want of a title; None where there are none by choice."""
    if title_of is None or missing_titles not in ("drop", "drop-null"):
        return None
    if missing_titles == "drop":
        title_of = {token: title for token, title in title_of.items() if title}
    return np.asarray([token not in title_of for token in source.item_ids])


def _split(source: Interactions | HistoryRows, split: str, thresholds: tuple[str, str] | None) -> Sequences:
    if isinstance(source, HistoryRows):
        return splits.from_history_rows(source)
    if split == "given":
        return splits.given(source)
    if split == "timestamp":
        assert thresholds is not None
        return splits.by_timestamp(source, *thresholds)
    if split == "time-span":
        assert thresholds is not None
        return splits.by_time_span(source, *thresholds)
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


def _check_titles(dataset: SequenceDataset, source: Interactions | HistoryRows, path: Path) -> None:
    assert dataset.item_titles is not None
    missing = [token for token, title in zip(dataset.item_ids, dataset.item_titles, strict=True) if title is None]
    if missing:
        place = source.place_of_item(source.item_ids.index(missing[0]))
        raise UserError(
            f"{path}: no title for item {missing[0]!r} ({place}; {len(missing)} of {dataset.num_items} items have "
            "none); --missing-titles keep or drop goes on without"
        )
