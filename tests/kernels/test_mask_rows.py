"""Dropout of some rows of a larger call: to the bit what the larger call makes of these rows, whoever computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from backends import Backend
from torch import Tensor

from rearec_kernels import (
    MaskRows,
    PrefixRows,
    ReasoningCache,
    available_backends,
    cached_reason_attention,
    dropout_add_layer_norm,
    use_backend,
)
from rearec_kernels.reference.layer_norm import element_bits

LAYER_NORM_BACKENDS = [name for name in available_backends("cpu") if name in ("cpu", "reference")]
# With the number of runs. Some begin in the middle of a block of 128 elements, one begins a run with its last row.
PARTS = [
    (MaskRows(0, 5, 5), 1),
    (MaskRows(3, 4, 9), 1),
    (MaskRows(0, 4, 9), 2),
    (MaskRows(5, 2, 9), 2),
    (MaskRows(8, 1, 9), 2),
]


def numbers(part: MaskRows, runs: int) -> list[int]:
    """Of the part's rows among all rows."""
    return [run * part.of + part.first + i for run in range(runs) for i in range(part.rows)]


@pytest.mark.parametrize(("part", "runs"), PARTS)
def test_the_numbers_of_rows(part: MaskRows, runs: int) -> None:
    assert part.number(torch.arange(part.rows * runs)).tolist() == numbers(part, runs)
    assert [part.number(row) for row in range(part.rows * runs)] == numbers(part, runs)


def attended(tensors: list[Tensor], upstream: Tensor, seed: int | None, mask_rows: MaskRows | None) -> list[Tensor]:
    """Two steps, each row over a prefix of its own: outputs, all gradients, and outputs without gradients."""
    leaves = [x.clone().requires_grad_() for x in tensors]

    def steps() -> list[Tensor]:
        prefix_k, prefix_v, *tokens = leaves
        cache = ReasoningCache.from_prefix(prefix_k, prefix_v, max_tokens=2)
        return [
            cached_reason_attention(
                *(token[step] for token in tokens), cache, dropout_p=0.4, seed=seed, mask_rows=mask_rows
            )
            for step in range(2)
        ]

    outputs = torch.stack(steps())
    gradients = torch.autograd.grad(outputs, leaves, upstream)
    with torch.no_grad():
        return [outputs.detach(), torch.stack(steps()), *gradients]


@pytest.mark.parametrize(("part", "runs", "seed"), [*((*part, 7) for part in PARTS), (*PARTS[3], None)])
def test_attention(backend: Backend, part: MaskRows, runs: int, seed: int | None) -> None:
    torch.manual_seed(part.first)
    rows, heads, width = part.of * runs, 2, 8
    prefix = list(torch.randn(2, rows, 7, heads, width, device=backend.device))
    tokens = list(torch.randn(3, 2, rows, heads, width, device=backend.device))
    upstream = torch.randn(2, rows, heads, width, device=backend.device)
    own = torch.tensor(numbers(part, runs), device=backend.device)
    with use_backend(backend.name):
        torch.manual_seed(1)
        whole = attended([*prefix, *tokens], upstream, seed, None)
        torch.manual_seed(1)
        got = attended([*(x[own] for x in prefix), *(x[:, own] for x in tokens)], upstream[:, own], seed, part)
    for i, (a, b) in enumerate(zip(got, whole, strict=True)):
        expected = b[own] if i in (2, 3) else b[:, own]
        assert torch.equal(a, expected), i


def normalised(
    leaves: list[Tensor], upstream: Tensor, seed: int | None, mask_rows: MaskRows | None
) -> tuple[list[Tensor], list[Tensor]]:
    """The output and the gradients of x and the residual; the gradients of weight and bias."""
    leaves = [x.clone().requires_grad_() for x in leaves]
    out = dropout_add_layer_norm(*leaves, dropout_p=0.4, output_dropout_p=0.3, seed=seed, mask_rows=mask_rows)
    grad_x, grad_residual, *of_parameters = torch.autograd.grad(out, leaves, upstream)
    return [out.detach(), grad_x, grad_residual], of_parameters


