"""Which items an answer may hold: lists of allowed and of denied items, for all answers or one list for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.errors import UserError
from rearec.inference.ids import few, read_ids

__all__ = ["NOTHING", "ItemFilter"]

IntArray = NDArray[np.int64]
NOTHING: IntArray = np.empty(0, np.int64)


class ItemFilter:
    """The items that each answer may hold, by number, in rising order.

    Args:
        allow, deny: ids as `Recommender.recommend` takes them, None for no list.
        answers: how many there are.
        number_of: the number of each known item.

    Attributes:
        skipped: by "allow" and "deny", ids of the list that are not known; without those of which all are.

    Raises:
        UserError: no item of a list is known, or nothing is allowed.
        ValueError: one list for each answer, but another number of them.
        TypeError: what is given holds something else than ids.
    """

    def __init__(self, allow: object, deny: object, answers: int, number_of: Mapping[str, int]) -> None:
        self._num_items = len(number_of)
        self.skipped: dict[str, list[str]] = {}
        self._allowed = _read(allow, "allow", answers, number_of, self.skipped)
        self._denied = _read(deny, "deny", answers, number_of, self.skipped) or [NOTHING]
        self._passing: tuple[IntArray | None, IntArray, IntArray] | None = None

    def allowed(self, answer: int) -> IntArray | None:
        """The only items that an answer may hold; None for all. Answers with one list get the same object."""
        return None if self._allowed is None else _of(self._allowed, answer)

    def denied(self, answer: int) -> IntArray:
        """The items that an answer may not hold. Answers with one list get the same object."""
        return _of(self._denied, answer)

    def denies_at_most(self, items: int) -> None:
        """Where one longer list is denied in all answers, say the same by allowing what it leaves."""
        if self._allowed is None and len(self._denied) == 1 and len(self._denied[0]) > items:
            self._allowed = [np.setdiff1d(np.arange(self._num_items), self._denied[0])]
            self._denied = [NOTHING]

    def passing(self, answer: int, order: IntArray) -> IntArray:
        """Those of all items that an answer may hold, in the order of ``order``, which is the same in every call."""
        allowed, denied = self.allowed(answer), self.denied(answer)
        if allowed is None and not len(denied):
            return order
        if self._passing is None or self._passing[0] is not allowed or self._passing[1] is not denied:
            may = np.full(self._num_items, allowed is None)
            may[NOTHING if allowed is None else allowed] = True
            may[denied] = False
            self._passing = (allowed, denied, order[may[order]])
        return self._passing[2]


def _of(lists: Sequence[IntArray], answer: int) -> IntArray:
    return lists[0] if len(lists) == 1 else lists[answer]


def _read(
    values: Any, name: str, answers: int, number_of: Mapping[str, int], skipped: dict[str, list[str]]
) -> list[IntArray] | None:
    """One list for all answers, or one for each, as item numbers; None where there is none. Adds to what is skipped."""
    if values is None:
        return None
    if isinstance(values, Set):  # unlike a history, these have no order to lose
        values = list(values)
    if _is_nested(values):
        lists = list(values)
        if len(lists) != answers:
            raise ValueError(f"{name}: got {len(lists)} lists, expected one for each of the {answers} histories")
        tokens = [read_ids(each, f"{name}[{index}]") for index, each in enumerate(lists)]
    else:
        tokens = [read_ids(values, name)]
    unknown = list(dict.fromkeys(token for each in tokens for token in each if token not in number_of))
    known = [[number_of[token] for token in each if token in number_of] for each in tokens]
    if not any(known) and (unknown or name == "allow"):
        raise UserError(
            f"{name}: no item of it is in the catalogue ({few(unknown)})"
            if unknown
            else "allow: is empty, so nothing could be recommended; leave it out to allow every item"
        )
    if unknown:
        skipped[name] = unknown
    return [np.unique(np.array(each, np.int64)) for each in known]


def _is_nested(values: Any) -> bool:
    """Whether these are several lists of ids, not ids."""
    if hasattr(values, "columns") or not isinstance(values, Iterable):
        return False
    first = next(iter(values), None)
    return isinstance(first, Iterable) and not isinstance(first, str)
