"""Splits: leave-one-out, by timestamp, and given rows that share a sequence where they agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearec.data import SequenceDataset, prepare
from rearec.data.preparation import splits
from rearec.data.preparation.splits import from_history_rows
from rearec.data.readers.interactions import HistoryRows, Place

Write = Callable[[str, str], Path]
RowsOf = Callable[[SequenceDataset, str], list[tuple[str, tuple[str, ...], str]]]

HEAD = "user_id,item_id,timestamp\n"


def test_leave_one_out_holds_out_the_last_two(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    dataset = prepare("lines", [write("l.txt", "u a b c d e\nv a\nw b a\nx c b a\n")], tmp_path / "o")
    assert rows_of(dataset, "train") == [("u", ("a",), "b"), ("u", ("a", "b"), "c"), ("w", ("b",), "a")]
    assert rows_of(dataset, "valid") == [("u", ("a", "b", "c"), "d"), ("x", ("c",), "b")]
    assert rows_of(dataset, "test") == [("u", ("a", "b", "c", "d"), "e"), ("x", ("c", "b"), "a")]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(0, 9)), min_size=5, max_size=30),
    st.integers(1, 8),
    st.integers(1, 3),
)
def test_thresholds_are_inclusive_and_ties_do_not_matter(
    lines: list[tuple[str, str, int]], valid_from: int, gap: int
) -> None:
    from rearec.data.readers.interactions import Interactions
    from rearec.data.tables.times import Times

    users, items, moments = (list(column) for column in zip(*lines, strict=True))
    place = Place([Path("f")], np.zeros(len(lines), dtype=np.int32), np.arange(len(lines)))
    source = Interactions(
        np.asarray(["uvw".index(user) for user in users], dtype=np.int32),
        np.asarray(["abcd".index(item) for item in items], dtype=np.int32),
        list("uvw"),
        list("abcd"),
        place,
        times=Times(np.asarray(moments, dtype=np.int64), "number"),
    )
    found = splits.by_timestamp(source, str(valid_from), str(valid_from + gap))
    expected = []
    for user in "uvw":
        mine = sorted((line for line in lines if line[0] == user), key=lambda line: line[2])
        for position, (_, item, moment) in enumerate(mine):
            part = 0 if moment < valid_from else 1 if moment < valid_from + gap else 2
            if part > 0 or position > 0:
                expected.append((user, position, item, part))
    rows = found.rows
    result = [
        ("uvw"[found.user[s]], p, "abcd"[found.items[found.offsets[s] + p]], part)
        for s, p, part in zip(rows.sequence.tolist(), rows.position.tolist(), rows.part.tolist(), strict=True)
    ]
    assert result == expected


def test_rows_without_history_are_kept_in_valid_and_test_only(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    source = write("t.csv", HEAD + "u,a,1\nu,b,2\nu,c,3\nv,a,5\nv,b,6\nw,c,8\nx,d,1\n")
    dataset = prepare("table", [source], tmp_path / "o", split="timestamp", valid_from=5, test_from="6")
    assert rows_of(dataset, "train") == [("u", ("a",), "b"), ("u", ("a", "b"), "c")]
    assert rows_of(dataset, "valid") == [("v", (), "a")]
    assert rows_of(dataset, "test") == [("v", ("a",), "b"), ("w", (), "c")]
    assert dataset.statistics["valid_rows_without_history"] == dataset.statistics["test_rows_without_history"] == 1


@pytest.mark.parametrize("thresholds", [(2.5, 3.5), ("2.5", "3.5"), ("+25e-1", "3.5")])
def test_thresholds_may_have_a_fraction(
    thresholds: tuple[Any, Any], write: Write, rows_of: RowsOf, tmp_path: Path
) -> None:
    source = write("t.csv", HEAD + "u,a,1\nu,b,2\nu,c,3\nu,d,4\n")
    valid, test = thresholds
    dataset = prepare("table", [source], tmp_path / "o", split="timestamp", valid_from=valid, test_from=test)
    assert [row[2] for split in ("train", "valid", "test") for row in rows_of(dataset, split)] == ["b", "c", "d"]


def test_large_thresholds_are_exact(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    start = 2**60
    source = write("t.csv", HEAD + "".join(f"u,{name},{start + place}\n" for place, name in enumerate("abcd")))
    options = {"split": "timestamp", "valid_from": start + 2, "test_from": str(start + 3)}
    dataset = prepare("table", [source], tmp_path / "o", **options)
    assert [row[2] for split in ("train", "valid", "test") for row in rows_of(dataset, split)] == ["b", "c", "d"]


ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.integers(0, 2), max_size=5), st.integers(0, 2), st.integers(0, 2)),
    min_size=1,
    max_size=15,
)


def history_rows(rows: list[tuple[int, list[int], int, int]]) -> HistoryRows:
    """Rows from (user, history, target, part)."""
    lengths = [len(history) + 1 for _, history, _, _ in rows]
    return HistoryRows(
        user=np.asarray([row[0] for row in rows], dtype=np.int32),
        items=np.asarray([item for row in rows for item in (*row[1], row[2])], dtype=np.int32),
        offsets=np.cumsum([0, *lengths]),
        user_ids=list("uvw"),
        item_ids=list("abc"),
        place=Place([Path("f")], np.zeros(len(rows), dtype=np.int32), np.arange(len(rows))),
        part=np.asarray([row[3] for row in rows], dtype=np.int8),
    )


@pytest.mark.parametrize("compared_slots", [1, 1 << 22])
@settings(max_examples=150, deadline=None)
@given(rows=ROWS)
def test_given_rows_keep_user_history_target_and_part(
    compared_slots: int, rows: list[tuple[int, list[int], int, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "COMPARED_SLOTS", compared_slots)
        found = from_history_rows(history_rows(rows))
    result = []
    for sequence, position, part in zip(
        found.rows.sequence.tolist(), found.rows.position.tolist(), found.rows.part.tolist(), strict=True
    ):
        assert position < found.offsets[sequence + 1] - found.offsets[sequence]
        items = found.items[found.offsets[sequence] :][: position + 1].tolist()
        result.append((int(found.user[sequence]), items[:-1], items[-1], part))
    assert sorted(result) == sorted(row for row in rows if row[1] or row[3] > 0)
    order = list(zip(found.rows.sequence.tolist(), found.rows.position.tolist(), strict=True))
    assert order == sorted(order)
    assert np.all(np.diff(found.user) >= 0)
    # Each user's first sequence is his longest row, and every row that begins it shares it.
    for user in {row[0] for row in rows}:
        mine = [[*history, target] for row_user, history, target, _ in rows if row_user == user]
        longest = max(mine, key=len)
        sequences = np.flatnonzero(found.user == user)
        first = found.items[found.offsets[sequences[0]] : found.offsets[sequences[0] + 1]]
        assert first.tolist() == longest
        assert len(sequences) == 1 + sum(longest[: len(row)] != row for row in mine)
