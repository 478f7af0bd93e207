"""Three reasoning steps over a prefix of 50 slots, H 2, D 128: forward, and forward + backward."""

from __future__ import annotations

from typing import Any

import careful
import naive
import pytest
import torch
from compare import compare
from torch import Tensor

from rearec_kernels import PrefixRows, ReasoningCache, cached_reason_attention

SLOTS, HEADS, WIDTH, STEPS = 50, 2, 128, 3


class Problem:
    def __init__(self, rows: int, lengths: str) -> None:
        torch.manual_seed(0)
        self.prefix = [torch.randn(rows, SLOTS, HEADS, WIDTH) for _ in range(2)]
        self.q, self.k, self.v = ([torch.randn(rows, HEADS, WIDTH) for _ in range(STEPS)] for _ in range(3))
        self.upstream = [torch.randn(rows, HEADS, WIDTH) for _ in range(STEPS)]
        ragged = lengths == "ragged"
        self.start = SLOTS - torch.randint(5, SLOTS + 1, (rows,)) if ragged else torch.zeros(rows, dtype=torch.int64)
        self.rows = PrefixRows(start=self.start.int())
        seen = torch.arange(SLOTS) >= self.start[:, None]
        self.additive_mask = torch.where(seen, 0.0, -1e4)[:, None, None]
        visible = torch.cat([seen, torch.ones(rows, STEPS, dtype=torch.bool)], 1)[:, None, None]
        self.visible = visible if ragged else None

    def ours(self, prefix: list[Tensor], q: list[Tensor], k: list[Tensor], v: list[Tensor]) -> list[Tensor]:
        cache = ReasoningCache.from_prefix(*prefix, max_tokens=STEPS, rows=self.rows)
        return [cached_reason_attention(*step, cache) for step in zip(q, k, v, strict=True)]

    def gradients(self, outputs: list[Tensor], leaves: list[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, leaves, self.upstream)


@pytest.mark.parametrize("lengths", ["full", "ragged"])
@pytest.mark.parametrize("rows", [32, 512, 2048])
def test_forward(rows: int, lengths: str, report: Any) -> None:
    p = Problem(rows, lengths)
    preallocated = careful.PreallocatedCache(*p.prefix, STEPS)

    def ours() -> list[Tensor]:
        return p.ours(p.prefix, p.q, p.k, p.v)

    contenders = {
        "ours": ours,
        "naive": lambda: naive.attention_steps(*p.prefix, p.additive_mask, p.q, p.k, p.v),
        "careful": lambda: preallocated.attention_steps(p.visible, p.q, p.k, p.v),
    }
    for who in ("naive", "careful"):
        torch.testing.assert_close(contenders[who](), ours(), rtol=1e-4, atol=1e-4)
    targets = {}
    if rows >= 512:
        careful_target = (1.1, 1.25) if lengths == "full" else (1.5, 2.0)
        targets = {("time", "naive"): (7.0, 14.0), ("time", "careful"): careful_target}
    name = f"attention forward, {STEPS} steps, R {rows}, {lengths} lengths"
    report(compare(name, contenders, targets=targets, seconds=3), ours)


@pytest.mark.parametrize("lengths", ["full", "ragged"])
@pytest.mark.parametrize("rows", [32, 512, 2048])
def test_forward_backward(rows: int, lengths: str, report: Any) -> None:
    p = Problem(rows, lengths)
    steps = [[x.clone().requires_grad_() for x in kind] for kind in (p.q, p.k, p.v)]
    slots_first = [x.clone().requires_grad_() for x in p.prefix]
    heads_first = [x.transpose(1, 2).contiguous().requires_grad_() for x in p.prefix]
    flat = [x for kind in steps for x in kind]

    def ours() -> tuple[Tensor, ...]:
        return p.gradients(p.ours(slots_first, *steps), [*slots_first, *flat])

    def with_naive() -> tuple[Tensor, ...]:
        outputs = naive.attention_steps(*slots_first, p.additive_mask, *steps)
        return p.gradients(outputs, [*slots_first, *flat])

    contenders = {
        "ours": ours,
        "naive": with_naive,
        "careful (SDPA)": lambda: p.gradients(
            careful.attention_steps_sdpa(*heads_first, p.visible, *steps), [*heads_first, *flat]
        ),
        "careful (split)": lambda: p.gradients(
            careful.attention_steps_split(*heads_first, p.visible, *steps), [*heads_first, *flat]
        ),
    }
    expected = ours()
    for who in ("naive", "careful (SDPA)", "careful (split)"):
        got = contenders[who]()
        torch.testing.assert_close(got[2:], expected[2:], rtol=1e-3, atol=1e-3)
        prefix = got[0] if who == "naive" else got[0].transpose(1, 2)
        torch.testing.assert_close(prefix, expected[0], rtol=1e-3, atol=1e-3)
    targets = {}
    if rows >= 512:
        targets = {("time", "naive"): (6.0, 9.0)}
        targets |= {("time", who): (4.0, 6.5) for who in ("careful (SDPA)", "careful (split)")}
    name = f"attention forward + backward, {STEPS} steps, R {rows}, {lengths} lengths"
    report(compare(name, contenders, targets=targets, seconds=3, least_runs=3), ours)
