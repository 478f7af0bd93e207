"""The model configuration: defaults, validation, and what a base model makes of it."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from rearec.fields import settings
from rearec.models import ReaRecConfig
from rearec.models.config import BACKBONES, METHODS, MOST_HEAD_WIDTH
from rearec.models.methods import TRAITS
from rearec.training import TrainingOptions
from rearec_kernels import ReasoningCache, cached_reason_attention, ensemble_reasoning_loss


def test_the_defaults_are_the_papers_size_and_the_official_codes_settings() -> None:
    config = ReaRecConfig(num_items=7)
    assert (config.dim, config.ffn, config.layers, config.heads, config.max_len) == (256, 300, 2, 2, 50)
    assert (config.dropout, config.input_dropout, config.temperature) == (0.5, 0.2, 0.07)
    assert (config.steps, config.alpha, config.kl_weight, config.pl_weight, config.cl_weight) == (2, 5.0, 0.05, 1, 1)
    assert (config.noise, config.warmup, config.kl_form, config.step_weights) == (0.01, 2, "official", "official")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_items", 0),
        ("num_items", 2.0),
        ("num_items", True),
        ("max_len", 2**31),
        ("backbone", "gru"),
        ("method", "PRL"),
        ("method", None),
        ("steps", -1),
        ("steps", "2"),
        ("dim", 255),
        ("ffn", 0),
        ("layers", 0),
        ("heads", 3),
        ("max_len", 0),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("input_dropout", math.nan),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("alpha", -1.0),
        ("alpha", "5"),
        ("kl_weight", -0.01),
        ("kl_form", "symmetric"),
        ("step_weights", "all"),
        ("pl_weight", math.nan),
        ("cl_weight", math.inf),
        ("noise", -1.0),
        ("warmup", 1.5),
        ("noised_prefix", "none"),
        ("training_task", "mlm"),
        ("mask_share", 0.0),
        ("mask_share", 1),
    ],
)
def test_a_wrong_value_is_refused_by_field_value_and_what_is_expected(field: str, value: object) -> None:
    values: dict[str, Any] = {"num_items": 7, field: value}
    got = 256 if field == "heads" else value  # heads that do not divide dim are told as a wrong dim
    name = "dim" if field == "heads" else field
    with pytest.raises(ValueError) as error:
        ReaRecConfig(**values)
    assert str(error.value).startswith(f"{name}: got {got!r}, expected ")


def test_integers_and_numpy_numbers_are_taken_as_the_plain_numbers_that_json_can_hold() -> None:
    config = ReaRecConfig(num_items=np.int64(7), alpha=2, noise=np.float32(0.5))
    assert type(config.num_items) is int
    assert type(config.alpha) is float
    assert (type(config.noise), config.noise) == (float, 0.5)


@pytest.mark.parametrize("backbone", ["sasrec", "own"])
def test_masked_items_are_for_bert4rec_alone(backbone: str) -> None:
    assert ReaRecConfig(7, "bert4rec", training_task="cloze").mask_share == 0.2
    with pytest.raises(ValueError, match=f"^training_task: got 'cloze' for {backbone}, expected 'next-item'"):
        ReaRecConfig(7, backbone, training_task="cloze")


def test_base_has_no_steps() -> None:
    assert ReaRecConfig(num_items=7, method="base", steps=3).steps == 0


@pytest.mark.parametrize(
    ("method", "steps", "expected"),
    [("base", 2, False), ("naive", 2, False), ("rpe", 2, True), ("erl", 1, True), ("prl", 3, True), ("prl", 0, False)],
)
def test_reasoning_positions_belong_to_rpe_erl_and_prl_with_steps(method: str, steps: int, expected: bool) -> None:
    assert ReaRecConfig(num_items=7, method=method, steps=steps).has_reasoning_positions is expected


def test_a_dictionary_of_the_fields_gives_the_same_configuration() -> None:
    config = ReaRecConfig(num_items=7, method="erl", steps=3, dim=12, kl_form="paper")
    assert ReaRecConfig.from_dict(dataclasses.asdict(config)) == config


def test_a_dictionary_with_unknown_fields_or_without_the_number_of_items_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^depth: not a field"):
        ReaRecConfig.from_dict({"num_items": 7, "depth": 2})
    with pytest.raises(ValueError, match=r"^num_items: missing"):
        ReaRecConfig.from_dict({"steps": 2})


def test_the_configuration_can_be_imported_without_torch() -> None:
    code = "import sys; from rearec.models import ReaRecConfig; ReaRecConfig(3); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_the_kernels_cannot_compute_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dim: got 2048, expected at most 1024: 1024 for each of the heads \(1\)"):
        ReaRecConfig(7, dim=2048, heads=1)
    assert ReaRecConfig(7, dim=2048, heads=2).heads == 2
    with pytest.raises(ValueError, match="steps: got 64, expected at most 63 with the method erl"):
        ReaRecConfig(7, method="erl", steps=64)
    assert ReaRecConfig(7, method="erl", steps=63).steps == ReaRecConfig(7, steps=64).steps - 1


def test_who_reads_a_setting_exists() -> None:
    for said in (*settings(ReaRecConfig).values(), *settings(TrainingOptions).values()):
        assert set(said.backbones or BACKBONES[:1]) <= set(BACKBONES), said.name
        assert set(said.methods or METHODS[:1]) <= set(METHODS), said.name
    assert settings(ReaRecConfig)["steps"].methods == ("naive", "rpe", "erl", "prl")


def test_the_limits_are_those_of_the_kernels() -> None:
    def attend(width: int) -> None:
        q = torch.zeros(1, 1, 1, width)
        cache = ReasoningCache.from_prefix(q, q, max_tokens=1)
        cached_reason_attention(q[:, 0], q[:, 0], q[:, 0], cache)

    def learn(states: int) -> None:
        hidden, weight, target = torch.zeros(1, states, 1), torch.zeros(2, 1), torch.tensor([0])
        ensemble_reasoning_loss(hidden, weight, target, temperature=1.0, kl_weight=0.1)

    for compute, most in ((attend, MOST_HEAD_WIDTH), (learn, (TRAITS["erl"].most_steps or 0) + 1)):
        compute(most)
        with pytest.raises(ValueError, match=str(most)):
            compute(most + 1)
