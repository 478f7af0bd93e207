"""Metrics by name: what is known, what is refused, and what a column is called."""

from __future__ import annotations

import pytest

from rearec.errors import UserError
from rearec.evaluation.metrics import METRICS, chosen_metrics, heading, parse_metrics, rank_metrics, row_metrics


def test_names_are_read_in_any_case_and_each_once() -> None:
    found = parse_metrics(["NDCG@5", " hit@10", "ndcg@05", "mrr", "Coverage@3", "mrr@2"], 10)
    assert [metric.name for metric in found] == ["ndcg@5", "hit@10", "mrr", "coverage@3", "mrr@2"]
    assert [metric.is_of_lists for metric in found] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gini@5", "unknown metric 'gini@5'; known are ndcg@k, recall@k, hit@k"),
        ("precision@5", "unknown metric 'precision@5': there is one relevant item per row, precision@k is hit@k / k;"),
        ("diversity@5", "unknown metric 'diversity@5': it takes a distance between items"),
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


@pytest.mark.parametrize(
    ("metrics", "cutoffs", "expected"),
    [
        (None, None, None),
        (None, "5, 50", ["ndcg@5", "ndcg@50", "recall@5", "recall@50", "mrr"]),
        ("HR@5,HitRate@7,hit@5", None, ["hit@5", "hit@7"]),
        ("hr,mrr,ndcg@3", "1,2", ["hit@1", "hit@2", "mrr", "ndcg@3"]),
        ("coverage", "4", ["coverage@4"]),
    ],
)
def test_cutoffs_are_for_the_metrics_without_one(
    metrics: str | None, cutoffs: str | None, expected: list[str] | None
) -> None:
    assert chosen_metrics(metrics, cutoffs, 60) == expected


@pytest.mark.parametrize(
    ("metrics", "cutoffs", "message"),
    [
        ("ndcg@5", "10", "-k: every metric has its k already"),
        ("mrr", "10", "-k: every metric has its k already"),
        (None, "5;10", "-k: got '5;10', expected integers with commas between"),
        (None, "", "-k: got '', expected integers"),
        (None, "0", "'ndcg@0' has k = 0, expected 1 to 60"),
        ("hit", None, "'hit' lacks its k, expected such as hit@10"),
    ],
)
def test_cutoffs_that_do_not_fit_are_refused(metrics: str | None, cutoffs: str | None, message: str) -> None:
    with pytest.raises(UserError) as error:
        chosen_metrics(metrics, cutoffs, 60)
    assert message in str(error.value)
