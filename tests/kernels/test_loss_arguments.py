"""What the losses say to arguments they cannot use: which one it is, what was got and what is needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rearec_kernels import (
    annealed_cross_entropy,
    annealed_temperatures,
    available_backends,
    ensemble_reasoning_loss,
    native,
    reasoning_info_nce,
    use_backend,
)

HIDDEN, WEIGHT, TARGET = torch.zeros(4, 3, 8), torch.zeros(10, 8), torch.zeros(4, dtype=torch.int64)
ITEMS, MASS, NAN = torch.zeros(4, 2, dtype=torch.int64), torch.ones(4, 2), float("nan")
backends = pytest.mark.parametrize("backend", available_backends("cpu"))


def annealed(**changes: Any) -> Tensor:
    arguments: dict[str, Any] = {"hidden": HIDDEN, "weight": WEIGHT, "target": TARGET, "temperature": 0.5, **changes}
    return annealed_cross_entropy(**arguments)


def ensemble(**changes: Any) -> Tensor:
    arguments = {"hidden": HIDDEN, "weight": WEIGHT, "target": TARGET, "temperature": 0.5, "kl_weight": 0.1, **changes}
    return ensemble_reasoning_loss(**arguments).loss


def contrastive(**changes: Any) -> Tensor:
    arguments: dict[str, Any] = {"noised": HIDDEN, "clean": HIDDEN, "temperature": 0.5, **changes}
    return reasoning_info_nce(**arguments)


CATALOG_ERRORS = [
    ({"hidden": torch.zeros(4, 8)}, ValueError, r"hidden must have shape \[R, T, d\], got \[4, 8\]"),
    ({"hidden": None}, TypeError, r"hidden must be a floating-point tensor \[R, T, d\], got NoneType"),
    ({"hidden": HIDDEN.long()}, TypeError, r"hidden must be a floating-point tensor \[R, T, d\], got torch.int64"),
    ({"hidden": HIDDEN[:, :0]}, ValueError, r"hidden must have at least one state per row and d > 0, got \[4, 0, 8\]"),
    ({"weight": torch.zeros(10, 7)}, ValueError, r"weight must have shape \[N, d\] .* d = 8, got \[10, 7\]"),
    ({"weight": torch.zeros(0, 8)}, ValueError, r"weight must have shape \[N, d\] with N > 0 .* got \[0, 8\]"),
    ({"target": TARGET[:3]}, ValueError, r"target must have shape \[R\] with R = 4, got \[3\]"),
    ({"target": TARGET.float()}, TypeError, r"target must be an int32 or int64 tensor \[R\], got torch.float32 \[4\]"),
    ({"target": TARGET.to("meta")}, ValueError, "target is on meta, hidden on cpu"),
    ({"target": torch.tensor([0, 9, 10, 0])}, IndexError, r"target\[2\] is 10, expected an item in \[0, 10\) or -100"),
    ({"target": torch.tensor([0, -1, 1, 0])}, IndexError, r"target\[1\] is -1, expected an item in \[0, 10\) or -100"),
    ({"ignore_index": -(2**63) - 1}, ValueError, "ignore_index must fit into a signed 64-bit integer"),
    ({"temperature": 0.0}, ValueError, "temperature must be finite and above 0, got 0.0"),
    ({"temperature": float("nan")}, ValueError, "temperature must be finite and above 0, got nan"),
    ({"precision": "fp16"}, ValueError, "precision must be one of fp32, tf32, bf16, bf16x3, got 'fp16'"),
]


@pytest.mark.parametrize(("changes", "error", "message"), CATALOG_ERRORS)
@pytest.mark.parametrize("loss", [annealed, ensemble])
@backends
def test_catalogue_losses(
    backend: str, loss: Any, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with use_backend(backend), pytest.raises(error, match=message):
        loss(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"temperature": [0.5, 0.5]}, ValueError, r"temperature must be a number or one per step, T = 3 .* \[2\]"),
        ({"temperature": [0.5, -1.0, 0.5]}, ValueError, "temperature must be .* above 0, got -1.0 for state 1"),
        ({"temperature": "warm"}, TypeError, "temperature must be a number or a sequence of numbers, got 'warm'"),
        ({"temperature": None}, TypeError, "temperature must be a number or a sequence of numbers, got None"),
        ({"temperature": torch.ones(3, requires_grad=True)}, ValueError, "temperature is not differentiated"),
        ({"temperature": torch.ones(3, device="meta")}, ValueError, "temperature must be on the CPU .* got meta"),
        ({"step_weight": [1.0]}, ValueError, r"step_weight must be a number or one per step, T = 3 .* \[1\]"),
        ({"step_weight": float("inf")}, ValueError, "step_weight must be finite"),
        ({"reduction": "sum"}, ValueError, "reduction must be one of mean, none, got 'sum'"),
        ({"target": None}, TypeError, "target may be None only beside a soft_target"),
        ({"soft_target": ITEMS}, TypeError, r"soft_target must be a pair of tensors \(items, mass\), got torch.int64"),
        ({"soft_target": (ITEMS,)}, TypeError, r"soft_target must be a pair of tensors \(items, mass\), got tuple"),
        ({"soft_target": (MASS, MASS)}, TypeError, r"items of soft_target must be an int32 or .* got torch.float32"),
        ({"soft_target": (ITEMS, ITEMS)}, TypeError, r"mass of soft_target must be a floating-point .* torch.int64"),
        ({"soft_target": (ITEMS[0], MASS)}, ValueError, r"items of .* shape \[R, M\] with R = 4, got \[2\]"),
        ({"soft_target": (ITEMS[:3], MASS)}, ValueError, r"items of .* shape \[R, M\] with R = 4, got \[3, 2\]"),
        ({"soft_target": (ITEMS, MASS[:, :1])}, ValueError, r"\[4, 2\] or .* = \[4, 3, 2\], got \[4, 1\]"),
        ({"soft_target": (ITEMS, MASS[:, None])}, ValueError, r"\[4, 2\] or .* = \[4, 3, 2\], got \[4, 1, 2\]"),
        ({"soft_target": (ITEMS.to("meta"), MASS)}, ValueError, "the items of soft_target is on meta, hidden on cpu"),
        ({"soft_target": (ITEMS, MASS.to("meta"))}, ValueError, "the mass of soft_target is on meta, hidden on cpu"),
        ({"soft_target": (ITEMS + 10, MASS)}, IndexError, r"soft_target\[0, 0\] is 10, expected an item in \[0, 10\)"),
        ({"soft_target": (ITEMS - 2, MASS)}, IndexError, r"soft_target\[0, 0\] is -2, expected .* or -1 \(ignored\)"),
        ({"soft_target": (ITEMS, -MASS)}, ValueError, r"mass of .* finite and at least 0, got -1.0 at \[0, 0\]"),
        ({"soft_target": (ITEMS, MASS / 0)}, ValueError, r"mass of .* finite and at least 0, got inf at \[0, 0\]"),
        ({"soft_target": (ITEMS, MASS[:, None].expand(4, 3, 2) * NAN)}, ValueError, r"got nan at \[0, 0, 0\]"),
        ({"soft_target": (ITEMS, MASS.clone().requires_grad_())}, ValueError, "soft_target is not differentiated"),
        ({"soft_target": (ITEMS, MASS), "target": TARGET + 10}, IndexError, r"target\[0\] is 10, expected an item"),
    ],
)
@backends
def test_annealed_cross_entropy(backend: str, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with use_backend(backend), pytest.raises(error, match=f"annealed_cross_entropy: .*{message}"):
        annealed(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"temperature": [0.5, 0.5, 0.5]}, TypeError, "temperature must be a number, got list"),
        ({"temperature": torch.tensor(0.5)}, TypeError, "temperature must be a number, got torch.float32"),
        ({"kl_weight": float("inf")}, ValueError, "kl_weight must be finite, got inf"),
        ({"kl_weight": None}, TypeError, "kl_weight must be a number, got NoneType"),
        ({"kl_form": "mean"}, ValueError, "kl_form must be one of official, paper, got 'mean'"),
    ],
)
@backends
def test_ensemble_reasoning_loss(backend: str, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with use_backend(backend), pytest.raises(error, match=f"ensemble_reasoning_loss: {message}"):
        ensemble(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"noised": torch.zeros(4, 8)}, ValueError, r"noised must have shape \[R, T, d\], got \[4, 8\]"),
        ({"clean": torch.zeros(4, 2, 8)}, ValueError, r"clean must have noised's shape \[4, 3, 8\], got \[4, 2, 8\]"),
        ({"clean": [1.0]}, TypeError, r"clean must be a floating-point tensor \[R, T, d\], got list"),
        ({"row_group": TARGET[:2]}, ValueError, r"row_group must have shape \[R\] with R = 4, got \[2\]"),
        ({"row_group": TARGET.bool()}, TypeError, r"row_group must be an int32 or int64 tensor \[R\], got torch.bool"),
        ({"row_group": TARGET.to("meta")}, ValueError, "row_group is on meta, noised on cpu"),
        ({"temperature": -0.5}, ValueError, "temperature must be finite and above 0, got -0.5"),
        ({"reduction": None}, ValueError, "reduction must be one of mean, none, got None"),
        ({"first_key": 1}, ValueError, "clean must have a row for each of the 4 of noised from first_key 1 on, got 4"),
        ({"first_key": -1}, ValueError, "first_key must be at least 0, got -1"),
        ({"first_key": 0.0}, TypeError, "first_key must be an int, got float"),
        (
            {"first_key": 0, "clean": torch.zeros(9, 2, 8)},
            ValueError,
            r"clean must have shape \[J, 3, 8\], got \[9, 2, 8\]",
        ),
    ],
)
@backends
def test_reasoning_info_nce(backend: str, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with use_backend(backend), pytest.raises(error, match=f"reasoning_info_nce: {message}"):
        contrastive(**changes)


@pytest.mark.parametrize("arguments", [(0.0, 1.5, 2), (0.07, -1.0, 2), (float("nan"), 1.5, 2), (0.07, 1.5, -1)])
def test_annealed_temperatures(arguments: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="annealed_temperatures: "):
        annealed_temperatures(*arguments)


def test_a_temperature_that_overflows_is_found_where_it_is_used() -> None:
    with pytest.raises(ValueError, match="temperature must be finite and above 0"):
        annealed(temperature=annealed_temperatures(0.07, 1e300, 2))


@pytest.mark.skipif(native.C is None, reason="without compiled kernels there is no limit")
def test_ensemble_of_too_many_states_says_so() -> None:
    with pytest.raises(ValueError, match=r"hidden may have 64 states per row at most, got \[4, 65, 8\]"):
        ensemble(hidden=torch.zeros(4, 65, 8))


@pytest.mark.parametrize("loss", [annealed, ensemble, contrastive])
@pytest.mark.parametrize("backend", [each for each in ("reference", "cpu") if each in available_backends("cpu")])
def test_every_cpu_takes_bf16x3(backend: str, loss: Any) -> None:
    with use_backend(backend):
        torch.testing.assert_close(loss(precision="bf16x3"), loss(), rtol=1e-4, atol=1e-4)


sizes = st.lists(st.integers(0, 3), max_size=4)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])


@settings(max_examples=150, deadline=None)
@given(
    sizes, dtypes, sizes, dtypes, sizes, st.sampled_from([torch.int32, torch.int64, torch.float32]), st.integers(-2, 4)
)
@pytest.mark.filterwarnings("ignore:.*slower")
def test_any_shapes_and_dtypes_give_a_result_or_a_plain_error(
    hidden_size: list[int], hidden_dtype: torch.dtype, weight_size: list[int], weight_dtype: torch.dtype,
    target_size: list[int], target_dtype: torch.dtype, target_value: int,
) -> None:  # fmt: skip
    hidden = torch.ones(hidden_size, dtype=hidden_dtype)
    weight = torch.ones(weight_size, dtype=weight_dtype)
    target = torch.full(target_size, target_value, dtype=target_dtype)
    for loss in (annealed, ensemble):
        try:
            result = loss(hidden=hidden, weight=weight, target=target)
        except (TypeError, ValueError, IndexError) as error:
            assert any(name in str(error) for name in ("hidden", "weight", "target"))
        else:
            assert result.shape == ()
            assert hidden.dim() == 3 and weight.shape[1] == hidden.shape[2] and target.shape == hidden.shape[:1]
