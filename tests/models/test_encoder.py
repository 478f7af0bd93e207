"""The encoder and SASRec: a causal pass over right padded windows, states read where the rows stand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rearec.models import ReaRecConfig
from rearec.models.encoder import TransformerEncoder, WindowRows
from rearec.models.sasrec import SASRec

ITEMS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [8, 0, 0, 0, 0]])
LENGTHS = [5, 3, 1]


def sasrec(dtype: torch.dtype = torch.float64, **overrides: Any) -> SASRec:
    """A small backbone in evaluation mode, with weights large enough for attention to matter."""
    torch.manual_seed(0)
    model = SASRec(ReaRecConfig(num_items=10, dim=8, ffn=12, max_len=6, **overrides)).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return model


def all_rows(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """row_prefix and end of one row per real slot."""
    pairs = [(window, end) for window, length in enumerate(lengths) for end in range(1, length + 1)]
    row_prefix, end = torch.tensor(pairs, dtype=torch.int32).unbind(1)
    return row_prefix, end


def layer_norm(hidden: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = hidden - hidden.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt() * norm.weight + norm.bias


def independent_states(model: SASRec, history: Tensor) -> Tensor:
    """The last layer's states [n, d] of one history without padding, written out with an explicit mask."""
    n = len(history)
    hidden = layer_norm(model.item_embedding.weight[history] + model.position_embedding.weight[:n], model.input_norm)
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    for layer in model.encoder.layers:
        heads = [
            linear(hidden).view(n, layer.heads, -1).transpose(0, 1) for linear in (layer.query, layer.key, layer.value)
        ]
        q, k, v = heads
        scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(~causal, -math.inf)
        attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(n, -1)
        hidden = layer_norm(layer.output(attended) + hidden, layer.attention_norm)
        inner = layer.inner(hidden)
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        hidden = layer_norm(layer.outer(inner) + hidden, layer.feed_forward_norm)
    return hidden


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_states_equal_an_independent_computation_of_every_history(layers: int) -> None:
    model = sasrec(layers=layers)
    row_prefix, end = all_rows(LENGTHS)
    states = model.encode(ITEMS, row_prefix, end).states
    expected = [independent_states(model, ITEMS[window, :length]) for window, length in enumerate(LENGTHS)]
    torch.testing.assert_close(states, torch.cat(expected), rtol=1e-12, atol=1e-12)


def test_keys_and_values_of_every_layer_come_as_windows_slots_heads_width() -> None:
    prefix = sasrec(layers=3, heads=4).encode(ITEMS, *all_rows(LENGTHS))
    assert [key.shape for key in prefix.keys] == [value.shape for value in prefix.values] == [(3, 5, 4, 2)] * 3


def test_what_padding_slots_hold_changes_no_state() -> None:
    model = sasrec()
    row_prefix, end = all_rows(LENGTHS)
    padded_otherwise = ITEMS.clone()
    padded_otherwise[1, 3:], padded_otherwise[2, 1:] = 7, 5
    states = model.encode(ITEMS, row_prefix, end).states
    assert torch.equal(states, model.encode(padded_otherwise, row_prefix, end).states)


def test_rows_may_stand_anywhere_in_any_order() -> None:
    model = sasrec()
    row_prefix, end = all_rows(LENGTHS)
    every = model.encode(ITEMS, row_prefix, end).states
    chosen = torch.tensor([7, 0, 4, 4])
    states = model.encode(ITEMS, row_prefix[chosen], end[chosen]).states
    torch.testing.assert_close(states, every[chosen], rtol=1e-12, atol=1e-12)


def test_rows_gather_the_slot_where_they_stand() -> None:
    window, slot = (torch.tensor(x, dtype=torch.int32) for x in ([1, 0, 0], [1, 0, 2]))
    rows = WindowRows(window, slot + 1, slot)
    assert rows.gather(torch.arange(12.0).view(2, 3, 2)).tolist() == [[8, 9], [0, 1], [4, 5]]
    assert WindowRows(window, slot + 1, slot).window_lengths(3)[1:].tolist() == [2, 1]


