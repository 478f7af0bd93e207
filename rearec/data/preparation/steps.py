"""From what was read to a dataset in memory: filter, split, filter the rows, assemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation import filters
from rearec.data.preparation.assembly import Assembly
from rearec.data.preparation.blockwise import Tally, check_rows, split_blocks
from rearec.data.preparation.findings import describe_findings
from rearec.data.preparation.order import kept_of, sort_by_user
from rearec.data.preparation.plan import Plan
from rearec.data.preparation.presets import check_counts
from rearec.data.preparation.removals import Removals, core_name, counts_of, largest_core, least
from rearec.data.preparation.row_filters import RowFilter
from rearec.data.preparation.titles import read_titles
from rearec.data.readers.interactions import HistoryRows, Interactions
from rearec.data.readers.options import PrepareOptions
from rearec.data.readers.source_files import NAMED
from rearec.data.tables.arrays import Scratch
from rearec.errors import UserError, some_of

__all__ = ["Say", "build", "read_sources", "refuse_nothing"]

# Told what is being done, a line at a time.
Say = Callable[[str], None]


def read_sources(
    plan: Plan, say: Say, scratch: Scratch | None = None
) -> tuple[Interactions | HistoryRows, Mapping[str, str] | None]:
    """What the source files hold: the interactions, and the title of each item that has one, None without titles.

    scratch: where the interactions are put; None: memory.

    Raises:
        UserError: they cannot be read, or hold no interactions.
    """
    say(f"reading {some_of([path.name for path in plan.files.paths], NAMED)}")
    read = plan.format.read(plan.files, plan.options, scratch or Scratch())
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
    plan: Plan,
    read: Interactions | HistoryRows,
    titles: Mapping[str, str] | None,
    say: Say = lambda message: None,
    scratch: Scratch | None = None,
) -> SequenceDataset:
    """The dataset of what was read.

    scratch: where its arrays are, and those on the way to it; None: memory.

    Raises:
        UnexpectedCounts: ``expect`` is given and the counts differ.
        UserError: the filters or the split leave nothing, or need what was not read.
    """
    say("filtering and splitting")
    scratch = scratch or Scratch()
    removals = Removals()
    source = _filter(read, plan.options, removals, scratch)
    split = split_blocks(source, plan, scratch.block_rows)
    row_filter = RowFilter(plan.options, _barred(source, titles, plan.options.missing_titles), len(source.item_ids))
    if row_filter.looks_first:
        for sequences in split():
            row_filter.look(sequences)
    as_split, filtered, assembly = Tally(), Tally(), Assembly(len(source.item_ids), scratch)
    for sequences in split():
        as_split.add(sequences)
        left = row_filter(sequences)
        filtered.add(left)
        assembly.add(left)
    _check_split(as_split, source, plan, str(removals))
    row_filter.report(removals.note)
    check_rows(filtered, f"{plan.files.paths[0]}: the filters on rows leave", removed=str(removals))
    dataset = _assemble(assembly, source, titles, plan)
    dataset.source["findings"] = describe_findings(
        read, source, plan.why, str(removals), filtered.unused_users(plan.split), scratch.block_rows
    )
    dataset.source["removed"] = removals.steps
    if plan.options.expect:
        check_counts(dataset.statistics, plan.options.preset or "")
    return dataset


def _filter(
    source: Interactions | HistoryRows, options: PrepareOptions, removals: Removals, scratch: Scratch
) -> Interactions | HistoryRows:
    """What the filters on interactions leave, by user, then time."""
    path = source.place.files[0]
    counts: Mapping[str, int] = counts_of(source)
    user_core, item_core = options.user_core or options.core or 0, options.item_core or options.core or 0
    if options.min_rating is not None and isinstance(source, Interactions):
        filters.check_rating(source)
    if isinstance(source, HistoryRows):
        if options.min_rating is not None or user_core or item_core:
            raise UserError(
                f"{path}: holds rows with a history, from which no interactions can be removed by --min-rating "
                "or --core; use --min-target-rating, or another --split"
            )
        left = filters.same_rows(source, options.duplicates or "keep")
        removals.note(f"--duplicates {options.duplicates}", counts, counts_of(left))
        if options.min_target_rating is not None:
            filters.check_rating(left)
        return left
    source = sort_by_user(source, scratch)

    def each(every: Interactions, kept: Callable[[Interactions], NDArray[np.bool_]]) -> Interactions:
        return kept_of(every, lambda part: kept(every.part_of(part)), scratch)

    if options.min_rating is not None:
        threshold = options.min_rating
        source = each(source, lambda some: filters.minimum_rating(some, threshold))
        counts = removals.note(f"--min-rating {least(threshold)}", counts, counts_of(source))
    if options.duplicates == "error":
        filters.refuse_duplicates(source, scratch.block_rows)
    elif options.duplicates == "first":
        source = each(source, filters.first_occurrences)
        counts = removals.note(f"--duplicates {options.duplicates}", counts, counts_of(source))
    if (user_core > 1 or item_core > 1) and len(source):
        kept, left_over = filters.core(source, user_core, item_core, scratch)
        if not left_over:
            nothing = dict.fromkeys(counts, 0)
            removals.note(core_name(user_core, item_core), counts, nothing)
            largest = largest_core(source, user_core, item_core, scratch)
            raise UserError(
                f"{path}: the filters leave no interactions; removed: {removals}; "
                f"the largest core that leaves some is {largest}"
            )
        if left_over < len(source):
            source = kept_of(source, lambda part: kept[part], scratch)
        removals.note(core_name(user_core, item_core), counts, counts_of(source))
    if len(source) == 0:
        raise UserError(f"{path}: the filters leave no interactions; removed: {removals}")
    if options.min_target_rating is not None:
        filters.check_rating(source)
    return source


def _check_split(tally: Tally, source: Interactions | HistoryRows, plan: Plan, removed: str) -> None:
    """UserError where the split leaves train, valid or test without rows."""
    needed = f"; users with 3 or more interactions have some, here no user has more than {tally.longest}"
    hint = needed if plan.split == "leave-one-out" and tally.longest < 3 else ""
    what = f"{plan.files.paths[0]}: the split {plan.split!r}{_time_span(source)} leaves"
    check_rows(tally, what, hint, removed)


def _assemble(
    assembly: Assembly,
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
        memory_limit=None,
        tmp=None,
    )
    dataset = assembly.dataset(
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
    first, last = map(source.times.name, source.times.span())
    return f" (timestamps from {first} to {last})"


def _check_titles(dataset: SequenceDataset, source: Interactions | HistoryRows, path: Path) -> None:
    assert dataset.item_titles is not None
    missing = [token for token, title in zip(dataset.item_ids, dataset.item_titles, strict=True) if title is None]
    if missing:
        place = source.place_of_item(source.item_ids.index(missing[0]))
        raise UserError(
            f"{path}: no title for item {missing[0]!r} ({place}; {len(missing)} of {dataset.num_items} items have "
            "none); --missing-titles keep or drop goes on without"
        )
