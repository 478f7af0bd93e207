"""Copies of catalogues, layers, rows and caches: usable, and independent of what they were made from."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layer_stack import LayerStack
from torch import Tensor

from rearec_kernels import (
    PrefixRows,
    ReasoningCache,
    available_backends,
    cached_reason_attention,
    catalog_rank,
    catalog_topk,
    prepare_catalog,
    use_backend,
)

BACKENDS = [name for name in available_backends("cpu") if name != "triton"]
WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "twice": lambda x: pickle.loads(pickle.dumps(copy.deepcopy(x))),
}
APART = [name for name in WAYS if name != "copy"]


@pytest.mark.parametrize("written", [0, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_catalogue(backend: str, way: str, precision: str, written: int) -> None:
    torch.manual_seed(0)
    table, hidden = torch.randn(100, 8), torch.randn(3, 8)
    for _ in range(written):  # a table that was trained
        table.mul_(1.01)
    with use_backend(backend):
        catalog = prepare_catalog(table, precision)
        expected = catalog_topk(hidden, catalog, 5, precision=precision)
        copied = WAYS[way](catalog)
        for got, right in zip(catalog_topk(hidden, copied, 5, precision=precision), expected, strict=True):
            assert torch.equal(got, right)
        assert torch.equal(
            catalog_rank(hidden, copied, torch.arange(3), target_bonus=hidden[:, 0], precision=precision),
            catalog_rank(hidden, catalog, torch.arange(3), target_bonus=hidden[:, 0], precision=precision),
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_copy_of_a_catalogue_is_of_the_table_as_it_is(backend: str, way: str, precision: str) -> None:
    table, hidden = torch.randn(100, 8), torch.randn(3, 8)
    with use_backend(backend):
        catalog = prepare_catalog(table, precision)
        table.mul_(-1)
        copied = WAYS[way](catalog)
        expected = catalog_topk(hidden, table, 5, precision=precision)
        for got, right in zip(catalog_topk(hidden, copied, 5, precision=precision), expected, strict=True):
            assert torch.equal(got, right)


@pytest.mark.parametrize("way", APART)
def test_copies_of_a_catalogue_have_a_table_of_their_own(way: str) -> None:
    table, hidden = torch.randn(100, 8), torch.randn(3, 8)
    catalog = prepare_catalog(table, "bf16")
    expected = catalog_topk(hidden, catalog, 5, precision="bf16")[0]
    copied = WAYS[way](catalog)
    table.mul_(-1)
    catalog.refresh()
    copied.refresh()
    assert torch.equal(catalog_topk(hidden, copied, 5, precision="bf16")[0], expected)
    assert not torch.equal(catalog_topk(hidden, catalog, 5, precision="bf16")[0], expected)


def test_a_model_that_is_copied_with_its_catalogue_keeps_them_together() -> None:
    model = torch.nn.Embedding(20, 4)
    copied, catalog = copy.deepcopy((model, prepare_catalog(model.weight)))
    assert catalog.weight is copied.weight


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_layers(backend: str, way: str, used: bool) -> None:
    torch.manual_seed(0)
    problem = LayerStack.random(4).to(torch.float32)
    with use_backend(backend):
        layers = problem.prepared()
        expected = problem.states(2, problem.prepared())
        if used:
            problem.states(2, layers)
        copied = WAYS[way](layers)
        assert torch.equal(problem.states(2, copied), expected)
        if way == "copy":
            return
        problem.layers[0].inner_weight.mul_(2)
        layers.refresh()
        copied.refresh()
        assert torch.equal(problem.states(2, copied), expected)
        copied.layers[0].inner_weight.mul_(2)
        copied.refresh()
        assert torch.equal(problem.states(2, copied), problem.states(2, layers))


def rows() -> PrefixRows:
    return PrefixRows(torch.tensor([0, 2, 1]), torch.tensor([4, 5, 3]), torch.tensor([1, 0, 1]))


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_rows(way: str, used: bool) -> None:
    given = rows()
    if used:
        given.index(2, 5, torch.device("cpu"))
    copied = WAYS[way](given)
    for got, expected in zip(*(x.index(2, 5, torch.device("cpu")) for x in (copied, rows())), strict=True):
        assert torch.equal(got, expected)


def steps(cache: ReasoningCache, first: int, count: int) -> list[Tensor]:
    torch.manual_seed(first)
    return [cached_reason_attention(*torch.randn(3, 3, 2, 4), cache) for _ in range(count)]


@pytest.mark.parametrize("with_grad", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cache(backend: str, way: str, with_grad: bool) -> None:
    """A copy and what it was made from go on apart, as two caches that went the same way."""
    torch.manual_seed(0)
    k, v = torch.randn(2, 2, 5, 2, 4)
    k.requires_grad_(with_grad)

    def begun() -> ReasoningCache:
        cache = ReasoningCache.from_prefix(k, v, max_tokens=4, rows=rows())
        steps(cache, 1, 2)
        return cache

    with use_backend(backend), torch.set_grad_enabled(with_grad):
        original = begun()
        copied = WAYS[way](original)
        mixed = [steps(original, 2, 1)[0], steps(copied, 3, 1)[0], steps(original, 4, 1)[0], steps(copied, 5, 1)[0]]
        one, other = begun(), begun()
        apart = [steps(one, 2, 1)[0], steps(other, 3, 1)[0], steps(one, 4, 1)[0], steps(other, 5, 1)[0]]
        assert copied.length == original.length == 4
        for got, expected in zip(mixed, apart, strict=True):
            assert torch.equal(got, expected)
        if with_grad:  # each opens its prefix itself
            prefixes = [k, copied.prefix_k] if way != "copy" else [k]
            got = torch.autograd.grad(sum(x.square().sum() for x in mixed), prefixes)
            (expected,) = torch.autograd.grad(sum(x.square().sum() for x in apart), k)
            torch.testing.assert_close(sum(got), expected)


SPAWN = """
import multiprocessing, torch, rearec_kernels as rk

def work(catalog, layers, rows, cache, hidden, keys, q, answers):
    with torch.no_grad():
        states = rk.reasoning_rollout(hidden, layers, keys, keys, steps=2, rows=rows)
        top = rk.catalog_topk(hidden, catalog, 5, precision="bf16")[1]
        attended = rk.cached_reason_attention(q, q, q, cache)
    answers.put([x.tolist() for x in (states, top, attended)])

if __name__ == "__main__":
    from layer_stack import LayerStack
    problem = LayerStack.random(4).to(torch.float32)
    catalog, layers = rk.prepare_catalog(torch.randn(60, 16).mul_(2), "bf16"), problem.prepared()
    k, q = torch.randn(2, 4, 1, 8), torch.randn(2, 1, 8)
    with torch.no_grad():
        problem.states(2, layers)
        cache = rk.ReasoningCache.from_prefix(k, k, max_tokens=2)
        rk.cached_reason_attention(q, q, q, cache)
    context = multiprocessing.get_context("spawn")
    here, there = context.SimpleQueue(), context.SimpleQueue()
    given = (catalog, layers, problem.rows, cache, problem.hidden, problem.keys, q)
    child = context.Process(target=work, args=(*given, there))
    child.start()
    theirs = there.get()
    child.join()
    work(*given, here)
    assert child.exitcode == 0 and theirs == here.get()
    print("same")
"""


def test_all_of_them_in_a_spawned_process(tmp_path: Path) -> None:
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout.strip() == "same", done.stderr