def test_dropout_works_on_attention_sublayers_and_input_in_training_only() -> None:
    row_prefix, end = all_rows(LENGTHS)
    for overrides in ({"dropout": 0.5, "input_dropout": 0.0}, {"dropout": 0.0, "input_dropout": 0.5}):
        model = sasrec(**overrides)
        assert torch.equal(model.encode(ITEMS, row_prefix, end).states, model.encode(ITEMS, row_prefix, end).states)
        model.train()
        assert not torch.equal(model.encode(ITEMS, row_prefix, end).states, model.encode(ITEMS, row_prefix, end).states)


def test_attention_probabilities_are_dropped_in_the_prefix() -> None:
    model = sasrec(dropout=0.5, input_dropout=0.0, layers=1).train()
    for layer in model.encoder.layers:
        layer.dropout.p = 0.0  # leaves only the dropout on the probabilities
    row_prefix, end = all_rows(LENGTHS)
    assert not torch.equal(model.encode(ITEMS, row_prefix, end).states, model.encode(ITEMS, row_prefix, end).states)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5, 6, 7, 8], [4, 7, 8], [8, 0, 0, 3]])
def test_attention_with_dropout_is_that_without_where_nothing_is_dropped(rows: list[int]) -> None:
    """Training has a path of its own: slots one by one through the native kernel, projections in one product."""
    row_prefix, end = (x[rows] for x in all_rows(LENGTHS))
    upstream = torch.randn(len(rows), 8, dtype=torch.float64)
    results = []
    for dtype, dropout in ((torch.float64, 0.0), (torch.float32, 0.0), (torch.float32, 1e-12)):
        model = sasrec(dtype, layers=3, dropout=0.0, input_dropout=0.0).train()
        for layer in model.encoder.layers:
            layer.attention_dropout = dropout  # drops one in 2^32
        prefix = model.encode(ITEMS, row_prefix, end)
        loss = (prefix.states * upstream.to(dtype)).sum() + sum(x.square().mean() for x in prefix.keys + prefix.values)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        results.append([prefix.states.detach(), *gradients])
    for exact, without, with_dropout in zip(*results, strict=True):
        scale = exact.abs().max()
        error, plain = (((x.double() - exact).abs().max() / scale).item() for x in (with_dropout, without))
        assert error <= max(2 * plain, 2e-6)


def test_initialisation_is_that_of_bert() -> None:
    torch.manual_seed(0)
    model = SASRec(ReaRecConfig(num_items=500, dim=64, ffn=96))
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), name
            assert abs(module.weight.mean().item()) < 0.002, name
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all(), name
            assert module.eps == 1e-12
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            assert (module.bias == 0).all(), name


def test_the_item_table_has_one_row_per_item_and_is_tied() -> None:
    model = sasrec()
    assert model.weight is model.item_embedding.weight
    assert model.weight.shape == (10, 8)


@pytest.mark.parametrize("items", [torch.zeros(2, 7, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)])
def test_windows_that_do_not_fit_are_refused(items: Tensor) -> None:
    one = torch.ones(1, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"items: got shape .* expected \[windows, 1\.\.6 slots\]"):
        sasrec().encode(items, one, one)


@pytest.mark.parametrize("end", [0, 6])
def test_a_row_without_items_or_beyond_its_window_is_refused(end: int) -> None:
    row_prefix = torch.zeros(2, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"end: got values .*, expected 1\.\.5"):
        sasrec().encode(ITEMS, row_prefix, torch.tensor([3, end], dtype=torch.int32))


def test_rows_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError, match="row_prefix and end"):
        sasrec().encode(ITEMS, torch.zeros(2, dtype=torch.int32), torch.ones(3, dtype=torch.int32))


def test_a_missing_cache_is_an_error() -> None:
    encoder = TransformerEncoder(layers=2, dim=8, heads=2, ffn=12, dropout=0.0)
    with pytest.raises(ValueError, match="zip"):
        encoder.step(torch.zeros(1, 8), [])
