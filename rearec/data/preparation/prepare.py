"""From source files to a prepared dataset in five steps: read, filter, split, filter the rows, assemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation import filters, splits
from rearec.data.preparation.assembly import assemble
from rearec.data.preparation.findings import describe_findings
from rearec.data.preparation.plan import Plan, make_plan
from rearec.data.preparation.presets import check_counts
from rearec.data.preparation.row_filters import filter_rows
from rearec.data.preparation.splits import Sequences
from rearec.data.preparation.titles import read_titles
from rearec.data.readers.interactions import HistoryRows, Interactions
from rearec.data.readers.options import PrepareOptions
from rearec.data.storage import OUTPUT, load_dataset, save_dataset
from rearec.data.words import SPLIT_NAMES
from rearec.errors import UserError

__all__ = ["prepare"]


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

    Examples:
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
    plan = make_plan(format, sources, replace(options or PrepareOptions(), **_plain(changes)))
    OUTPUT.check(out, replace=force)

    say(f"reading {', '.join(path.name for path in plan.files.paths)}")
    read = _read(plan)
    say("filtering and splitting")
    source = _filter(read, plan.options)
    sequences = _split(source, plan)
    titles = _read_titles(plan, say)
    sequences = _filter_rows(sequences, source, titles, plan)
    dataset = _assemble(sequences, source, titles, describe_findings(read, source, plan.why), plan)
    if plan.options.expect:
        check_counts(dataset.statistics, plan.options.preset or "")
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


def _read(plan: Plan) -> Interactions | HistoryRows:
    """The interactions; UserError where there are none."""
    read = plan.format.read(plan.files, plan.options)
    if len(read) == 0:
        dropped = ", ".join(f"{count:,} rows {why}" for why, count in read.reading.dropped.items() if count)
        left = f" left: dropped {dropped}" if dropped else ""
        raise UserError(f"{plan.files.paths[0]}: there are no interactions{left}")
    return read


def _filter(source: Interactions | HistoryRows, options: PrepareOptions) -> Interactions | HistoryRows:
    """What the filters on interactions leave."""
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


def _split(source: Interactions | HistoryRows, plan: Plan) -> Sequences:
    """Which interactions are predictions of train, valid and test."""
    if plan.options.min_target_rating is not None:
        filters.checked_rating(source)
    sequences = _sequences(source, plan)
    _check_rows(sequences, f"{plan.files.paths[0]}: the split {plan.split!r}{_time_span(source)} leaves")
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


def _read_titles(plan: Plan, say: Callable[[str], None]) -> dict[str, str] | None:
    """The title of each item that has one; None without a file of titles."""
    options = plan.options
    if options.titles is None:
        return None
    path = Path(options.titles)
    say(f"reading {path.name}")
    item_column, title_column = plan.format.item_columns or (options.item_column, "title")
    return read_titles(path, item_column, options.title_column or title_column, options.title_layout)


def _filter_rows(
    sequences: Sequences, source: Interactions | HistoryRows, titles: dict[str, str] | None, plan: Plan
) -> Sequences:
    """What the filters on rows leave."""
    left = filter_rows(sequences, plan.options, _barred(source, titles, plan.options.missing_titles))
    if left is not sequences:
        _check_rows(left, f"{plan.files.paths[0]}: the filters on rows leave")
    return left


def _assemble(
    sequences: Sequences,
    source: Interactions | HistoryRows,
    titles: dict[str, str] | None,
    findings: dict[str, str],
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
            "format": plan.format_name,
            "files": [path.name for path in files.paths],
            "findings": findings,
            "notes": list(files.notes),
        },
        options=asdict(recorded),
    )
    if titles is not None and options.missing_titles == "error":
        _check_titles(dataset, source, Path(options.titles or ""))
    return dataset


def _barred(
    source: Interactions | HistoryRows, title_of: dict[str, str] | None, missing_titles: str | None
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
