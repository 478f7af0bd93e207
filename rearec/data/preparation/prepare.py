"""From source files to a prepared dataset: read, filter, split, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation import filters, splits
from rearec.data.preparation.findings import describe_findings
from rearec.data.preparation.options import FORMATS, PrepareOptions
from rearec.data.preparation.presets import check_counts, choose_options
from rearec.data.preparation.row_filters import RowFilters, filter_rows
from rearec.data.preparation.split_choice import choose_split, is_split_already, thresholds
from rearec.data.preparation.splits import Sequences
from rearec.data.preparation.statistics import describe
from rearec.data.preparation.titles import read_titles, split_off_item_file
from rearec.data.readers import READERS, hold_histories
from rearec.data.readers.interactions import HistoryRows, Interactions
from rearec.data.readers.source_files import SourceFiles, find_files
from rearec.data.storage import OUTPUT, load_dataset, save_dataset
from rearec.data.words import SPLIT_NAMES
from rearec.errors import UserError
from rearec.fields import flag_of

__all__ = ["assemble", "prepare"]

# The columns of the files of items that belong to a format: item and title.
ITEM_COLUMNS = {"amazon2023": ("parent_asin", "title"), "yelp": ("business_id", "name")}
# Options that only some formats understand.
FORMATS_OF = {
    ("user_column", "item_column", "rating_column", "timestamp_column", "timestamps"): ("table", "recbole"),
    ("time_format",): ("table", "recbole", "amazon2023"),
    ("columns", "lists", "item_pattern"): ("table",),
    ("separator",): ("table", "recbole"),
    ("quoting", "escape"): ("table", "amazon2023"),
    ("where", "drop_incomplete"): ("table", "recbole", "amazon2023", "yelp"),
    ("encoding",): ("table", "recbole", "amazon2023", "sasrec", "lines"),
}


def prepare(
    format: str,
    sources: Sequence[str | Path],
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
    **changes: Any,
) -> SequenceDataset:
    """Read interactions, filter them as asked, split them and write a prepared dataset. Nothing is filtered unasked.

    Args:
        format: one of ``FORMATS``.
        sources: files, folders or patterns, read one after the other. Of "amazon2023" and "yelp" one of them may hold
            the items (meta and business json): it is ``titles`` then.
        out: the directory to write; written aside first and renamed at the end.
        options: see `PrepareOptions`.
        force: replace an existing prepared dataset.
        progress: called with a line on what is being done.
        changes: fields of `PrepareOptions` that differ from ``options``.

    Returns:
        The dataset, opened from ``out``. Its ``source["findings"]`` says what was found on the way: the split and why,
        what orders the events, the columns not used, what looks wrong.

    Raises:
        UnexpectedCounts: ``expect`` is given and the counts differ; nothing is written.
        UserError: a file, a value, an option or their combination is wrong; the message says which and where.

    Example:
        >>> import pathlib, tempfile
        >>> from rearec.data import prepare
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "clicks.csv").write_text("user,item,timestamp\\nann,a,1\\nann,b,2\\nann,c,3\\nann,d,4\\n")
        >>> dataset = prepare("table", [folder / "clicks.csv"], folder / "data")
        >>> dataset.num_items, dataset.source["findings"]["not used"]
        (4, 'none of the columns (used: user, item, timestamp)')
    """
    out = Path(out)
    say = progress or (lambda message: None)
    options = replace(options or PrepareOptions(), **_plain(changes))
    if format not in READERS:
        raise UserError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")
    options.check()
    _check_format(format, options)
    if not sources:
        raise UserError("no source file given")
    files = find_files(sources, format, options.separator is not None, keep_order=options.split == "given")
    if format in ITEM_COLUMNS:
        files, item_file = split_off_item_file(files, ITEM_COLUMNS[format][0])
        if item_file is not None and options.titles is not None:
            raise UserError(f"{item_file}: a second file of items beside --titles {options.titles}")
        if not files.paths:
            raise UserError(f"{item_file}: holds items, not interactions; give the reviews as well")
        options = options if item_file is None else replace(options, titles=str(item_file))
    asked = options.split is not None
    given = False
    if options.split is None and format != "yelp":
        given = is_split_already(files, _three_histories(format, files, options), options.carve_valid)
    options, split = choose_options(format, options, given)
    if options.expect and options.preset is None:
        raise UserError("--expect compares with the published counts of a preset's dataset: give --preset too")
    if options.missing_titles == "drop-null" and options.titles is None:
        raise UserError(
            f"the preset {options.preset!r} drops items without a title: give the meta file too, "
            "or --missing-titles keep to do without"
        )
    split, files, why = choose_split(split, asked, files, options)
    if format == "yelp" and split == "given":
        raise UserError("the split 'given' is not for the format 'yelp', whose reviews are not split yet")
    limits = thresholds(split, options.valid_from, options.test_from)
    OUTPUT.check(out, replace=force)

    say(f"reading {', '.join(path.name for path in files.paths)}")
    read = READERS[format](files, options)
    path = files.paths[0]
    if len(read) == 0:
        dropped = ", ".join(f"{count:,} rows {why}" for why, count in read.reading.dropped.items() if count)
        raise UserError(f"{path}: there are no interactions{f' left: dropped {dropped}' if dropped else ''}")
    say("filtering and splitting")
    source = _filter_source(read, options)
    if options.min_target_rating is not None:
        filters.checked_rating(source)
    sequences = _split(source, split, limits, options.carve_valid)
    _check_rows(sequences, f"{path}: the split {split!r}{_time_span(source)} leaves")

    title_of = None
    if options.titles is not None:
        say(f"reading {Path(options.titles).name}")
        item_column, title_column = ITEM_COLUMNS.get(format, (options.item_column, "title"))
        title_of = read_titles(
            Path(options.titles), item_column, options.title_column or title_column, options.title_layout
        )
    barred = _barred(source, title_of, options.missing_titles)
    row_filters = RowFilters(
        options.min_target_rating,
        options.min_train_history or 0,
        options.min_eval_history or 0,
        bool(options.known_items),
    )
    if row_filters.any or barred is not None:
        sequences = filter_rows(sequences, row_filters, barred)
        _check_rows(sequences, f"{path}: the filters on rows leave")

    titles = None if options.titles is None else Path(options.titles).name
    dataset = assemble(
        sequences,
        source.user_ids,
        source.item_ids,
        title_of=title_of,
        source={
            "format": format,
            "files": [path.name for path in files.paths],
            "findings": describe_findings(read, source, why),
            "notes": list(files.notes),
        },
        options=asdict(
            replace(
                options,
                split=split,
                user_core=options.user_core or options.core,
                item_core=options.item_core or options.core,
                titles=titles,
            )
        ),
    )
    if title_of is not None and options.missing_titles == "error":
        _check_titles(dataset, source, Path(options.titles or ""))
    if options.expect:
        check_counts(dataset.statistics, options.preset or "")
    say(f"writing {out}")
    save_dataset(dataset, out, force=force)
    return load_dataset(out)


def _plain(changes: dict[str, Any]) -> dict[str, Any]:
    """Values as the options hold them: paths as text, thresholds as text, several words as a tuple."""
    result = dict(changes)
    for name, value in changes.items():
        if isinstance(value, Path) or (name in ("valid_from", "test_from") and value is not None):
            result[name] = str(value)
        elif name in ("where", "missing"):
            result[name] = (value,) if isinstance(value, str) else tuple(value)
    return result


def _check_format(format: str, options: PrepareOptions) -> None:
    """UserError where an option is not for the format."""
    default = {entry.name: entry for entry in fields(PrepareOptions)}
    for names, formats in FORMATS_OF.items():
        for name in names:
            if format not in formats and getattr(options, name) != default[name].default:
                known = ", ".join(repr(known) for known in formats)
                raise UserError(f"{flag_of(default[name])} is for the formats {known}; {format!r} has its own way")


def _three_histories(format: str, files: SourceFiles, options: PrepareOptions) -> bool:
    return len(files.paths) == 3 and hold_histories(format, files, options)


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


def _filter_source(source: Interactions | HistoryRows, options: PrepareOptions) -> Interactions | HistoryRows:
    """What is left of the source after the filters on interactions."""
    path = source.place.files[0]
    user_core, item_core = options.user_core or options.core or 0, options.item_core or options.core or 0
    if isinstance(source, HistoryRows):
        if options.min_rating is not None or user_core or item_core:
            raise UserError(
                f"{path}: holds rows with a history, from which no interactions can be removed by --min-rating "
                "or --core; use --min-target-rating, or another --split"
            )
        return filters.same_rows(source, options.duplicates or "keep")
    if options.min_rating is not None:
        source = filters.minimum_rating(source, options.min_rating)
    source = filters.filter_duplicates(source, options.duplicates or "keep")
    source = filters.core(source, user_core, item_core)
    if len(source) == 0:
        raise UserError(f"{path}: the filters leave no interactions")
    return source


def _barred(
    source: Interactions | HistoryRows, title_of: dict[str, str] | None, missing_titles: str | None
) -> NDArray[np.bool_] | None:
    """bool [items], those that no row may involve for want of a title; None where there are none by choice."""
    if title_of is None or missing_titles not in ("drop", "drop-null"):
        return None
    if missing_titles == "drop":
        title_of = {token: title for token, title in title_of.items() if title}
    return np.asarray([token not in title_of for token in source.item_ids])


def _split(
    source: Interactions | HistoryRows, split: str, thresholds: tuple[str, str] | None, carve_valid: bool
) -> Sequences:
    if isinstance(source, HistoryRows):
        return splits.from_history_rows(splits.carve_valid_rows(source) if carve_valid else source)
    if split == "given":
        return splits.given(splits.carve_valid(source) if carve_valid else source)
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
