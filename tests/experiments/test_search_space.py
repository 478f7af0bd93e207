"""What is searched, and how users write it."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from rearec.errors import UserError
from rearec.experiments.search_space import SPACE, Choice, Range, grids, parse_axis, parse_search, space_of
from rearec.models.config import BACKBONES, METHODS
from rearec.training.presets import KNOWN, preset_settings


def test_ranges_and_values_are_read_and_written_alike() -> None:
    texts = ["lr=1e-4:1e-2:log", "steps=1,2,3", "dim=32:128", "cl_weight=0,0.001:1:log", "schedule=constant,cosine"]
    axes = parse_search(texts)
    assert axes == {
        "lr": Range(1e-4, 1e-2, log=True),
        "steps": Choice((1, 2, 3)),
        "dim": Range(32, 128, integer=True),
        "cl_weight": Range(0.001, 1.0, log=True, zero=True),
        "schedule": Choice(("constant", "cosine")),
    }
    assert {name: parse_axis(name, str(axis)) for name, axis in axes.items()} == axes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "--search lr: expected name=low:high"),
        ("lr=", "--search lr=: expected name=low:high"),
        ("tau=0.1:1", "--search tau: unknown setting, or one that is not searched; known are steps,"),
        ("seed=1,2", "--search seed: unknown setting, or one that is not searched"),
        ("exclude_seen=true,false", "unknown setting, or one that is not searched"),
        ("lr=0.001", "got one value, expected two or more; --set fixes a setting"),
        ("lr=0.01:0.001", "expected the lower end first"),
        ("lr=0.1:1:linear", "expected low:high or low:high:log of a number"),
        ("lr=fast:slow", "--search lr: got 'fast', expected a finite number above 0"),
        ("dropout=0.5:1.5", "--search dropout: got 1.5, expected a number in"),
        ("dropout=0:0.5:log", "a logarithmic range begins above 0"),
        ("lr=0,0.001:1:log", "--search lr: got 0, expected a finite number above 0"),
        ("cl_weight=0,0.1:1", "0 beside a range is for logarithmic ones"),
        ("steps=1.5:3", "--search steps: got 1.5, expected an integer"),
        ("schedule=constant:cosine", "of a number, or value,value"),
        ("schedule=constant,cosinus", "--search schedule: got 'cosinus', expected one of constant, cosine, linear"),
    ],
)
def test_what_is_no_range_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_search([text])
    assert message in str(error.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_only_what_is_read_is_searched_and_presets_lie_within(backbone: str, method: str) -> None:
    space = space_of(backbone, method, {"weight_decay": 0.0}, {})
    assert "lr" in space and "weight_decay" not in space
    assert ("steps" in space) == (method != "base")
    assert ("alpha" in space) == ("cl_weight" in space) == (method == "prl")
    assert ("kl_weight" in space) == (method == "erl")
    assert ("adaptor_dropout" in space) == (backbone in ("unisrec", "morec"))
    for name, axis in space.items():
        value = preset_settings("best", backbone, method).get(name, KNOWN[name].default)
        assert axis.nearest(value) == value
    of_grid = grids(backbone, method, {"lr": 1e-3})
    assert list(of_grid) == [name for name in space if SPACE[name].grid and name != "lr"]


def test_the_table_is_of_settings_and_values_that_exist() -> None:
    for name, axis in SPACE.items():
        assert all(KNOWN[name].accepts(value) for value in (axis.low, axis.high, *axis.grid)), name
        assert all(axis.nearest(value) == value for value in axis.grid), name


@pytest.mark.parametrize(
    ("fixed", "search", "message"),
    [
        ({"lr": 1e-3}, ["lr=1e-4:1e-3"], "--search lr: is fixed by --set too"),
        ({}, ["kl_weight=0:1"], "--search kl_weight: prl does not read it"),
        ({}, ["experts=2:8"], "--search experts: sasrec does not read it"),
        ({name: 1 for name in SPACE}, [], "nothing to search"),
    ],
)
def test_a_search_that_contradicts_itself_is_refused(fixed: dict[str, Any], search: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        space_of("sasrec", "prl", fixed, parse_search(search))


def test_a_study_holds_what_the_settings_are_made_of() -> None:
    axis = Range(1e-3, 1.0, log=True, zero=True)
    assert [axis.nearest(value) for value in (0, 1e-4, 0.1, 7.0)] == [0.0, 1e-3, 0.1, 1.0]

    def suggested(**params: Any) -> Any:
        study.enqueue_trial(params)
        return axis.suggest(study.ask(), "cl_weight")

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert suggested(cl_weight=axis.internal(0.0)) == 0.0
    assert suggested(cl_weight=axis.internal(0.02)) == 0.02
    drawn = [axis.suggest(study.ask(), "cl_weight") for _ in range(200)]
    assert 20 <= drawn.count(0.0) <= 60 and all(value == 0 or 1e-3 <= value <= 1 for value in drawn)
