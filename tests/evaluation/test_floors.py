"""The floors against brute force over the whole catalogue."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from repeating_data import dataset_of, repeating_dataset

from rearec.data import RowScores, load_dataset, prepare
from rearec.evaluation import floors, graph_floors
from rearec.evaluation.floors import FLOORS, baseline_lists, baseline_ranks, floor_settings
from rearec.evaluation.markov import MarkovChain, last_items
from rearec.evaluation.popularity import popularity_ranks
from rearec.evaluation.row_scores import row_lists, row_ranks
from rearec.evaluation.seen import RowHistories

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


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sparse_scores_are_ranked_and_listed_by_score_then_popularity(data: st.DataObject) -> None:
    items, rows = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    dense = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=items * rows, max_size=items * rows))
    )
    dense = dense.reshape(rows, items)
    popularity = np.array(data.draw(st.lists(st.integers(0, 2), min_size=items, max_size=items)), dtype=np.int64)
    target = np.array(data.draw(st.lists(st.integers(0, items - 1), min_size=rows, max_size=rows)), dtype=np.int64)
    seen = np.array(data.draw(st.lists(st.booleans(), min_size=items * rows, max_size=items * rows)), dtype=bool)
    seen = seen.reshape(rows, items)
    row, item = np.nonzero(dense)
    scores = RowScores(np.searchsorted(row, np.arange(rows + 1)), item, dense[row, item])

    full = dense * 100 + popularity
    rivals = seen.copy()
    rivals[np.arange(rows), target] = False
    kept = [brute_force_rank(of_row, wanted) for of_row, wanted in zip(full, target, strict=True)]
    assert row_ranks(scores, target, popularity).tolist() == kept
    left = [
        brute_force_rank(of_row[~out], int(wanted - out[:wanted].sum()))
        for of_row, out, wanted in zip(full, rivals, target, strict=True)
    ]
    assert row_ranks(scores, target, popularity, np.nonzero(rivals)).tolist() == left
    barred = [set(np.flatnonzero(out).tolist()) for out in seen]
    lists = row_lists(scores, popularity, 3, barred)
    for of_row, out, found in zip(full, barred, lists.tolist(), strict=True):
        best = [item for item in np.argsort(-of_row, kind="stable").tolist() if item not in out][:3]
        assert found == [*best, *[-1] * (3 - len(best))]


def test_without_validation_rows_rules_are_the_first_of_the_grid() -> None:
    chosen = floor_settings(dataset_of([[0, 1, 2, 3], [1, 2, 0, 3]], 4, valid=0), exclude_seen=True)["rules"]
    options, decay = graph_floors.GRAPHS[0], graph_floors.DECAYS[0]
    assert (chosen["window"], chosen["reverse"], chosen["history_decay"]) == (options.window, options.reverse, decay)
    # the documentation says 16 settings
    assert chosen["chosen_by_rows"] == 0 and len(graph_floors.GRAPHS) * len(graph_floors.DECAYS) == 16


def test_rules_look_at_no_more_validation_rows_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []

    class Seen(RowHistories):
        def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            looked_at.extend(rows.tolist())
            return super().__call__(rows)

    monkeypatch.setattr(graph_floors, "MOST_ROWS", 5)
    monkeypatch.setattr(graph_floors, "RowHistories", Seen)
    fitted = graph_floors.fit_rules(repeating_dataset(), exclude_seen=False)
    # evenly spaced over the 27 rows
    assert set(looked_at) == {0, 5, 10, 16, 21} and fitted.settings["chosen_by_rows"] == 5


def test_floors_are_fitted_once_and_a_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[bool] = []

    def counting(dataset: object, *, exclude_seen: bool) -> graph_floors.GraphFloor:
        fitted.append(exclude_seen)
        return graph_floors.fit_rules(dataset, exclude_seen=exclude_seen)  # type: ignore[arg-type]

    monkeypatch.setattr(floors, "_remembered", {})
    monkeypatch.setattr(floors, "fit_rules", counting)
    dataset = repeating_dataset()
    for split in ("valid", "test"):
        for exclude in (False, True):
            baseline_ranks(dataset, split, exclude_seen=exclude)  # type: ignore[arg-type]
            floor_settings(repeating_dataset(), exclude_seen=exclude)
            for _ in baseline_lists(dataset, split, 3, exclude_seen=exclude):  # type: ignore[arg-type]
                pass
    assert fitted == [False, True]
    for users in range(2, 9):
        floor_settings(repeating_dataset(users), exclude_seen=False)
    assert len(floors._remembered) == floors.REMEMBERED
    baseline_ranks(dataset, "test", exclude_seen=True)
    assert len(fitted) == 10


def test_every_floor_has_a_rank_for_rows_without_history_and_one_item() -> None:
    dataset = dataset_of([[0, 0, 0, 0]], 1, empty_histories=2)
    for exclude in (False, True):
        ranks = baseline_ranks(dataset, "test", exclude_seen=exclude)
        assert {name: of_floor.tolist() for name, of_floor in ranks.items()} == dict.fromkeys(FLOORS, [0.0] * 3)
        shown = {name: items.tolist() for name, _, items in baseline_lists(dataset, "test", 2, exclude_seen=exclude)}
        first = -1 if exclude else 0
        assert shown == {name: [[first, -1], [0, -1], [0, -1]] for name in FLOORS}


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
    ("source", "popularity", "markov", "every_floor"),
    [
        ("amazon2018_scientific_text/Scientific.inter.json.gz", 0.026, 0.092, True),
        ("amazon2018_games/Games.inter.json.gz", 0.012, 0.067, False),  # its graphs take a minute
    ],
)
def test_floors_on_real_data_are_the_known_ones(
    source: str, popularity: float, markov: float, every_floor: bool, tmp_path: Path
) -> None:
    # the known floors count every item but the last one: with the last item twice, the valid rows ask for it
    with gzip.open(REAL_DATA / source, "rt", encoding="utf-8") as file:
        histories = json.load(file)
    doubled = tmp_path / "doubled.json"
    doubled.write_text(json.dumps({user: [*items, items[-1]] for user, items in histories.items()}))
    dataset = prepare("json", [doubled], tmp_path / "out", split="leave-one-out")
    counts, last, target = dataset.train_item_counts(), last_items(dataset, "valid"), dataset.targets("valid")

    def markov_ranks(ties: np.ndarray) -> np.ndarray:
        return MarkovChain(last_items(dataset, "train"), dataset.targets("train"), ties).ranks(last, target)

    ranks = {"popularity": popularity_ranks(counts, target), "markov": markov_ranks(counts)}
    assert round((ranks["popularity"] < 10).mean(), 3) == popularity
    # the known Markov floor does not break the ties of its counts by popularity
    assert (markov_ranks(np.zeros_like(counts)) < 10).mean() < markov < (ranks["markov"] < 10).mean()
    if every_floor:
        found = baseline_ranks(dataset, "valid", exclude_seen=False)
        assert list(found) == list(FLOORS)
        for name, expected in ranks.items():
            assert np.array_equal(found[name], expected)
