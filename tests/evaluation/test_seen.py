"""Whether seen items stay: the rule, who may overrule it, and what counts as seen."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from analysis_models import random_model
from brute_force_evaluation import histories_of
from hypothesis import given, settings
from hypothesis import strategies as st
from repeating_data import dataset_of, repeating_dataset

from rearec import Recommender
from rearec.data import SequenceDataset
from rearec.evaluation import rank_rows, seen, seen_items
from rearec.evaluation.ranking import BatchRanker, evaluation_batches
from rearec.evaluation.seen import RowHistories, repeated_targets, seen_words
from rearec.run_folder import Catalog


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=9), min_size=1, max_size=6), st.data())
def test_histories_are_all_items_before_the_target(sequences: list[list[int]], data: st.DataObject) -> None:
    dataset = dataset_of(sequences, 6, empty_histories=data.draw(st.integers(0, 2)))
    for split in ("train", "valid", "test"):
        expected = histories_of(dataset, split)
        for compared in (0, 100):  # by sorting, by comparing
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(seen, "COMPARED", compared)
                repeated = repeated_targets(dataset, split)  # type: ignore[arg-type]
            assert repeated.tolist() == [target in history for _, history, target in expected]
        chosen = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=5)) if expected else []
        offsets, items = RowHistories(dataset, split)(np.array(chosen, dtype=np.int64))  # type: ignore[arg-type]
        assert len(offsets) == len(chosen) + 1
        found = [items[a:b].tolist() for a, b in pairwise(offsets)]
        assert found == [expected[row][1] for row in chosen]


def data_with(repeated: int, rows: int) -> SequenceDataset:
    """So many validation rows, of which so many ask for an item of their history."""
    sequences = [[0, 1, 2, 0 if user < repeated else 3, 4] for user in range(rows)]
    return dataset_of(sequences, 5)


@pytest.mark.parametrize(
    ("repeated", "rows", "name"),
    [(0, 100, "excluded"), (1, 100, "kept"), (1, 101, "excluded"), (2, 200, "kept"), (3, 301, "excluded")],
)
def test_seen_items_stay_where_one_row_of_a_hundred_asks_for_them(repeated: int, rows: int, name: str) -> None:
    seen = seen_items(data_with(repeated, rows))
    assert (seen.name, seen.exclude) == (name, name == "excluded")
    assert f"{repeated} of {rows} validation rows ask for an item of their history" in str(seen)
    assert str(seen).startswith(f"seen items {name}: ") and seen_words(seen.name) == f"seen items {name}"


def test_the_user_overrules_the_run_and_the_run_the_data() -> None:
    dataset = data_with(0, 100)
    for asked, of_run, expected in (
        (None, None, "excluded"),
        (None, False, "kept"),
        (None, True, "excluded"),
        (False, True, "kept"),
        (True, False, "excluded"),
    ):
        assert seen_items(dataset, asked, of_run=of_run).name == expected


def test_without_validation_rows_the_training_rows_say_it_and_without_rows_nobody() -> None:
    repeating, fresh = dataset_of([[0, 0, 0, 0]], 5, valid=0), dataset_of([[0, 1, 2, 0]], 5, valid=0)
    assert (seen_items(repeating).name, seen_items(fresh).name) == ("kept", "excluded")
    assert "2 of 2 training rows" in str(seen_items(repeating))
    nothing = seen_items(dataset_of([], 5, empty_histories=1))
    assert nothing.name == "kept" and "no rows" in str(nothing)


@pytest.mark.parametrize("method", ["base", "erl", "prl"])
@pytest.mark.parametrize("exclude", [False, True])
def test_the_recommender_shows_what_the_evaluation_ranks(method: str, exclude: bool) -> None:
    """Also where the history is longer than what the model reads, and where it holds the target."""
    dataset = repeating_dataset()
    model = random_model(dataset, method, steps=0 if method == "base" else 2)
    recommender = Recommender(model, Catalog(dataset.item_ids, dataset.train_item_counts().tolist()))
    rows = histories_of(dataset, "test")
    ids = [[dataset.item_ids[item] for item in history] for _, history, _ in rows]
    answers = recommender.recommend(ids, k=dataset.num_items, exclude_seen=exclude)

    ranked = rank_rows(model, dataset, exclude_seen=exclude, batch_rows=7).final
    ranker = BatchRanker(model, seen=RowHistories(dataset, "test") if exclude else None)
    assert max(len(history) for _, history, _ in rows) > model.config.max_len
    assert any(target in history for _, history, target in rows)
    with torch.inference_mode():
        for batch in evaluation_batches(model, dataset, "test", 7):
            assert batch.row is not None
            lists = ranker.top(ranker.states(batch)[0], batch, dataset.num_items)
            for row, items in zip(batch.row.tolist(), lists.tolist(), strict=True):
                _, history, target = rows[row]
                shown = [dataset.item_ids.index(item) for item in answers[row].items]
                assert shown == [item for item in items if item >= 0]
                assert not exclude or not set(shown) & set(history)
                if target in shown:
                    assert shown.index(target) == ranked[row]
