"""Objectives and encoders of one's own through `rearec.fit`; their code is run only for who says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rearec
from rearec import Recommender, UserError
from rearec.data import load_dataset
from rearec.objectives import OBJECTIVES, Objective

TINY: dict[str, Any] = {"epochs": 1, "dim": 8, "ffn": 8, "layers": 1, "max_len": 8, "progress": False, "logger": "none"}
CODE = """
from dataclasses import replace
from rearec.models.sasrec import SASRec

def encoder(config):
    return SASRec(replace(config, backbone="sasrec"))
"""


def test_an_objective_of_one_s_own(prepared: Path) -> None:
    own = Objective(OBJECTIVES["base"].loss, readout="mean")
    model = rearec.fit(load_dataset(prepared), objective=own, steps=1, prior="none", **TINY)
    assert (model.config.method, model.config.steps) == ("own", 1)
    assert [step.name for step in model.explain(["item-001", "item-002"]).steps][-1] == "mean of the steps"


def test_code_that_is_named_runs_only_for_who_says_so(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_encoder.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    dataset = load_dataset(prepared)
    model = rearec.fit(dataset, backbone="shop_encoder:encoder", method="base", out="run", **TINY)
    for open_run in (rearec.load, Recommender):
        with pytest.raises(UserError, match="trust_code=True runs it"):
            open_run("run")
        assert open_run("run", trust_code=True).recommend([["item-001"]], exclude_seen=False) == model.recommend(
            [["item-001"]], exclude_seen=False
        )
    with pytest.raises(UserError, match="trust_code=True runs it"):
        rearec.refit(model, progress=False, logger="none")
    assert rearec.refit(model, trust_code=True, progress=False, logger="none").config == model.config
