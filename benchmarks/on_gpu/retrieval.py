"""Top-k and rank over a catalogue by several contenders, over rotating sets of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import naive
import torch
from torch import Tensor

from on_gpu.comparison import Calls, Results
from rearec_kernels import catalog_rank, catalog_topk, prepare_catalog


@dataclass(frozen=True)
class CatalogShape:
    """Rows R against items N, of width d."""

    rows: int
    items: int
    width: int
    precision: str

    @property
    def product_operations(self) -> int:
        return 2 * self.rows * self.items * self.width


class Inputs:
    """One set of inputs; the table is prepared for the precision beforehand, for everybody."""

    def __init__(self, shape: CatalogShape, device: torch.device, seed: int) -> None:
        self.shape = shape
        generator = torch.Generator(device).manual_seed(seed)
        self.hidden = torch.randn(shape.rows, shape.width, device=device, generator=generator)
        weight = torch.randn(shape.items, shape.width, device=device, generator=generator)
        self.catalog = prepare_catalog(weight, shape.precision)
        self.target = torch.randint(shape.items, (shape.rows,), device=device, generator=generator)

    @property
    def table(self) -> Tensor:
        """What the products read."""
        return self.catalog.read()[0]

    @cached_property
    def rows(self) -> Tensor:
        """`hidden` in the table's dtype."""
        return self.hidden.to(self.table.dtype)

    def scores_of(self, items: Tensor) -> Tensor:
        """In float32 [R, k], of the items [R, k]."""
        return torch.einsum("rd,rkd->rk", self.rows.float(), self.table[items].float())


def input_sets(shape: CatalogShape, device: torch.device, rotated_bytes: int) -> list[Inputs]:
    """So many that their tables are at least `rotated_bytes` together."""
    sets = [Inputs(shape, device, 0)]
    count = math.ceil(rotated_bytes / sets[0].table.nbytes)
    return sets + [Inputs(shape, device, seed) for seed in range(1, count)]


def topk(sets: Sequence[Inputs], k: int) -> dict[str, Calls]:
    precision = sets[0].shape.precision
    return {
        "ours": [partial(catalog_topk, s.hidden, s.catalog, k, precision=precision) for s in sets],
        "mm + topk": [partial(naive.topk, s.rows, s.table, k) for s in sets],
    }


def topk_compared(inputs: Inputs, results: Results) -> Results:
    """Scores, and the true scores of the items: the items themselves differ where scores nearly tie."""
    scores, items = results
    return [scores, inputs.scores_of(items)]


def rank(sets: Sequence[Inputs]) -> dict[str, Calls]:
    return {
        "ours": [partial(_rank, s) for s in sets],
        "mm + count": [partial(_naive_rank, s) for s in sets],
    }


def _rank(s: Inputs) -> Results:
    return [catalog_rank(s.hidden, s.catalog, s.target, precision=s.shape.precision)]


def _naive_rank(s: Inputs) -> Results:
    return [naive.rank(s.rows, s.table, s.target)]
