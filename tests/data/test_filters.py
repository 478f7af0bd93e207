"""Filters: off unless asked for, exact when asked for, against plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearec.data import PrepareOptions, SequenceDataset, prepare
from rearec.data.preparation.filters import core, first_occurrences, minimum_rating
from rearec.data.readers.interactions import Interactions, Place
from rearec.data.tables.arrays import Scratch
from rearec.data.tables.times import Times

Write = Callable[[str, str], Path]
RowsOf = Callable[[SequenceDataset, str], list[tuple[str, tuple[str, ...], str]]]

PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60)


def interactions_of(pairs: list[tuple[int, int]], **columns: Any) -> Interactions:
    """Interactions from (user, item) numbers."""
    count = len(pairs)
    user, item = np.asarray(pairs, dtype=np.int32).reshape(-1, 2).T
    place = Place([Path("f")], np.zeros(count, dtype=np.int32), np.arange(1, count + 1))
    return Interactions(user, item, list("stuvwxyz"), list("abcdefgh"), place, **columns)


def core_of(interactions: Interactions, user_core: int, item_core: int) -> Interactions:
    kept, left = core(interactions, user_core, item_core, Scratch(block_rows=3))
    assert np.count_nonzero(kept) == left
    return interactions.take(kept[:])


@settings(max_examples=200, deadline=None)
@given(PAIRS, st.integers(0, 5), st.integers(0, 5))
def test_core_is_iterated_to_the_fixpoint(pairs: list[tuple[int, int]], user_core: int, item_core: int) -> None:
    expected = pairs
    while True:
        users, items = Counter(u for u, _ in expected), Counter(i for _, i in expected)
        kept = [(u, i) for u, i in expected if users[u] >= user_core and items[i] >= item_core]
        if kept == expected:
            break
        expected = kept
    found = core_of(interactions_of(pairs), user_core, item_core)
    assert list(zip(found.user.tolist(), found.item.tolist(), strict=True)) == expected


def test_core_takes_a_second_round_where_one_does_not_do() -> None:
    # Item 1 falls in the first round, then user 0 has too few, then item 0.
    pairs = [(0, 0), (0, 1), (1, 0), (1, 2), (1, 3), (2, 2), (2, 3), (3, 2), (3, 3)]
    found = core_of(interactions_of(pairs), 2, 2)
    assert sorted(zip(found.user.tolist(), found.item.tolist(), strict=True)) == [
        (1, 2),
        (1, 3),
        (2, 2),
        (2, 3),
        (3, 2),
        (3, 3),
    ]


@settings(max_examples=200, deadline=None)
@given(PAIRS, st.data())
def test_first_keeps_the_earliest_of_each_pair(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    moments = data.draw(st.lists(st.integers(0, 5), min_size=len(pairs), max_size=len(pairs)))
    interactions = interactions_of(pairs, times=Times(np.asarray(moments), "number"))
    expected: dict[tuple[int, int], int] = {}
    for row in sorted(range(len(pairs)), key=lambda row: moments[row]):
        expected.setdefault(pairs[row], row)
    assert np.flatnonzero(first_occurrences(interactions)).tolist() == sorted(expected.values())


def test_minimum_rating_is_inclusive() -> None:
    interactions = interactions_of([(0, 0), (0, 1), (0, 2)], rating=np.asarray([3.5, 4.0, 5.0]))
    assert minimum_rating(interactions, 4).tolist() == [False, True, True]


LINES = [("u", item, rating, moment) for moment, (item, rating) in enumerate(zip("abcabd", "152435", strict=True))]
RATED = "user_id,item_id,rating,timestamp\n" + "".join(",".join(map(str, line)) + "\n" for line in LINES)


def test_nothing_is_filtered_unless_asked(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    dataset = prepare("table", [write("t.csv", RATED + "w,z,1,0\n")], tmp_path / "o")
    assert rows_of(dataset, "test") == [("u", ("a", "b", "c", "a", "b"), "d")]
    # Not even the user with a single item, who has no row at all.
    assert dataset.user_ids == ["u", "w"] and "z" in dataset.item_ids
    assert dataset.statistics == {
        "users": 2,
        "items": 5,
        "interactions": 7,
        "average_length": 3.5,
        "density": 0.7,
        "train_rows": 3,
        "valid_rows": 1,
        "test_rows": 1,
        "valid_rows_without_history": 0,
        "test_rows_without_history": 0,
        "repeated_interactions": 2,
        "test_rows_before_training": 0,
        "test_rows_before_own_item": 0,
        "later_training_share": 0.0,
    }


def test_the_rating_filter_comes_before_the_duplicates_and_those_before_the_core(
    write: Write, rows_of: RowsOf, tmp_path: Path
) -> None:
    source = write("t.csv", RATED)
    dataset = prepare("table", [source], tmp_path / "1", min_rating=2, duplicates="first")
    # Of item a the first rating is too low, the second stays; of item b the first stays.
    assert rows_of(dataset, "test") == [("u", ("b", "c", "a"), "d")]
    assert dataset.statistics["repeated_interactions"] == 0
    dataset = prepare("table", [source], tmp_path / "2", item_core=2)
    assert rows_of(dataset, "test") == [("u", ("a", "b", "a"), "b")]
    with pytest.raises(Exception, match="the filters leave no interactions"):
        prepare("table", [source], tmp_path / "3", duplicates="first", item_core=2)


def test_user_core_and_item_core_override_core(write: Write, tmp_path: Path) -> None:
    source = write("t.csv", RATED + "w,a,5,1\n")
    assert prepare("table", [source], tmp_path / "1", core=2, item_core=1).user_ids == ["u"]
    dataset = prepare("table", [source], tmp_path / "2", core=2, user_core=1)
    assert dataset.user_ids == ["u", "w"] and dataset.item_ids == ["a", "b"]
    options = prepare("table", [source], tmp_path / "3", core=2, user_core=1).options
    assert (options["user_core"], options["item_core"]) == (1, 2)


def test_a_target_rating_drops_predictions_and_keeps_histories(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    dataset = prepare("table", [write("t.csv", RATED)], tmp_path / "o", min_target_rating=3)
    assert rows_of(dataset, "train") == [("u", ("a",), "b"), ("u", ("a", "b", "c"), "a")]
    assert rows_of(dataset, "valid") == [("u", ("a", "b", "c", "a"), "b")]
    assert rows_of(dataset, "test") == [("u", ("a", "b", "c", "a", "b"), "d")]


def test_history_lengths_are_asked_of_train_and_of_valid_and_test_rows(
    write: Write, rows_of: RowsOf, tmp_path: Path
) -> None:
    source = write("l.txt", "u a b c d e f\nv a b c d\nw a b c\n")
    dataset = prepare("lines", [source], tmp_path / "o", min_train_history=2, min_eval_history=3)
    assert rows_of(dataset, "train") == [("u", ("a", "b"), "c"), ("u", ("a", "b", "c"), "d")]
    assert rows_of(dataset, "valid") == [("u", ("a", "b", "c", "d"), "e")]
    assert rows_of(dataset, "test") == [("u", tuple("abcde"), "f"), ("v", ("a", "b", "c"), "d")]
    # A user without any row is gone.
    assert dataset.user_ids == ["u", "v"] and dataset.num_interactions == 10


def test_known_items_are_those_of_train_targets_and_train_histories(
    write: Write, rows_of: RowsOf, tmp_path: Path
) -> None:
    source = write("l.txt", "u a b c d a\nv b x c\nw c a b\ny a b x\n")
    dataset = prepare("lines", [source], tmp_path / "o", known_items=True)
    # Train has (a, b), (a b, c): d and x are unknown, as targets and in histories.
    assert rows_of(dataset, "train") == [("u", ("a",), "b"), ("u", ("a", "b"), "c")]
    assert rows_of(dataset, "valid") == [("w", ("c",), "a"), ("y", ("a",), "b")]
    assert rows_of(dataset, "test") == [("w", ("c", "a"), "b")]
    assert dataset.item_ids == ["a", "b", "c"]


def test_what_no_row_refers_to_is_cut_off(write: Write, tmp_path: Path) -> None:
    source = write("l.txt", "u a b c d e\nv a b c x\nw q r s a b\n")
    dataset = prepare("lines", [source], tmp_path / "o", known_items=True)
    tokens = [[dataset.item_ids[i] for i in dataset.sequence(s)] for s in range(dataset.num_sequences)]
    # The rows of u beyond c and the test row of v predict unknown items.
    assert tokens == [["a", "b", "c"], ["a", "b", "c"], ["q", "r", "s", "a", "b"]]
    assert dataset.item_ids == ["a", "b", "c", "q", "r", "s"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=3, max_size=8), min_size=3, max_size=8), st.data())
def test_row_filters_agree_with_plain_python(sequences: list[list[str]], data: st.DataObject) -> None:
    from rearec.data.preparation.row_filters import RowFilter
    from rearec.data.preparation.splits import leave_one_out

    flat = [(s, "abcdef".index(item)) for s, items in enumerate(sequences) for item in items]
    rating = np.asarray(data.draw(st.lists(st.integers(1, 5), min_size=len(flat), max_size=len(flat))), dtype=float)
    barred = np.asarray(data.draw(st.lists(st.booleans(), min_size=6, max_size=6)))
    fewest_train, fewest_eval = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    wanted = PrepareOptions(
        min_target_rating=data.draw(st.none() | st.integers(1, 5)),
        min_train_history=fewest_train,
        min_eval_history=fewest_eval,
        known_items=data.draw(st.booleans()),
    )
    source = leave_one_out(interactions_of(flat, rating=rating))
    row_filter = RowFilter(wanted, barred, num_items=8)
    row_filter.look(source)
    found = row_filter(source)

    rows = []
    for sequence, position, part, value in zip(
        source.rows.sequence.tolist(),
        source.rows.position.tolist(),
        source.rows.part.tolist(),
        source.rows.rating,
        strict=True,
    ):
        touched = sequences[sequence][: position + 1]
        fewest = fewest_train if part == 0 else fewest_eval
        rated = wanted.min_target_rating is None or value >= wanted.min_target_rating
        if rated and position >= fewest and not any(barred["abcdef".index(item)] for item in touched):
            rows.append((part, sequence, touched))
    if wanted.known_items:
        known = {item for part, _, touched in rows if part == 0 for item in touched}
        rows = [row for row in rows if row[0] == 0 or known.issuperset(row[2])]
    result = []
    for sequence, position, part in zip(
        found.rows.sequence.tolist(), found.rows.position.tolist(), found.rows.part.tolist(), strict=True
    ):
        first = found.offsets[sequence]
        items = ["abcdef"[i] for i in found.items[first : first + position + 1]]
        result.append((part, int(found.user[sequence]), items))
    assert result == rows
    assert len(found.items) == sum(max(len(r[2]) for r in rows if r[1] == s) for s in {r[1] for r in rows})
