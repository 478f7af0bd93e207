"""Ranks with a graph prior on rows of every kind: repeats, no history, further sequences of a user."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rearec.data import SequenceDataset
from rearec.evaluation import evaluate, rank_rows
from rearec.evaluation.metrics import rank_metrics
from rearec.evaluation.popularity import popularity_ranks
from rearec.models import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.training import fit_prior


def given_split(seed: int, num_items: int) -> SequenceDataset:
    """Of a split that was given: users with further sequences, rows of all splits in them, some without a history."""
    draw = np.random.default_rng(seed)
    sequences: list[np.ndarray] = []
    users: list[int] = []
    rows: dict[str, list[tuple[int, int]]] = {"train": [], "valid": [], "test": []}
    for user in range(20):
        for further in range(1 + draw.integers(3)):
            # neighbours in number follow one another, so that there is something to gain
            length = int(draw.integers(1, 14))
            steps = draw.choice([1, 1, 1, 2, 0, 5], length)
            sequences.append((draw.integers(num_items) + np.cumsum(steps)) % num_items)
            sequence, last = len(users), length - 1
            users.append(user)
            if further:
                split = draw.choice(["train", "valid", "test"]) if last else draw.choice(["valid", "test"])
                rows[split].append((sequence, last))
                continue
            rows["test"].append((sequence, last))
            rows["valid"] += [(sequence, place) for place in range(max(0, last - 2), last)]
            rows["train"] += [(sequence, place) for place in range(1, max(0, last - 2))]
    return SequenceDataset(
        items=np.concatenate(sequences).astype(np.int32),
        offsets=np.cumsum([0, *map(len, sequences)]),
        sequence_user=np.array(users, np.int32),
        split_rows={split: np.array(pairs, np.int32).reshape(-1, 2) for split, pairs in rows.items()},  # type: ignore[misc]
        item_ids=[f"i{item}" for item in range(num_items)],
        user_ids=[f"u{user}" for user in range(20)],
        statistics={},
    )


def model_of(dataset: SequenceDataset, seed: int, method: str = "prl") -> ReaRec:
    torch.manual_seed(seed)
    return ReaRec(ReaRecConfig(dataset.num_items, method=method, dim=8, ffn=8, layers=1, max_len=6)).eval()


@pytest.mark.parametrize("exclude", [False, True], ids=["kept", "excluded"])
@pytest.mark.parametrize(("seed", "num_items"), [(0, 5), (1, 19), (2, 20), (3, 21), (4, 60), (5, 150)])
def test_what_the_fit_tells_is_what_the_evaluation_measures(seed: int, num_items: int, exclude: bool) -> None:
    dataset = given_split(seed, num_items)
    assert not dataset.first_of_user.all() and (dataset.rows("valid")[:, 1] == 0).any()
    model = model_of(dataset, seed)
    prior = model.prior = fit_prior(model, dataset, exclude_seen=exclude)
    known = dataset.rows("valid")[:, 1] > 0
    without = rank_metrics(rank_rows(model, dataset, "valid", exclude_seen=exclude, prior=False).final[known])
    assert prior is not None and prior.fit["rows"] == known.sum()
    ranked = rank_rows(model, dataset, "valid", exclude_seen=exclude)
    assert prior.fit["valid"] == pytest.approx(rank_metrics(ranked.final[known])["ndcg@20"], abs=1e-12)
    assert prior.fit["valid_without"] == pytest.approx(without["ndcg@20"], abs=1e-12)
    assert prior.fit["valid"] > prior.fit["valid_without"]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_rows_without_a_history_are_ranked_by_popularity(split: Any) -> None:
    dataset = given_split(1, 30)
    model = model_of(dataset, 1, "erl")
    model.prior = fit_prior(model, dataset, exclude_seen=False)
    ranked = rank_rows(model, dataset, split, exclude_seen=False, per_step=True, batch_rows=3)
    empty = dataset.rows(split)[:, 1] == 0
    assert ranked.without_prior is not None and ranked.by_step is not None and ranked.empty_history_rows == empty.sum()
    expected = popularity_ranks(dataset.train_item_counts(), dataset.targets(split)[empty])
    assert len(expected)
    for ranks in (ranked.final, ranked.without_prior, *ranked.by_step.T):
        assert np.isfinite(ranks).all() and ranks[empty].tolist() == expected.tolist()
    assert (ranked.final[~empty] != ranked.without_prior[~empty]).any()
    metrics = ["ndcg@20", "coverage@5"]
    result = evaluate(model, dataset, split, exclude_seen=False, metrics=metrics)
    assert result["prior"] == "graph" and result["ndcg@20"] == rank_metrics(ranked.final)["ndcg@20"]
    plain = evaluate(model, dataset, split, exclude_seen=False, metrics=metrics, prior=False, floors=False)
    assert result["without_prior"] == {name: plain[name] for name in result["without_prior"]}
