"""From what was asked for to the settings of each training."""

from __future__ import annotations

from typing import Any

import pytest

from rearec.data.synthetic import Planted, generate
from rearec.errors import UserError
from rearec.experiments.named_settings import parse_settings
from rearec.experiments.plan import Plan, settings_of
from rearec.models.config import BACKBONES, METHODS, ReaRecConfig
from rearec.training.presets import KNOWN, best_settings, usual_setting

DATASET = generate(0, planted=Planted(users=20, themes=2, items_per_theme=3))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_has_the_best_known_settings_that_its_method_reads(method: str) -> None:
    run = Plan(DATASET).run(method, number=3)
    settings = settings_of(run)
    assert run.options.seed == 3 and run.config.num_items == DATASET.num_items
    # methods are compared without what a graph adds
    for name, value in {**best_settings("sasrec", method), "prior": "none"}.items():
        if method == "base" and name == "steps":
            assert run.config.steps == 0 and name not in settings
        else:
            assert settings[name] == value
    assert {"kl_weight", "alpha", "steps"} & set(settings) == {
        "base": set(),
        "naive": {"steps"},
        "rpe": {"steps"},
        "erl": {"steps", "kl_weight"},
        "prl": {"steps", "alpha"},
    }[method]


def test_a_plan_starts_from_its_preset() -> None:
    run = Plan(DATASET, preset="paper", settings={"lr": 0.01}).run("prl")
    assert run.config == ReaRecConfig(DATASET.num_items) and run.options.lr == 0.01


def test_what_a_method_does_not_read_makes_no_other_run() -> None:
    plain, asked = Plan(DATASET), Plan(DATASET, settings={"alpha": 3.0, "experts": 4, "kl_weight": 0.2})
    assert asked.run("base") == plain.run("base") == plain.run("base", steps=5)
    assert asked.run("rpe") == plain.run("rpe")
    assert asked.run("prl").config.alpha == 3.0 and asked.run("prl") != plain.run("prl")
    assert asked.run("erl") == plain.run("erl", kl_weight=0.2)
    assert plain.run("prl", alpha=1) == plain.run("prl", alpha=1.0)
    # a change that an experiment makes goes before what was asked for
    assert asked.run("prl", alpha=2.0).config.alpha == 2.0
    assert [run.options.seed for run in Plan(DATASET, seeds=3).over_seeds("erl")] == [0, 1, 2]
    assert [run.options.seed for run in Plan(DATASET, seeds=2, first_seed=7).over_seeds("erl")] == [7, 8]


def test_settings_say_that_backbones_and_methods_read_them_that_exist() -> None:
    assert {method for said in KNOWN.values() for method in said.methods or ()} <= set(METHODS)
    assert {backbone for said in KNOWN.values() for backbone in said.backbones or ()} <= set(BACKBONES)


def test_the_command_line_tells_what_the_experiments_start_from() -> None:
    assert [usual_setting(name) for name in ("dim", "epochs", "precision", "steps")] == [
        "64",
        "30",
        "fp32",
        "best known",
    ]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"backbones": ("gru",)}, r"unknown backbone 'gru'; known are sasrec, .*unisrec"),
        ({"methods": ("prl", "cot")}, r"unknown method 'cot'; known are base, naive, rpe, erl, prl"),
        ({"settings": {"tau": 1}}, r"unknown setting 'tau'; known are steps, .*temperature.*, lr"),
        ({"settings": {"seed": 1}}, r"unknown setting 'seed'"),
        ({"settings": {"alpha": -1}}, r"setting alpha: got -1, expected a finite number above 0"),
        ({"settings": {"lr": "fast"}}, r"setting lr: got 'fast', expected a finite number above 0"),
        ({"seeds": 0}, r"seeds: got 0"),
    ],
)
def test_what_does_not_exist_is_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Plan(DATASET, **choices)


def test_a_text_backbone_without_features_says_how_to_make_them() -> None:
    with pytest.raises(UserError, match="make them with 'rearec embed DIR'"):
        Plan(DATASET).run("base", backbone="unisrec")


def test_settings_are_written_as_name_and_value() -> None:
    texts = ["dropout=0.3", "layers=1", "transductive=true", "kl_form=paper"]
    assert parse_settings(texts) == {"dropout": 0.3, "layers": 1, "transductive": True, "kl_form": "paper"}
    for wrong in ("dropout", "=0.3", "dropout="):
        with pytest.raises(UserError, match="expected name=value"):
            parse_settings([wrong])
