"""Explanations of a model with a graph prior against recomputation."""

from __future__ import annotations

import numpy as np
import pytest
from prior_answers import (
    IDS,
    MAX_LEN,
    N,
    bonus,
    dense_answer,
    dense_scores,
    known,
    places,
    recommender_with_prior,
    states,
)

from rearec.inference import Recommender

HISTORY = ["i3", "?", "i9", "i9", "i20", "i1", "i3", "new", "i7", "i12", "i4", "i22"]
KNOWN = [item for item in HISTORY if item in IDS]


def without_prior(recommender: Recommender) -> Recommender:
    other = recommender_with_prior(recommender.model.config.method)
    other.model.prior = None
    other.refresh()
    return other


@pytest.mark.parametrize("method", ["base", "erl", "prl"])
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_last_step_is_what_is_recommended(method: str, exclude_seen: bool) -> None:
    recommender = recommender_with_prior(method)
    why = recommender.explain(HISTORY, 5, exclude_seen=exclude_seen)
    answer = recommender.recommend([HISTORY], 5, exclude_seen=exclude_seen)[0]
    last = why.steps[-1]
    assert (last.name, last.items, why.item) == ("with the item graph", answer.items, answer.items[0])
    assert last.scores == pytest.approx(answer.scores, rel=1e-5)
    assert why.score == pytest.approx(answer.scores[0], rel=1e-5)
    plain = without_prior(recommender).explain(HISTORY, 5, exclude_seen=exclude_seen)
    assert [(step.name, step.items) for step in why.steps[:-1]] == [(step.name, step.items) for step in plain.steps]
    assert why.steps[-2].scores == pytest.approx(plain.steps[-1].scores) and plain.steps[-1].items != last.items
    assert (plain.bonus, plain.history[0].linked) == (None, None)
    assert last.to_previous == pytest.approx(1) and last.to_final == pytest.approx(1)
    logits = dense_scores(recommender.model, HISTORY) / recommender.model.config.temperature
    share = np.exp(logits - logits.max())
    share /= share.sum()
    assert last.entropy == pytest.approx(-(share * np.log2(share)).sum(), rel=1e-5)


@pytest.mark.parametrize("method", ["erl", "prl"])
@pytest.mark.parametrize("item", [None, "i10", "i0"])
def test_influence_is_what_is_missing_without_a_place(method: str, item: str | None) -> None:
    recommender = recommender_with_prior(method, batch_rows=4)
    model = recommender.model
    why = recommender.explain(HISTORY, 4, item=item)
    answer = dense_answer(model, HISTORY, 4)[0]
    explained = IDS.index(item or answer[0])
    weight = model.weight[explained].detach().double().numpy()
    # the graph looks 9 items back, the model 6
    assert [place.item for place in why.history] == KNOWN[-9:] and MAX_LEN < 9
    for place, found in enumerate(why.history, start=len(KNOWN) - 9):
        rest = KNOWN[:place] + KNOWN[place + 1 :]
        drops = (states(model, KNOWN) - states(model, rest)) @ weight
        drop = dense_scores(model, KNOWN)[explained] - dense_scores(model, rest)[explained]
        assert found.by_step == pytest.approx([*drops, drop], abs=1e-5) and found.drop == found.by_step[-1]
        assert found.kept == len(set(answer) & set(dense_answer(model, rest, 4)[0]))
    edges = places(model, KNOWN)[:, explained]
    added = bonus(model, KNOWN)[explained]
    assert why.bonus == pytest.approx(added)
    shares = added * edges / edges.sum() if added else edges
    assert [place.linked for place in why.history] == pytest.approx(shares[-9:].tolist())
    assert [place.linked == 0 for place in why.history] == (edges[-9:] == 0).tolist()
    assert sum(place.linked or 0 for place in why.history) == pytest.approx(added)
    assert bool(added) == (item != "i0")


def test_a_graph_that_looks_less_far_back_than_the_model() -> None:
    recommender = recommender_with_prior(last=2)
    (best,) = recommender.recommend([KNOWN[-2:]], 1)[0].items
    why = recommender.explain(HISTORY, item=best)
    assert len(why.history) == MAX_LEN and [place.linked for place in why.history[:-2]] == [0.0] * (MAX_LEN - 2)
    assert any(place.linked for place in why.history[-2:]) and why.bonus


def test_a_history_of_one_item() -> None:
    recommender = recommender_with_prior()
    why = recommender.explain(["i3"])
    (place,) = why.history
    assert (place.drop, place.by_step, place.kept) == (None, None, None)
    assert place.linked == pytest.approx(why.bonus) and why.bonus == pytest.approx(
        bonus(recommender.model, ["i3"])[known([why.item])[0]]
    )


def test_rankings_that_leave_no_item() -> None:
    recommender = recommender_with_prior()
    why = recommender.explain(IDS, exclude_seen=True)
    assert (why.steps[-1].items, why.item) == ([], IDS[-1])
    assert recommender.explain(IDS, N + 3).steps[-1].items == dense_answer(recommender.model, IDS, N)[0]


def test_as_it_is_shown() -> None:
    recommender = recommender_with_prior()
    why = recommender.explain(HISTORY, 3)
    strongest = max(why.history, key=lambda place: place.linked or 0)
    lines = repr(why).splitlines()
    assert lines[-3].startswith("  with the item graph (cosine with the answer 1.000): ")
    assert lines[-1].startswith(f"  the item graph adds {why.bonus:.4f}: {strongest.item} {strongest.linked:+.4f}")
    html = why._repr_html_()
    assert "<th>by the item graph</th>" in html and f"the item graph adds {why.bonus:.4f}" in html
    assert f'right">{strongest.linked:.4f}</td>' in html
    unlinked = recommender.explain(HISTORY, 3, item="i0")
    assert repr(unlinked).endswith("the item graph adds 0.0000: it links no item of the history with it")
    plain = without_prior(recommender).explain(HISTORY, 3)
    assert "graph" not in repr(plain) and "graph" not in plain._repr_html_()
