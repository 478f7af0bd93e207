"""Another split of a dataset: of the interactions that are kept in memory, or of the sequences that are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation.assembly import assemble
from rearec.data.preparation.blockwise import Tally, check_rows
from rearec.data.preparation.plan import Plan, decide
from rearec.data.preparation.prepare import plain_options
from rearec.data.preparation.splits import leave_one_out
from rearec.data.readers.interactions import HistoryRows, Interactions, Place
from rearec.data.readers.options import SPLITS, Split
from rearec.errors import UserError

__all__ = ["Origin", "split_again", "split_stored"]

# The options that act on what was read; all others say how it is read.
CHANGEABLE = (
    *("valid_from", "test_from", "min_rating", "duplicates", "core", "user_core", "item_core"),
    *("min_target_rating", "min_train_history", "min_eval_history", "known_items", "missing_titles"),
)
# Those after which the stored sequences lack what no row refers to.
CUTTING = ("min_target_rating", "min_train_history", "min_eval_history", "known_items")


@dataclass(frozen=True)
class Origin:
    """What a dataset was made of, as it was read, with nothing filtered.

    Attributes:
        plan: how it was made.
        read: the interactions.
        titles: the title of each item that has one; None without titles.
    """

    plan: Plan
    read: Interactions | HistoryRows
    titles: Mapping[str, str] | None = field(repr=False)


def split_again(origin: Origin, split: Split, changes: Mapping[str, Any]) -> Plan:
    """How the same interactions are split otherwise; the filters stay as they were, but for ``changes``.

    Raises:
        UserError: there is no such split, it needs what there is not, or an option is about reading.
    """
    plan = origin.plan
    _check_split(split)
    for name in changes:
        if name not in CHANGEABLE:
            raise UserError(f"{name}: not an option of a split; these are {', '.join(CHANGEABLE)}")
    if isinstance(origin.read, HistoryRows) and split != "given":
        raise UserError(f"the split {split!r} is not for rows that come with a history: theirs is 'given'")
    if split == "given" and plan.split != "given":
        raise UserError("the split 'given' is for files split already, see Dataset.from_files")
    options = replace(plan.options, expect=False, split=split, valid_from=None, test_from=None)
    if split != "given":
        options = replace(options, carve_valid=False)
    if "core" in changes:
        options = replace(options, user_core=None, item_core=None)
    options = replace(options, **plain_options(dict(changes)))
    if split != "given":
        return decide(plan.format_name, plan.files, options)
    return replace(plan, options=options)


def split_stored(dataset: SequenceDataset, split: Split, changes: Mapping[str, Any]) -> SequenceDataset:
    """A stored dataset split by leave-one-out; its sequences are in time order, without their times.

    Raises:
        UserError: it is another split, or the sequences are not all that there was.
    """
    _check_split(split)
    if split != "leave-one-out":
        raise UserError(f"the split {split!r} needs the times, which a stored dataset does not hold: prepare it again")
    if changes:
        raise UserError(f"{next(iter(changes))}: a stored dataset is filtered already: prepare it again")
    dropped = [name for name in CUTTING if dataset.options.get(name)]
    if str(dataset.options.get("missing_titles")).startswith("drop"):
        dropped.append("missing_titles")
    if dropped:
        raise UserError(f"{', '.join(dropped)} cut off what no row referred to when it was prepared: prepare it again")
    if not dataset.first_of_user.all():
        raise UserError("some rows have a history of their own, which no split but 'given' has: prepare it again")
    user = np.repeat(np.asarray(dataset.sequence_user), np.diff(dataset.offsets))
    place = Place([Path("the dataset")], np.zeros(len(user), dtype=np.int32), np.arange(len(user)))
    items = np.asarray(dataset.items)
    sequences = leave_one_out(Interactions(user, items, dataset.user_ids, dataset.item_ids, place))
    tally = Tally()
    tally.add(sequences)
    check_rows(tally, "the dataset: the split 'leave-one-out' leaves")
    why = "leave-one-out, made again of the stored sequences"
    titles = None
    if dataset.item_titles is not None:
        titled = zip(dataset.item_ids, dataset.item_titles, strict=True)
        titles = {item: title for item, title in titled if title is not None}
    again = assemble(
        sequences,
        dataset.user_ids,
        dataset.item_ids,
        title_of=titles,
        source={**dataset.source, "findings": {**dataset.source.get("findings", {}), "split": why}},
        options={**dataset.options, "split": split, "valid_from": None, "test_from": None, "carve_valid": False},
    )
    # The same items in the same order.
    return replace(again, features=dataset.features)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; known are {', '.join(SPLITS)}")
