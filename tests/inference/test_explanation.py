"""Explanations against recomputation: rankings by step, cosines, and the answer without each place of the history."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rearec import Recommender
from rearec.data import collate_histories
from rearec.errors import UserError
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog

IDS = [f"i{number}" for number in range(30)]
# Longer than the model reads, an item twice, and unknown ones.
HISTORY = ["i3", "?", "i9", "i9", "i20", "i1", "i3", "new", "i7", "i12", "i4"]
KNOWN = [item for item in HISTORY if item in IDS]
MAX_LEN = 6


def untrained(method: str) -> Recommender:
    config = ReaRecConfig(30, method=method, steps=2, dim=16, ffn=16, max_len=MAX_LEN, temperature=0.5)
    return Recommender(ReaRec(config).eval(), Catalog(IDS, [1] * 30), batch_rows=4)


def states(recommender: Recommender, history: list[str]) -> Tensor:
    """[T, d], those that rank items, the answer's last."""
    model = recommender.model
    with torch.no_grad():
        found = model(collate_histories([[IDS.index(item) for item in history]], MAX_LEN)).states[0]
    return torch.cat([found, found.mean(0, keepdim=True)]) if model.config.method == "erl" else found


@pytest.mark.parametrize("method", ["base", "erl", "prl"])
def test_the_rankings_of_the_steps(method: str) -> None:
    recommender = untrained(method)
    why = recommender.explain(HISTORY, k=4)
    expected = states(recommender, KNOWN)
    assert [step.name for step in why.steps] == {
        "base": ["step 0"],
        "erl": ["step 0", "step 1", "step 2", "mean of the steps"],
        "prl": ["step 0", "step 1", "step 2"],
    }[method]
    scores = expected @ recommender.model.weight.T.detach()
    for step, row, state in zip(why.steps, scores, expected, strict=True):
        best = row.topk(4)
        assert step.items == [IDS[item] for item in best.indices.tolist()]
        assert step.scores == pytest.approx(best.values.tolist(), rel=1e-5)
        assert step.to_final == pytest.approx(
            float(state @ expected[-1] / state.norm() / expected[-1].norm()), abs=1e-5
        )
        share = torch.softmax(row.double() / 0.5, 0)
        assert step.entropy == pytest.approx(float(-(share * share.log2()).sum()), rel=1e-5)
        assert 0 <= step.entropy <= math.log2(30)
    for step, state, last in zip(why.steps[1:], expected[1:], expected, strict=False):
        assert step.to_previous == pytest.approx(float(state @ last / state.norm() / last.norm()), abs=1e-5)
    assert why.steps[0].to_previous is None
    answer = recommender.recommend([HISTORY], k=4)[0]
    assert (why.steps[-1].items, why.item, why.unknown) == (answer.items, answer.items[0], ["?", "new"])
    assert why.score == pytest.approx(answer.scores[0], rel=1e-5)


@pytest.mark.parametrize("method", ["erl", "prl"])
@pytest.mark.parametrize("item", [None, "i11"])
def test_influence_is_what_is_missing_without_a_place(method: str, item: str | None) -> None:
    recommender = untrained(method)
    why = recommender.explain(HISTORY, k=4, item=item)
    answer = recommender.recommend([KNOWN], k=4)[0]
    explained = item or answer.items[0]
    weight = recommender.model.weight[IDS.index(explained)].detach()
    whole = states(recommender, KNOWN) @ weight
    assert (why.item, [place.item for place in why.history]) == (explained, KNOWN[-MAX_LEN:])
    for place, found in enumerate(why.history, start=len(KNOWN) - MAX_LEN):
        rest = KNOWN[:place] + KNOWN[place + 1 :]
        drops = (whole - states(recommender, rest) @ weight).tolist()
        assert found.by_step == pytest.approx(drops, abs=1e-5) and found.drop == found.by_step[-1]
        assert found.kept == len(set(answer.items) & set(recommender.recommend([rest], k=4)[0].items))
    assert any(abs(place.drop or 0) > 1e-3 for place in why.history)


def test_the_only_item_of_a_history_has_no_influence_that_could_be_told() -> None:
    (place,) = untrained("prl").explain(["?", "i5"]).history
    assert (place.item, place.drop, place.by_step, place.kept) == ("i5", None, None, None)


def test_rankings_without_what_was_seen() -> None:
    recommender = untrained("prl")
    why = recommender.explain(HISTORY, k=30, exclude_seen=True)
    assert all(set(step.items) == set(IDS) - set(HISTORY) for step in why.steps)
    assert why.steps[-1].items == recommender.recommend([HISTORY], k=30, exclude_seen=True)[0].items
    assert all(place.kept == 30 - len(set(KNOWN)) for place in why.history)


def test_an_explanation_as_it_is_shown(run_folder: Path) -> None:
    recommender = Recommender(run_folder)
    titles = [None, *(f"Tea & <b>{number}</b>" for number in range(1, 40))]
    recommender = Recommender(recommender.model, replace(recommender.catalog, titles=titles))
    why = recommender.explain(["item-001", "item-002"], k=3)
    text, html = repr(why), why._repr_html_()
    assert len(text.splitlines()) == 2 + len(why.steps) and f"{why.item} {why.title!r}" in text
    assert "Tea &amp; &lt;b&gt;" in html and "<b>" not in html
    assert why.steps[0].titles and len(why.steps[0].titles) == 3


def test_wrong_arguments_are_named() -> None:
    recommender = untrained("prl")
    with pytest.raises(UserError, match="history: holds no known item"):
        recommender.explain(["?"])
    with pytest.raises(UserError, match=r"item: '\?' is not in the catalogue"):
        recommender.explain(["i1"], item="?")
    with pytest.raises(TypeError, match=r"history: expected a sequence of item ids"):
        recommender.explain("i1")
    with pytest.raises(ValueError, match="k: got 0"):
        recommender.explain(["i1"], k=0)