@pytest.mark.parametrize("backend", LAYER_NORM_BACKENDS)
@pytest.mark.parametrize("seed", [7, None])
@pytest.mark.parametrize("width", [1, 64, 100, 130])
@pytest.mark.parametrize(("part", "runs"), PARTS)
def test_layer_norm(backend: str, width: int, part: MaskRows, runs: int, seed: int | None) -> None:
    torch.manual_seed(width)
    x, residual, upstream = torch.randn(3, part.of * runs, width)
    weight, bias = torch.randn(2, width)
    own = torch.tensor(numbers(part, runs))
    others = torch.ones(part.of * runs, dtype=torch.bool)
    others[own] = False
    upstream[others] = 0  # so that the parameters' gradients are sums over the own rows
    with use_backend(backend):
        torch.manual_seed(1)
        whole, of_parameters = normalised([x, residual, weight, bias], upstream, seed, None)
        state = torch.get_rng_state()
        torch.manual_seed(1)
        got, got_parameters = normalised([x[own], residual[own], weight, bias], upstream[own], seed, part)
    assert torch.equal(torch.get_rng_state(), state)  # processes that draw together go on together
    assert all(torch.equal(a, b[own]) for a, b in zip(got, whole, strict=True))
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(got_parameters, of_parameters, strict=True))


@pytest.mark.parametrize("backend", LAYER_NORM_BACKENDS)
def test_leading_dimensions_of_a_layer_norm_are_rows(backend: str) -> None:
    x, weight, bias = torch.randn(6, 5, 40), torch.ones(40), torch.zeros(40)
    with use_backend(backend):
        whole = dropout_add_layer_norm(x, None, weight, bias, dropout_p=0.5, seed=3)
        part = dropout_add_layer_norm(x[2:4], None, weight, bias, dropout_p=0.5, seed=3, mask_rows=MaskRows(10, 10, 30))
        none = dropout_add_layer_norm(x[:0], None, weight, bias, dropout_p=0.5, seed=3, mask_rows=MaskRows(10, 10, 30))
    assert torch.equal(part, whole[2:4])
    assert none.shape == (0, 5, 40)


@pytest.mark.parametrize("backend", LAYER_NORM_BACKENDS)
def test_numbers_of_layer_norm_beyond_32_bits(backend: str) -> None:
    part, width = MaskRows(2**31 - 9, 3, 2**31 - 1), 130
    with use_backend(backend):
        out = dropout_add_layer_norm(
            torch.ones(6, width), None, torch.zeros(width), torch.ones(width), output_dropout_p=0.5, seed=5,
            mask_rows=part,
        )  # fmt: skip
    for row, number in enumerate(numbers(part, 2)):
        bits = element_bits(torch.tensor([5]), 1, width, number * width)
        assert torch.equal(out[row] == 0, bits < 2**15)


def test_bits_from_the_middle_on_are_those_of_all() -> None:
    every = element_bits(torch.tensor([3]), 1, 1000)
    for first, count in ((0, 1000), (1, 5), (127, 2), (128, 128), (300, 0), (999, 1)):
        assert torch.equal(element_bits(torch.tensor([3]), 1, count, first), every[first : first + count])


@pytest.mark.parametrize("call", ["attention", "layer norm"])
@pytest.mark.parametrize(
    ("mask_rows", "error", "got"),
    [
        ((0, 1, 2), TypeError, "mask_rows must be a MaskRows, got tuple"),
        (MaskRows(0.5, 1, 2), TypeError, "mask_rows.first must be an int, got float"),  # type: ignore[arg-type]
        (MaskRows(-1, 1, 2), ValueError, r"got MaskRows\(first=-1, rows=1, of=2\)"),
        (MaskRows(0, 0, 2), ValueError, r"got MaskRows\(first=0, rows=0, of=2\)"),
        (MaskRows(1, 2, 2), ValueError, r"first \+ rows <= of < 2\^31, got MaskRows\(first=1, rows=2, of=2\)"),
        (MaskRows(0, 1, 2**31), ValueError, r"of < 2\^31, got MaskRows\(first=0, rows=1, of=2147483648\)"),
    ],
)
def test_wrong_rows_are_named(call: str, mask_rows: Any, error: type[Exception], got: str) -> None:
    def attention() -> None:
        x = torch.zeros(2, 1, 4)
        cache = ReasoningCache.from_prefix(x[:, None], x[:, None], max_tokens=1, rows=PrefixRows())
        cached_reason_attention(x, x, x, cache, mask_rows=mask_rows)

    def layer_norm() -> None:
        dropout_add_layer_norm(torch.zeros(2, 3), None, torch.ones(3), torch.ones(3), mask_rows=mask_rows)

    calls: dict[str, Callable[[], None]] = {"attention": attention, "layer norm": layer_norm}
    with pytest.raises(error, match=got) as raised:
        calls[call]()
    assert "\n" not in str(raised.value)
