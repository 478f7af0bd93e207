"""What three steps do besides computing: on a GPU, a call that goes the long way round takes longer than its kernel."""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rearec_kernels import PrefixRows, ReasoningCache, available_backends, cached_reason_attention, use_backend

STEPS = 3


class CountOps(TorchDispatchMode):
    """Counts the ops that reach a device; not those that a backend calls within one."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def train(leaves: list[Tensor], rows: PrefixRows) -> tuple[Tensor, ...]:
    """Three chained steps with [R, 1, H, D] each, and the gradients of everything."""
    prefix_k, prefix_v, hidden, *tokens = leaves
    cache = ReasoningCache.from_prefix(prefix_k, prefix_v, max_tokens=STEPS, rows=rows)
    for t in range(STEPS):
        hidden = cached_reason_attention(hidden, tokens[2 * t], tokens[2 * t + 1], cache)
    return torch.autograd.grad(hidden, leaves, torch.ones_like(hidden))


@pytest.fixture
def leaves() -> list[Tensor]:
    prefix = [torch.randn(2, 4, 2, 8, requires_grad=True) for _ in range(2)]
    return prefix + [torch.randn(2, 1, 2, 8, requires_grad=True) for _ in range(1 + 2 * STEPS)]


@pytest.fixture
def rows() -> PrefixRows:
    rows = PrefixRows()
    rows.index(2, 4, torch.device("cpu"))  # resolved once per batch, not per layer
    return rows


def test_ops_outside_the_backend(leaves: list[Tensor], rows: PrefixRows) -> None:
    with CountOps() as mode:
        train(leaves, rows)
    del mode.counts["aten.ones_like"]
    assert mode.counts == {
        "rearec.attention_open_prefix": 1,
        "aten.detach": 2,  # the prefix, kept for its shape
        "rearec.attention": STEPS,
        "rearec.attention_backward": STEPS,
        "rearec.attention_prefix_gradient": 1,
        "aten.add": STEPS * (STEPS - 1),  # autograd adds up each token's dK and dV of the later steps
    }


def test_no_generic_code_for_nested_arguments(leaves: list[Tensor], rows: PrefixRows) -> None:
    slow: Counter[str] = Counter()

    def record(frame: FrameType, event: str, _: Any) -> None:
        path = frame.f_code.co_filename.replace("\\", "/")
        if event == "call" and ("torch/_library/" in path or path.endswith("torch/utils/_pytree.py")):
            slow[f"{path}:{frame.f_code.co_name}"] += 1

    with use_backend(available_backends("cpu")[0]):
        train(leaves, rows)  # imports
        before = sys.getprofile()
        sys.setprofile(record)
        try:
            train(leaves, rows)
        finally:
            sys.setprofile(before)
    assert not slow
