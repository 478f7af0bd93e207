"""From what was read to a dataset in memory: filter, split, filter the rows, assemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation import filters, splits
from rearec.data.preparation.assembly import assemble
from rearec.data.preparation.findings import describe_findings, describe_unused_users
from rearec.data.preparation.plan import Plan
from rearec.data.preparation.presets import check_counts
from rearec.data.preparation.removals import Removals, core_name, counts_of, largest_core, least
from rearec.data.preparation.row_filters import filter_rows
from rearec.data.preparation.splits import Sequences
from rearec.data.preparation.titles import read_titles
from rearec.data.readers.interactions import HistoryRows, Interactions
from rearec.data.readers.options import PrepareOptions
from rearec.data.words import SPLIT_NAMES
from rearec.errors import UserError

__all__ = ["Say", "build", "check_rows", "read_sources", "refuse_nothing"]

# Told what is being done, a line at a time.
Say = Callable[[str], None]


def read_sources(plan: Plan, say: Say) -> tuple[Interactions | HistoryRows, Mapping[str, str] | None]:
    """What the source files hold: the interactions, and the title of each item that has one, None without titles.

    Raises:
        UserError: they cannot be read, or hold no interactions.
    """
    say(f"reading {', '.join(path.name for path in plan.files.paths)}")
    read = plan.format.read(plan.files, plan.options)
    refuse_nothing(read, plan)
    options = plan.options
    if options.titles is None:
        return read, read.reading.titles
    path = Path(options.titles)
    say(f"reading {path.name}")
    item_column, title_column = plan.format.item_columns or (options.item_column, "title")
    return read, read_titles(path, item_column, options.title_column or title_column, options.title_layout)


def refuse_nothing(read: Interactions | HistoryRows, plan: Plan) -> None:
    """UserError where no interactions were read; says what was dropped."""
    if len(read) == 0:
        dropped = ", ".join(f"{count:,} rows {why}" for why, count in read.reading.dropped.items() if count)
        left = f" left: dropped {dropped}" if dropped else ""
        raise UserError(f"{plan.files.paths[0]}: there are no interactions{left}")


def build(
    plan: Plan, read: Interactions | HistoryRows, titles: Mapping[str, str] | None, say: Say = lambda message: None
) -> SequenceDataset:
    """The dataset, in memory, of what was read.

    Raises:
        UnexpectedCounts: ``expect`` is given and the counts differ.
        UserError: the filters or the split leave nothing, or need what was not read.
    """
    say("filtering and splitting")
    removals = Removals()
    source = _filter(read, plan.options, removals)
    sequences = _split(source, plan, removals)
    sequences = _filter_rows(sequences, source, titles, plan, removals)
    dataset = _assemble(sequences, source, titles, plan)
    dataset.source["findings"] = describe_findings(
        read, source, plan.why, str(removals), describe_unused_users(sequences, plan.split)
    )
    dataset.source["removed"] = removals.steps
    if plan.options.expect:
        check_counts(dataset.statistics, plan.options.preset or "")
    return dataset


def _filter(
    source: Interactions | HistoryRows, options: PrepareOptions, removals: Removals
) -> Interactions | HistoryRows:
    """What the filters on interactions leave."""
    path = source.place.files[0]
    counts: Mapping[str, int] = counts_of(source)
    user_core, item_core = options.user_core or options.core or 0, options.item_core or options.core or 0
    if isinstance(source, HistoryRows):
        if options.min_rating is not None or user_core or item_core:
            raise UserError(
                f"{path}: holds rows with a history, from which no interactions can be removed by --min-rating "
                "or --core; use --min-target-rating, or another --split"
            )
        left = filters.same_rows(source, options.duplicates or "keep")
        removals.note(f"--duplicates {options.duplicates}", counts, counts_of(left))
        return left
    if options.min_rating is not None:
        source = filters.minimum_rating(source, options.min_rating)
        counts = removals.note(f"--min-rating {least(options.min_rating)}", counts, counts_of(source))
    source = filters.filter_duplicates(source, options.duplicates or "keep")
    counts = removals.note(f"--duplicates {options.duplicates}", counts, counts_of(source))
    if user_core > 1 or item_core > 1:
        before, source = source, filters.core(source, user_core, item_core)
        removals.note(core_name(user_core, item_core), counts, counts_of(source))
        if len(before) and not len(source):
            largest = largest_core(before, user_core, item_core)
            raise UserError(
                f"{path}: the filters leave no interactions; removed: {removals}; "
                f"the largest core that leaves some is {largest}"
            )
    if len(source) == 0:
        raise UserError(f"{path}: the filters leave no interactions; removed: {removals}")
    return source


def _split(source: Interactions | HistoryRows, plan: Plan, removals: Removals) -> Sequences:
    """Which interactions are predictions of train, valid and test."""
    if plan.options.min_target_rating is not None:
        filters.checked_rating(source)
    sequences = _sequences(source, plan)
    longest = int(np.diff(sequences.offsets).max())
    needed = f"; users with 3 or more interactions have some, here no user has more than {longest}"
    hint = needed if plan.split == "leave-one-out" and longest < 3 else ""
    what = f"{plan.files.paths[0]}: the split {plan.split!r}{_time_span(source)} leaves"
    check_rows(sequences, what, hint, str(removals))
    return sequences


def _sequences(source: Interactions | HistoryRows, plan: Plan) -> Sequences:
    carves = plan.options.carve_valid
    if isinstance(source, HistoryRows):
        return splits.from_history_rows(splits.carve_valid_rows(source) if carves else source)
    if plan.split == "given":
        return splits.given(splits.carve_valid(source) if carves else source)
    if plan.limits is None:
        return splits.leave_one_out(source)
    return (splits.by_timestamp if plan.split == "timestamp" else splits.by_time_span)(source, *plan.limits)


def _filter_rows(
    sequences: Sequences,
    source: Interactions | HistoryRows,
    titles: Mapping[str, str] | None,
    plan: Plan,
    removals: Removals,
) -> Sequences:
    """What the filters on rows leave."""
    left = filter_rows(sequences, plan.options, _barred(source, titles, plan.options.missing_titles), removals.note)
    if left is not sequences:
        check_rows(left, f"{plan.files.paths[0]}: the filters on rows leave", removed=str(removals))
    return left


def _assemble(
    sequences: Sequences,
    source: Interactions | HistoryRows,
    titles: Mapping[str, str] | None,
    plan: Plan,
) -> SequenceDataset:
    """The dataset, with what is to be told of its origin."""
    options, files = plan.options, plan.files
    recorded = replace(
        options,
        split=plan.split,
        user_core=options.user_core or options.core,
        item_core=options.item_core or options.core,
        titles=None if options.titles is None else Path(options.titles).name,
    )
    dataset = assemble(
        sequences,
        source.user_ids,
        source.item_ids,
        title_of=titles,
        source={
            "format": plan.format_name if files.kind == "file" else files.kind,
            "files": [path.name for path in files.paths] if files.kind == "file" else [],
            "notes": list(files.notes),
        },
        options=asdict(recorded),
    )
    if titles is not None and options.missing_titles == "error":
        _check_titles(dataset, source, Path(options.titles or files.paths[0]))
    return dataset


def _barred(
    source: Interactions | HistoryRows, title_of: Mapping[str, str] | None, missing_titles: str | None
) -> NDArray[np.bool_] | None:
    """bool [items], those that no row may involve for want of a title; None where there are none by choice."""
    if title_of is None or missing_titles not in ("drop", "drop-null"):
        return None
    if missing_titles == "drop":
        title_of = {token: title for token, title in title_of.items() if title}
    return np.asarray([token not in title_of for token in source.item_ids])


def _time_span(source: Interactions | HistoryRows) -> str:
    if isinstance(source, HistoryRows) or source.times is None:
        return ""
    first, last = source.times.name(source.times.values.min()), source.times.name(source.times.values.max())
    return f" (timestamps from {first} to {last})"


def check_rows(sequences: Sequences, what: str, hint: str = "", removed: str = "") -> None:
    """UserError where train, valid or test have no rows.

    Args:
        what: the beginning of the message; hint: what follows it.
        removed: what the filters removed before.
    """
    counts = np.bincount(sequences.rows.part, minlength=len(SPLIT_NAMES))
    if counts.min() == 0:
        got = ", ".join(f"{name} {count}" for name, count in zip(SPLIT_NAMES, counts, strict=True))
        removed = removed and f"; removed: {removed}"
        raise UserError(f"{what} no {SPLIT_NAMES[int(counts.argmin())]} rows (rows: {got}){hint}{removed}")


def _check_titles(dataset: SequenceDataset, source: Interactions | HistoryRows, path: Path) -> None:
    assert dataset.item_titles is not None
    missing = [token for token, title in zip(dataset.item_ids, dataset.item_titles, strict=True) if title is None]
    if missing:
        place = source.place_of_item(source.item_ids.index(missing[0]))
        raise UserError(
            f"{path}: no title for item {missing[0]!r} ({place}; {len(missing)} of {dataset.num_items} items have "
            "none); --missing-titles keep or drop goes on without"
        )
