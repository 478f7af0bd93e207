"""A session answers as the whole history does, and encodes every event once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import rearec
from rearec.models import ReaRecConfig
from rearec.run_folder import Catalog

ITEMS, MAX_LEN = 30, 8
IDS = [f"i{number}" for number in range(ITEMS)]


def recommender(method: str = "prl", **settings: object) -> rearec.Recommender:
    torch.manual_seed(1)
    model = rearec.ReaRec(ReaRecConfig(num_items=ITEMS, method=method, dim=16, max_len=MAX_LEN, **settings))
    return rearec.Recommender(model.eval(), Catalog(IDS, popularity=list(range(ITEMS))))


@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec"])
def test_answers_are_those_of_the_whole_history(backbone: str) -> None:
    answers = recommender(backbone=backbone)
    events = [IDS[number] for number in np.random.default_rng(0).integers(0, ITEMS, 2 * MAX_LEN)]
    events[5] = "unheard of"
    session = rearec.Session(answers, events[:2])
    for count in range(2, len(events)):
        for options in ({"k": 4}, {"k": 3, "exclude_seen": True, "deny": [IDS[3]], "steps": 1}):
            found = session.recommend(**options)
            (expected,) = answers.recommend([events[:count]], **options)
            assert (found.items, found.unknown, found.source) == (expected.items, expected.unknown, "model")
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)
        session.append(events[count])
    assert session.history == events
    assert session.encoded == len(events) - 1


def test_a_session_without_a_known_item_is_answered_by_popularity() -> None:
    session = rearec.Session(recommender())
    assert session.recommend(k=2).items == [IDS[-1], IDS[-2]]
    session.append("unheard of")
    answer = session.recommend(k=1)
    assert (answer.source, answer.unknown, session.nbytes) == ("popularity", ["unheard of"], 0)
    session.append(IDS[0])
    assert session.recommend(k=1).source == "model"


def test_sessions_and_histories_are_answered_together() -> None:
    answers = recommender()
    session = rearec.Session(answers, IDS[:3])
    question = answers.question([IDS[:3], IDS[4:6]], k=5)
    grown = session.question(k=5)
    (one,), two, (three,) = answers.answers([grown, question, session.question(k=2)])
    assert one.items == two[0].items and three.items == one.items[:2]
    assert two[1].items == answers.recommend([IDS[4:6]], k=5)[0].items


def test_what_is_no_event_is_refused_and_changes_nothing() -> None:
    session = rearec.Session(recommender(), [IDS[0]])
    with pytest.raises(TypeError, match="items: "):
        session.extend([IDS[1], None])
    with pytest.raises(TypeError, match="items: expected a sequence of item ids"):
        session.extend("i1")
    with pytest.raises(ValueError, match="k: got 0, expected 1 or more"):
        session.recommend(k=0)
    assert session.history == [IDS[0]] and repr(session) == "Session(1 events, 1 of them known items)"
