"""Floors in results: told apart wherever they are shown, and missed by nobody where an older result lacks them."""

from __future__ import annotations

from rearec.evaluation import floors
from rearec.facade.shown import result_html, result_lines
from rearec.report.floors import FLOORS, beside_floors, floor_levels, floors_of
from rearec.report.style import known_color, level_style

METRICS = {name: 0.25 for name in ("ndcg@10", "ndcg@20", "recall@10", "recall@20", "mrr")} | {"rows": 9}
OLD = {**METRICS, "popularity": METRICS, "markov": METRICS}


def test_floors_look_different_and_have_one_order() -> None:
    assert floors.FLOORS == tuple(FLOORS) == ("popularity", "markov", "itemknn", "rules")
    for looks in ([known_color(name) for name in FLOORS], [level_style(f"{name} (floor)") for name in FLOORS]):
        assert len(set(looks)) == len(FLOORS)
    assert len({floor.words for floor in FLOORS.values()}) == len(FLOORS)


def test_older_results_have_the_floors_that_they_have() -> None:
    assert list(floors_of(OLD)) == ["popularity", "markov"] and floors_of(METRICS) == {}
    assert list(beside_floors("prl", OLD)) == ["prl", "popularity", "markov"]
    assert floor_levels(OLD, "mrr") == {"popularity (floor)": 0.25, "markov (floor)": 0.25}
    result = {"best_epoch": 1, "epochs": 2, "stopped_early": True, "parameters": 5, "seen": "kept", "valid": METRICS}
    lines = result_lines({**result, "test": OLD})
    assert "(NDCG@20 of popularity 0.2500, markov 0.2500)" in lines[2] and "of popularity" not in lines[1]
    assert "markov" in (shown := result_html("a run", "prl", {**result, "test": OLD})) and "itemknn" not in shown
