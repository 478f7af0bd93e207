"""Interactions sorted by user, then time, and filtered, however many there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.preparation.filters import time_order
from rearec.data.readers.interactions import Interactions
from rearec.data.tables.arrays import Array, Scratch, blocks, count_codes

__all__ = ["kept_of", "sort_by_user"]

# The column of `Place.index` among those of the interactions.
INDEX = "index"


def sort_by_user(source: Interactions, scratch: Scratch) -> Interactions:
    """The interactions by user, then time; what happened at one time keeps the order in which it was read.

    More than a block of them are dealt out, in the order read, to ranges of users, each of which is then sorted alone.
    """
    count = len(source)
    if count <= scratch.block_rows:
        everything = source.part_of(slice(0, count))
        return everything.with_columns(*_reordered(everything, time_order(everything)), in_order=True)
    of_user = count_codes(source.user, len(source.user_ids), rows=scratch.block_rows)
    # A range begins where a block is full: it holds a block, and at most one user more.
    range_of_user = ((np.cumsum(of_user) - of_user) // scratch.block_rows).astype(np.int32)
    sizes = np.bincount(range_of_user, weights=of_user).astype(np.int64)
    dealt = _deal(source, range_of_user, sizes, scratch)
    place = source.place
    for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        part = slice(int(start), int(start + size))
        own = {name: array[part] for name, array in dealt.items()}
        read = own.pop(INDEX)
        some = source.with_columns(own, replace(place, index=read), in_order=False)
        columns, sorted_place = _reordered(some, time_order(some))
        for name, values in {**columns, INDEX: sorted_place.index[:]}.items():
            dealt[name][part] = values[:]
    index = dealt.pop(INDEX)
    return source.with_columns(dealt, replace(place, index=index), in_order=True)


def _reordered(some: Interactions, order: NDArray[np.int64]) -> tuple[dict[str, Array], Any]:
    return {name: array[:][order] for name, array in some.columns.items()}, some.place.take(order)


def _deal(
    source: Interactions, range_of_user: NDArray[np.int32], sizes: NDArray[np.int64], scratch: Scratch
) -> dict[str, Array]:
    """The columns by range of users, within one in the order read, and which of those read each interaction is."""
    count = len(source)
    columns = source.columns
    dealt = {name: scratch.array(count, array.dtype) for name, array in columns.items()}
    dealt[INDEX] = scratch.array(count, _index_type(count))
    free = np.cumsum(sizes) - sizes
    for part in blocks(count, scratch.block_rows):
        place = range_of_user[columns["user"][part]]
        order = np.argsort(place, kind="stable")
        counts = np.bincount(place, minlength=len(sizes))
        ends = np.cumsum(counts)
        for name, array in dealt.items():
            values = source.place.read_as(part)[order] if name == INDEX else columns[name][part][order]
            for each in np.flatnonzero(counts):
                own = values[ends[each] - counts[each] : ends[each]]
                array[free[each] : free[each] + counts[each]] = own
        free += counts
    return dealt


def _index_type(count: int) -> type[np.signedinteger[Any]]:
    return np.int32 if count < 2**31 else np.int64


def kept_of(source: Interactions, kept: Callable[[slice], NDArray[np.bool_]], scratch: Scratch) -> Interactions:
    """The interactions, in order, of which ``kept`` says so of the slice that it is given: blocks of whole users."""
    columns = {name: scratch.column(array.dtype) for name, array in source.columns.items()}
    index = scratch.column(_index_type(len(source.place.file)))
    for part in source.user_blocks(scratch.block_rows):
        some = source.part_of(part)
        mask = kept(part)
        for name, array in some.columns.items():
            columns[name].append(array[:][mask])
        index.append(some.place.read_as(slice(0, len(some)))[mask])
    place = replace(source.place, index=index.done())
    return source.with_columns({name: column.done() for name, column in columns.items()}, place, in_order=True)
