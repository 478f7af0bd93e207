"""What retrieval says to arguments it cannot use: which one it is, what was got and what is needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rearec_kernels import available_backends, catalog_rank, catalog_topk, prepare_catalog, use_backend

HIDDEN, WEIGHT, TARGET = torch.zeros(4, 8), torch.zeros(10, 8), torch.zeros(4, dtype=torch.int64)
backends = pytest.mark.parametrize("backend", available_backends("cpu"))


def topk(**changes: Any) -> object:
    return catalog_topk(**{"hidden": HIDDEN, "weight": WEIGHT, "k": 3, **changes})


def rank(**changes: Any) -> object:
    return catalog_rank(**{"hidden": HIDDEN, "weight": WEIGHT, "target": TARGET, **changes})


def pair(*values: int, items: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(values), torch.zeros(items, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hidden": HIDDEN[None]}, ValueError, r"hidden must have shape \[R, d\], got \[1, 4, 8\]"),
        ({"hidden": HIDDEN.int()}, TypeError, r"hidden must be a floating-point tensor \[R, d\], got torch.int32"),
        ({"weight": WEIGHT[0]}, ValueError, r"weight must have shape \[N, d\], got \[8\]"),
        ({"weight": WEIGHT[:0]}, ValueError, r"weight must have at least one item, got \[0, 8\]"),
        ({"weight": WEIGHT[:, :5]}, ValueError, r"weight must have shape \[N, d\] with hidden's d = 8, got \[10, 5\]"),
        ({"weight": prepare_catalog(WEIGHT[:, :5])}, ValueError, r"weight must have .* d = 8, got \[10, 5\]"),
        ({"weight": WEIGHT.to("meta")}, ValueError, "weight is on meta, hidden on cpu"),
        ({"exclude": torch.tensor([3, 10])}, IndexError, r"exclude\[1\] is 10, expected an item in \[0, 10\)"),
        ({"exclude": torch.tensor([-1])}, IndexError, r"exclude\[0\] is -1, expected an item in \[0, 10\)"),
        ({"exclude": torch.tensor([0.5])}, TypeError, r"exclude must be .* got torch.float32 \[1\] for its items"),
        (
            {"exclude": torch.zeros(4, 2).long()},
            TypeError,
            r"exclude must be .* got torch.int64 \[4, 2\] for its items",
        ),
        ({"exclude": [1, 2]}, TypeError, "exclude must be .* got list"),
        ({"exclude": ([0], torch.tensor([1]))}, TypeError, "exclude must be .* got list for its offsets"),
        ({"exclude": (torch.tensor([0]), torch.tensor([1]), 2)}, TypeError, "exclude must be .* got tuple"),
        ({"exclude": pair(0, 4)}, ValueError, r"offsets of exclude must have shape \[R \+ 1\] = \[5\], got \[2\]"),
        ({"exclude": pair(0, 1, 2, 3, 3)}, ValueError, "must rise from 0 to its number of items 4, got 0 .. 3"),
        ({"exclude": pair(1, 1, 2, 3, 4)}, ValueError, "must rise from 0 to its number of items 4, got 1 .. 4"),
        ({"exclude": pair(0, 3, 2, 3, 4)}, ValueError, "got 0 .. 4 with a decrease"),
    ],
)
@pytest.mark.parametrize("call", [topk, rank])
@backends
def test_both(backend: str, call: Any, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    name = "catalog_topk" if call is topk else "catalog_rank"
    with use_backend(backend), pytest.raises(error, match=f"{name}: .*{message}"):
        call(**changes)


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (0, ValueError, "k must be at least 1, got 0"),
        (2**63, ValueError, "k must fit into a signed 64-bit integer, got 9223372036854775808"),
        (2.5, TypeError, "k must be an int, got float"),
        (True, TypeError, "k must be an int, got bool"),
    ],
)
def test_k(k: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"catalog_topk: {message}"):
        topk(k=k)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (TARGET[:2], ValueError, r"target must have shape \[R\] with R = 4, got \[2\]"),
        (TARGET.float(), TypeError, "target must be an int32 or int64 tensor"),
        (torch.tensor([0, 1, 2, 10]), IndexError, r"target\[3\] is 10, expected an item in \[0, 10\)"),
        (torch.tensor([0, -100, 2, 1]), IndexError, r"target\[1\] is -100, expected an item in \[0, 10\)"),
        (TARGET.to("meta"), ValueError, "target is on meta, hidden on cpu"),
    ],
)
@backends
def test_target(backend: str, target: torch.Tensor, error: type[Exception], message: str) -> None:
    with use_backend(backend), pytest.raises(error, match=f"catalog_rank: {message}"):
        rank(target=target)


@pytest.mark.parametrize(
    ("bonus", "error", "message"),
    [
        (TARGET, TypeError, r"target_bonus must be a floating-point tensor \[R\], got torch.int64 \[4\]"),
        (0.5, TypeError, r"target_bonus must be a floating-point tensor \[R\], got float"),
        (torch.zeros(4, 1), ValueError, r"target_bonus must have shape \[R\], got \[4, 1\]"),
        (torch.zeros(3), ValueError, r"target_bonus must have shape \[4\], got \[3\]"),
        (torch.tensor([0, 0, float("inf"), 0]), ValueError, r"target_bonus must be finite, got inf at \[2\]"),
        (torch.full((4,), float("nan")), ValueError, r"target_bonus must be finite, got nan at \[0\]"),
        (torch.zeros(4, device="meta"), ValueError, "target_bonus is on meta, hidden on cpu"),
    ],
)
@backends
def test_target_bonus(backend: str, bonus: Any, error: type[Exception], message: str) -> None:
    with use_backend(backend), pytest.raises(error, match=f"catalog_rank: {message}"):
        rank(target_bonus=bonus)


def test_prepare_catalog() -> None:
    with pytest.raises(ValueError, match=r"prepare_catalog: weight must have shape \[N, d\], got \[8\]"):
        prepare_catalog(WEIGHT[0])
    with pytest.raises(TypeError, match="prepare_catalog: weight must be a floating-point tensor"):
        prepare_catalog(WEIGHT.int())
    with pytest.raises(ValueError, match="prepare_catalog: precision must be one of"):
        prepare_catalog(WEIGHT, "fp8")
