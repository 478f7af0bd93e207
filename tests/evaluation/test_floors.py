"""The floors against brute force over the whole catalogue."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearec.data import load_dataset, prepare
from rearec.evaluation.floors import MarkovChain, baseline_ranks, last_items, popularity_ranks

REAL_DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


def brute_force_rank(score: np.ndarray, target: int) -> float:
    return (score > score[target]).sum() + ((score == score[target]).sum() - 1) / 2


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ranks_are_those_of_brute_force(data: st.DataObject) -> None:
    items = data.draw(st.integers(1, 6))
    item = st.integers(0, items - 1)
    pairs = np.array(data.draw(st.lists(st.tuples(item, item), max_size=30)), dtype=np.int64).reshape(-1, 2)
    popularity = np.array(data.draw(st.lists(st.integers(0, 3), min_size=items, max_size=items)), dtype=np.int64)
    asked = data.draw(st.lists(st.tuples(st.integers(-1, items - 1), item), min_size=1, max_size=20))
    last, target = np.array(asked, dtype=np.int64).T

    transitions = np.zeros((items, items))
    np.add.at(transitions, (pairs[:, 0], pairs[:, 1]), 1)
    # popularity decides where the transition counts are equal; -1 has no transitions
    score = np.concatenate([transitions, np.zeros((1, items))])[last] * 1000 + popularity
    expected = [brute_force_rank(row, wanted) for row, wanted in zip(score, target, strict=True)]
    assert MarkovChain(pairs[:, 0], pairs[:, 1], popularity).ranks(last, target).tolist() == expected
    expected = [brute_force_rank(popularity, wanted) for wanted in target]
    assert popularity_ranks(popularity, target).tolist() == expected


def test_floors_count_training_rows_only(prepared: Path) -> None:
    dataset = load_dataset(prepared)
    ranks = baseline_ranks(dataset, "test", exclude_seen=False)
    train, last = dataset.targets("train"), last_items(dataset, "train")
    transitions = np.zeros((dataset.num_items, dataset.num_items))
    np.add.at(transitions, (last, train), 1)
    popularity = np.bincount(train, minlength=dataset.num_items)
    popularity += np.bincount(dataset.items[dataset.offsets[:-1]], minlength=dataset.num_items)
    for row, target in enumerate(dataset.targets("test")):
        source = last_items(dataset, "test")[row]
        assert ranks["popularity"][row] == brute_force_rank(popularity, target)
        assert ranks["markov"][row] == brute_force_rank(transitions[source] * 1e6 + popularity, target)


def test_a_row_without_history_has_no_last_item(tmp_path: Path) -> None:
    lines = ["u i t", "a x 1", "a y 2", "a z 3", "b x 1", "b y 2", "b z 11", "c y 11", "c x 21", "d z 22"]
    source = tmp_path / "source.csv"
    source.write_text("\n".join(lines) + "\n")
    dataset = prepare(
        *("table", [source], tmp_path / "out"),
        **{"user_column": "u", "item_column": "i", "timestamp_column": "t", "separator": " "},
        **{"split": "timestamp", "valid_from": "10", "test_from": "20"},
    )
    assert dataset.rows("test").tolist() == [[2, 1], [3, 0]]
    assert last_items(dataset, "test").tolist() == [dataset.item_ids.index("y"), -1]


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the development data is not there")
@pytest.mark.parametrize(
    ("source", "popularity", "markov"),
    [
        ("amazon2018_scientific_text/Scientific.inter.json.gz", 0.026, 0.092),
        ("amazon2018_games/Games.inter.json.gz", 0.012, 0.067),
    ],
)
def test_floors_on_real_data_are_the_known_ones(source: str, popularity: float, markov: float, tmp_path: Path) -> None:
    # the known floors count every item but the last one: with the last item twice, the valid rows ask for it
    with gzip.open(REAL_DATA / source, "rt", encoding="utf-8") as file:
        histories = json.load(file)
    doubled = tmp_path / "doubled.json"
    doubled.write_text(json.dumps({user: [*items, items[-1]] for user, items in histories.items()}))
    dataset = prepare("json", [doubled], tmp_path / "out", split="leave-one-out")
    ranks = baseline_ranks(dataset, "valid", exclude_seen=False)
    assert round((ranks["popularity"] < 10).mean(), 3) == popularity
    # the known Markov floor does not break the ties of its counts by popularity
    chain = MarkovChain(last_items(dataset, "train"), dataset.targets("train"), np.zeros(dataset.num_items, np.int64))
    without_popularity = chain.ranks(last_items(dataset, "valid"), dataset.targets("valid"))
    assert (without_popularity < 10).mean() < markov < (ranks["markov"] < 10).mean()
