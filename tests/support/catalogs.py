"""Item tables [3000, 40] that are hard on error bounds, and states [20, 40] to ask them with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

INF, NAN = float("inf"), float("nan")


def _scaled(low: float, high: float) -> Tensor:
    return torch.randn(3000, 40) * 10 ** torch.empty(3000, 1).uniform_(low, high)


def _with_rows(rows: dict[int, float]) -> Tensor:
    weight = torch.randn(3000, 40)
    for row, value in rows.items():
        weight[row, row % 40] = value
    return weight


def wild_hidden() -> Tensor:
    hidden = torch.randn(20, 40)
    hidden[0], hidden[1, 3], hidden[2, 0], hidden[3], hidden[4] = NAN, INF, -INF, 1e30, 0
    hidden[5], hidden[6, 0], hidden[7] = 1e-42, NAN, 3e38
    return hidden


TABLES: dict[str, Callable[[], Tensor]] = {
    "gaussian": lambda: torch.randn(3000, 40),
    "clusters": lambda: torch.randn(30, 40).repeat(100, 1) + 1e-4 * torch.randn(3000, 40),
    "one direction": lambda: torch.randn(1, 40) * (1 + 1e-5 * torch.randn(3000, 1)),
    "common offset": lambda: 100 * torch.randn(1, 40) + torch.randn(3000, 40),
    "small differences": lambda: torch.randn(1, 40) + 1e-4 * torch.randn(3000, 40),
    "integers": lambda: torch.randint(-1, 2, (3000, 40)).float(),
    "all equal": lambda: torch.full((3000, 40), 0.3),
    "copies": lambda: torch.randn(100, 40).repeat(30, 1),
    "zeros": lambda: torch.zeros(3000, 40),
    "many scales": lambda: _scaled(-30, 15),
    "denormal": lambda: _scaled(-44, -37),
    "tiny": lambda: _scaled(-26, -24),
    "large": lambda: _scaled(16, 18),
    "overflowing": lambda: _scaled(30, 38),
    "one huge item": lambda: _with_rows({7: 1e15}),
    "a few wild items": lambda: _with_rows({7: 3e38, 8: -3e38, 100: INF, 101: -INF, 200: NAN, 2999: INF}),
    "infinite items": lambda: _with_rows({row: INF for row in range(0, 3000, 3)}),
    "NaN items": lambda: _with_rows({row: NAN for row in range(0, 3000, 2)}),
    "only NaN": lambda: torch.full((3000, 40), NAN),
}
