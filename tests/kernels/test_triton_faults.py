"""The tests of the Triton kernels see faults: each one planted in a copy of the kernels makes a comparison fail."""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from attention_problem import Problem, relative_error
from backends import catalog_backends
from torch import Tensor

from rearec_kernels import (
    annealed_cross_entropy,
    catalog_rank,
    catalog_topk,
    ensemble_reasoning_loss,
    reasoning_info_nce,
    triton_support,
    use_backend,
)

if not triton_support.INTERPRETED:
    pytest.skip("faults are planted in interpreted kernels", allow_module_level=True)
assert len(catalog_backends()) > 1
pytestmark = pytest.mark.triton_interpreter

Comparison = Callable[[], None]


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator)


def compare(call: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Value and gradients of a scalar, in float32 by Triton and in float64 by the reference."""
    results = []
    for backend, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        with use_backend(backend):
            loss = call(*leaves)
        results.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    for got, exact in zip(*results, strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))


def annealed() -> None:
    target = torch.arange(70) * 4 % 300
    target[7] = -100
    compare(lambda h, e: annealed_cross_entropy(h, e, target, temperature=[0.8, 0.4]), drawn(70, 2, 20), drawn(300, 20))


def annealed_rows() -> None:
    target = torch.arange(70) * 4 % 300
    compare(
        lambda h, e: (
            annealed_cross_entropy(h, e, target, temperature=[0.8, 0.4], reduction="none")
            * torch.arange(140.0).view(70, 2)
        ).sum(),
        drawn(70, 2, 20),
        drawn(300, 20),
    )


def soft() -> None:
    target = torch.arange(70)
    target[7] = -100
    items, mass = torch.arange(210).view(70, 3) * 4 % 300, torch.arange(1.0, 211).view(70, 3) / 100
    compare(
        lambda h, e: annealed_cross_entropy(h, e, target, temperature=[0.8, 0.4], soft_target=(items, mass)),
        drawn(70, 2, 20),
        drawn(300, 20),
    )


def ensemble(form: str) -> Comparison:
    target = torch.arange(40) * 5 % 150
    target[3] = -100
    return lambda: compare(
        lambda h, e: ensemble_reasoning_loss(h, e, target, temperature=0.5, kl_weight=0.4, kl_form=form).loss,
        drawn(40, 3, 20),
        drawn(150, 20),
    )


def contrastive() -> None:
    group = torch.arange(150) // 3
    compare(
        lambda u, v: reasoning_info_nce(u, v, temperature=0.5, row_group=group), drawn(150, 2, 20), drawn(150, 2, 20)
    )


def topk() -> None:
    hidden, weight = (x.round() for x in (drawn(40, 4), drawn(1500, 4)))  # many ties
    offsets = torch.arange(41) * 5
    barred = (hidden @ weight.T).topk(5).indices.flatten()
    results = []
    for backend in ("triton", "reference"):
        with use_backend(backend):
            results += [catalog_topk(hidden, weight, 9), catalog_topk(hidden, weight, 9, exclude=(offsets, barred))]
    for got, expected in zip(results[:2], results[2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def rank() -> None:
    hidden, weight, target = drawn(40, 4).round(), drawn(1500, 4).round(), torch.arange(40) * 30
    options = {"exclude": torch.arange(100), "target_bonus": drawn(40).round()}
    with use_backend("triton"):
        got = catalog_rank(hidden, weight, target, **options)
    with use_backend("reference"):
        assert torch.equal(got, catalog_rank(hidden, weight, target, **options))


def attention(dropout_p: float) -> Comparison:
    problem = Problem((2, 21, 2, 2, 1, 128, 2, 2))  # of more than one tile of keys

    def run() -> None:
        got = problem.results("triton", torch.float32, dropout_p)
        assert relative_error(got, problem.results("reference", torch.float64, dropout_p)) < 1e-5

    return run


attend, attend_with_dropout = attention(0.0), attention(0.3)

# By name: what is compared, the file of the kernels, what stands there and what is planted instead.
FAULTS: dict[str, tuple[Comparison, str, str, str]] = {
    "annealed: total not rescaled": (
        annealed, "softmax_kernels", "total = total * shrink + tl.sum(p, 1)", "total = total + tl.sum(p, 1)",
    ),
    "annealed: parts not rescaled": (
        annealed, "softmax_kernels", "share = power(tl.load(largest_ptr + out + row, mask=inside, other=NOWHERE), "
        "largest, scale)", "share = power(largest, largest, scale)",
    ),
    "annealed: the loss without the target's logit": (
        annealed, "softmax_kernels", "(largest - target_logit) * scale", "largest * scale",
    ),
    "annealed rows: table's gradient without the targets": (
        annealed_rows, "softmax_kernels", "tl.where(item[:, None] == target[None, :], p - 1.0, p)", "p",
    ),
    "soft: only rows with a target count": (
        soft, "softmax_kernels", "kept & (target != ignore_index)", "kept & (target >= 0)",
    ),
    "soft: the softmax without the first item": (
        soft, "softmax_kernels", "own = item[None, :] == target[:, None]",
        "own = item[None, :] == tl.maximum(target, 0)[:, None]",
    ),
    "contrastive: the row's group counts": (
        contrastive, "softmax_kernels", "z = tl.where(_same_group(", "z = tl.where(~_same_group(",
    ),
    "contrastive: the group's gradient": (
        contrastive, "softmax_kernels", "p = tl.where(_same_group(group_ptr, item, item_kept, target, inside), 0.0, p)",
        "p = p",
    ),
    "ensemble: states against their first": (
        ensemble("official"), "ensemble_kernels", "return STATES * relative - others", "return STATES * relative",
    ),
    "ensemble: spread not rescaled": (
        ensemble("official"), "ensemble_kernels", "spread[t] * shrink + tl.sum(p * u, 1)",
        "spread[t] + tl.sum(p * u, 1)",
    ),
    "ensemble, paper: the earlier states' part": (
        ensemble("paper"), "ensemble_kernels", "earlier += p", "earlier += 0 * p",
    ),
    "top-k: ties to the higher item": (
        topk, "retrieval_kernels", "(-item.to(tl.int64) + LOW_BITS)[None, :]", "item.to(tl.int64)[None, :]",
    ),
    "top-k: barred items come back": (
        topk, "retrieval_kernels", "scores = tl.where(item[None, :] == next_item[:, None], barred, scores)",
        "scores = scores",
    ),
    "rank: ties count nothing": (
        rank, "retrieval_kernels", "(scores >= own_score[:, None])", "(scores > own_score[:, None])",
    ),
    "rank: the bonus is left out": (
        rank, "retrieval_kernels", "own_score += tl.load(bonus_ptr", "own_score += 0.0 * tl.load(bonus_ptr",
    ),
    "rank: the target is its own rival": (
        rank, "retrieval_kernels", "kept[None, :] & (item[None, :] != target[:, None])", "kept[None, :]",
    ),
    "attention: output not rescaled": (
        attend, "attention_kernels", "out = out * shrink + tl.sum", "out = out + tl.sum",
    ),
    "attention: a token sees the next": (
        attend, "attention_kernels", "own = tokens - queries + query", "own = tokens - queries + query + 1",
    ),
    "attention: score gradients without their mean": (
        attend, "attention_kernels", "(dp - mean)", "dp",
    ),
    "attention: dropped probabilities in the tokens' gradient": (
        attend_with_dropout, "attention_kernels", "tl.where(p < 0, 0.0, p)[:, None]", "tl.abs(p)[:, None]",
    ),
    "dropout: another stream for every row": (
        attend_with_dropout, "attention_kernels", "tl.philox(seed, key, token, head, row)",
        "tl.philox(seed, key, token, row, head)",
    ),
}  # fmt: skip


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Replaces text in a copy of a file of kernels, and the kernels everywhere by the copy's."""

    def planted(file: str, old: str, new: str) -> None:
        package = importlib.import_module("rearec_kernels.triton")
        for each in pkgutil.iter_modules(package.__path__):  # all who use the kernels are there
            importlib.import_module(f"rearec_kernels.triton.{each.name}")
        original = sys.modules[f"rearec_kernels.triton.{file}"]
        text = Path(original.__file__ or "").read_text(encoding="utf-8")
        assert old in text, f"{file}.py has changed: {old}"
        path = tmp_path / f"{file}_with_fault.py"
        path.write_text(text.replace(old, new), encoding="utf-8")
        replace(original, load(path))

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def replace(original: ModuleType, copy: ModuleType) -> None:
        kernels = {id(x): getattr(copy, name) for name, x in vars(original).items() if hasattr(x, "arg_names")}
        users = [m for name, m in sys.modules.items() if m and name.startswith("rearec_kernels.triton.")]
        for user in users:
            for name, x in list(vars(user).items()):
                if id(x) in kernels:
                    monkeypatch.setattr(user, name, kernels[id(x)])

    return planted


@pytest.mark.parametrize("comparison", dict.fromkeys(fault[0] for fault in FAULTS.values()))
def test_comparisons_hold_without_a_fault(comparison: Comparison) -> None:
    comparison()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen(name: str, plant: Callable[[str, str, str], None]) -> None:
    comparison, file, old, new = FAULTS[name]
    plant(file, old, new)
    with pytest.raises(AssertionError):
        comparison()
