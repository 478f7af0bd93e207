"""Metrics by name: what is known, what is refused, and what a column is called."""

from __future__ import annotations

import pytest

from rearec.errors import UserError
from rearec.evaluation.metrics import METRICS, heading, parse_metrics, rank_metrics, row_metrics


def test_names_are_read_in_any_case_and_each_once() -> None:
    found = parse_metrics(["NDCG@5", " hit@10", "ndcg@05", "mrr", "Coverage@3", "mrr@2"], 10)
    assert [metric.name for metric in found] == ["ndcg@5", "hit@10", "mrr", "coverage@3", "mrr@2"]
    assert [metric.is_of_lists for metric in found] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("precision@5", "unknown metric 'precision@5'; known are ndcg@k, recall@k, hit@k"),
        ("", "unknown metric ''"),
        ("ndcg@", "unknown metric 'ndcg@'"),
        ("ndcg@x", "unknown metric 'ndcg@x'"),
        ("ndcg@1.5", "unknown metric 'ndcg@1.5'"),
        ("ndcg@٣", "unknown metric"),
        ("ndcg", "'ndcg' lacks its k, expected such as ndcg@10"),
        ("coverage", "'coverage' lacks its k"),
        ("ndcg@0", "'ndcg@0' has k = 0, expected 1 to 10, the number of items"),
        ("hit@-3", "'hit@-3' has k = -3, expected 1 to 10"),
        ("novelty@11", "'novelty@11' has k = 11, expected 1 to 10, the number of items"),
    ],
)
def test_other_names_are_one_clear_error(name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_metrics(["ndcg@10", name], 10)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_metric_and_a_metric_that_ranks_do_not_tell_are_errors() -> None:
    with pytest.raises(UserError, match="got none"):
        parse_metrics([])
    with pytest.raises(UserError, match="coverage@5 is about lists"):
        row_metrics([1, 2], ["coverage@5"])


def test_the_usual_metrics_have_no_largest_k() -> None:
    assert [metric.name for metric in parse_metrics(METRICS)] == list(METRICS)
    assert list(rank_metrics([1, 2]))[:2] == ["ndcg@10", "ndcg@10_se"]


def test_columns_are_called_as_the_field_does() -> None:
    assert [heading(name) for name in ("ndcg@10", "recall@5", "mrr", "map@3", "arp@1", "hit@2")] == [
        *("NDCG@10", "Recall@5", "MRR", "MAP@3", "ARP@1", "Hit@2")
    ]
