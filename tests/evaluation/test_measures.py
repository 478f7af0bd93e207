"""Metrics against values worked out by hand, ranks against brute force, groups, standard errors, model modes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rearec.data import SequenceDataset, load_dataset
from rearec.errors import UserError
from rearec.evaluation import evaluate, quantile_groups, rank_rows
from rearec.evaluation.metrics import METRICS, rank_metrics
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec


def test_metrics_are_the_hand_computed_ones() -> None:
    result = rank_metrics([0, 2, 9.5, 10, 25])
    gain = [1.0, 0.5, 1 / math.log2(11.5), 1 / math.log2(12), 0.0]
    assert result["ndcg@10"] == pytest.approx((gain[0] + gain[1] + gain[2]) / 5, rel=1e-15)
    assert result["ndcg@20"] == pytest.approx(sum(gain) / 5, rel=1e-15)
    assert result["recall@10"] == pytest.approx(3 / 5, rel=1e-15)
    assert result["recall@20"] == pytest.approx(4 / 5, rel=1e-15)
    assert result["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 10.5 + 1 / 11 + 1 / 26) / 5, rel=1e-15)
    assert result["rows"] == 5


def test_standard_error_is_the_sample_deviation_over_the_root_of_the_rows() -> None:
    # recall@10 of 3 hits in 4 rows: deviation sqrt(3 / 4 * 1 / 4 * 4 / 3) = 1 / 2
    assert rank_metrics([0, 1, 2, 99])["recall@10_se"] == pytest.approx(0.5 / 2, rel=1e-15)


def test_metrics_of_one_row_have_no_standard_error_and_of_no_row_no_value() -> None:
    one, none = rank_metrics([3]), rank_metrics([])
    assert all(one[name] is not None and one[f"{name}_se"] is None for name in METRICS)
    assert none["rows"] == 0 and all(none[name] is None for name in METRICS)


def tiny_dataset(empty_test_rows: bool = False) -> SequenceDataset:
    """Three users, six items; with ``empty_test_rows`` a fourth user whose only row has no history."""
    sequences = [[0, 1, 2, 3, 4], [2, 1, 0, 5], [1, 2, 3, 0]]
    valid = [(user, len(items) - 2) for user, items in enumerate(sequences)]
    test = [(user, len(items) - 1) for user, items in enumerate(sequences)]
    train = [(user, place) for user, items in enumerate(sequences) for place in range(1, len(items) - 2)]
    if empty_test_rows:
        sequences.append([1])
        test.append((3, 0))
    offsets = np.cumsum([0, *map(len, sequences)])
    return SequenceDataset(
        items=np.concatenate(sequences).astype(np.int32),
        offsets=offsets.astype(np.int64),
        sequence_user=np.arange(len(sequences), dtype=np.int32),
        split_rows={
            "train": np.array(train, dtype=np.int32),
            "valid": np.array(valid, dtype=np.int32),
            "test": np.array(test, dtype=np.int32),
        },
        item_ids=[f"i{item}" for item in range(6)],
        user_ids=[f"u{user}" for user in range(len(sequences))],
        statistics={},
    )


def tiny_model(method: str = "prl") -> ReaRec:
    torch.manual_seed(0)
    model = ReaRec(ReaRecConfig(6, method=method, dim=8, ffn=8, layers=1, max_len=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def test_rows_without_history_are_ranked_by_popularity_and_counted() -> None:
    dataset, model = tiny_dataset(empty_test_rows=True), tiny_model()
    counts = dataset.train_item_counts()
    expected = (counts > counts[1]).sum() + 0.5 * ((counts == counts[1]).sum() - 1)
    ranked = rank_rows(model, dataset, "test", per_step=True)
    assert ranked.final[3] == expected
    assert ranked.by_step is not None and ranked.by_step[3].tolist() == [expected] * 3
    result = evaluate(model, dataset, "test")
    assert (result["rows"], result["empty_history_rows"]) == (4, 1)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_is_without_dropout_and_restores_the_mode(training: bool) -> None:
    dataset, model = tiny_dataset(), tiny_model().train(training)
    first, second = evaluate(model, dataset), evaluate(model, dataset, batch_rows=1)
    assert model.training is training
    assert {name: first[name] for name in METRICS} == {name: second[name] for name in METRICS}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_fewer_steps_are_those_of_the_state_of_that_step() -> None:
    dataset, model = tiny_dataset(), tiny_model()
    by_step = evaluate(model, dataset, per_step=True)["by_step"]
    assert [entry["step"] for entry in by_step] == [0, 1, 2]
    for steps in range(3):
        result = evaluate(model, dataset, steps=steps)
        assert result["steps"] == steps
        assert result["mrr"] == by_step[steps]["mrr"]


def test_more_steps_than_trained_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"steps: got 3, expected 0\.\.2"):
        evaluate(tiny_model(), tiny_dataset(), steps=3)


def test_scores_that_are_no_numbers_are_an_error() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="the model's scores are no finite numbers"):
        evaluate(model, tiny_dataset())


def test_a_dataset_of_another_catalogue_is_an_error() -> None:
    model = ReaRec(ReaRecConfig(7, dim=8, ffn=8, layers=1))
    with pytest.raises(UserError, match="knows 7 items, the dataset has 6"):
        evaluate(model, tiny_dataset())


def test_quantile_groups_are_disjoint_cover_all_rows_and_keep_equal_values_together() -> None:
    values = np.array([1, 1, 1, 1, 1, 2, 3, 4, 5, 50])
    groups = quantile_groups(values)
    assert [(low, high, int(mask.sum())) for low, high, mask in groups] == [(1, 1, 5), (2, 4, 3), (5, 50, 2)]
    assert np.sum([mask for _, _, mask in groups], axis=0).tolist() == [1] * 10


def test_groups_by_length_and_popularity_together_hold_every_row(run_folder: Path, prepared: Path) -> None:
    dataset, model = load_dataset(prepared), ReaRec.from_pretrained(run_folder)
    result = evaluate(model, dataset, users_by="length", items_by="popularity")
    for key in ("users_by_length", "items_by_popularity"):
        groups = result[key]
        assert len(groups) == 4
        assert sum(group["rows"] for group in groups) == result["rows"]
        mean = sum(group["mrr"] * group["rows"] for group in groups) / result["rows"]
        assert mean == pytest.approx(result["mrr"], rel=1e-12)
    assert result["users_by_length"][0]["group"] == "5–7"


def test_floors_stand_beside_the_model_on_the_same_rows(run_folder: Path, prepared: Path) -> None:
    result = evaluate(ReaRec.from_pretrained(run_folder), load_dataset(prepared))
    assert result["popularity"]["rows"] == result["markov"]["rows"] == result["rows"] == 150
    assert result["markov"]["ndcg@10"] > 2 * result["popularity"]["ndcg@10"]
