"""Top-20 and rank over the catalogue, d = 256."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pytest
import torch
from contenders import careful, naive
from measure.compare import Target
from measure.contest import Contest
from torch import Tensor

from rearec_kernels import catalog_rank, catalog_topk, prepare_catalog

K = 20
# Largest distance to ours, as a part of it: some ways round operands of products as others do not.
AGREEMENT = {"fp32": 1e-4, "bf16": 2e-2}
OPERATION_RATE = 8e14  # per second: no product on a GPU is faster, which tells how many calls a replay needs


@dataclass(frozen=True)
class Case:
    """Rows R against items N of width d; what is promised."""

    device: str
    rows: int
    items: int
    targets: Sequence[Target] = ()
    precision: str = "fp32"
    width: int = 256

    @property
    def name(self) -> str:
        return f"R {self.rows}, N {self.items}, d {self.width}" + (", bf16" if self.precision == "bf16" else "")

    @property
    def call_seconds(self) -> float:
        return 2 * self.rows * self.items * self.width / OPERATION_RATE


def _cpu(rows: int, items: int, aim: float | None = None) -> Case:
    return Case("cpu", rows, items, [Target("naive", 3.0, aim)] if aim else [])


TOPK = [
    *(_cpu(rows, 22_933) for rows in (1, 32, 256)),
    *(_cpu(1, 87_969), _cpu(32, 87_969, 6.0), _cpu(256, 87_969, 8.0)),
    *(_cpu(1, 1_000_000), _cpu(32, 1_000_000, 6.0), _cpu(256, 1_000_000, 14.0)),
    *(Case("cuda", 256, 1_000_000, [Target("naive", 3.0, 8.0)], precision) for precision in ("bf16", "fp32")),
]
RANK = [
    *(Case("cpu", rows, 22_933) for rows in (256, 1024)),
    *(Case("cuda", 1024, 87_969, (), precision) for precision in ("bf16", "fp32")),
]


class Inputs:
    """One set of inputs; on a GPU in bfloat16 for the others too, where ours reads the table so."""

    def __init__(self, case: Case, device: torch.device, seed: int) -> None:
        generator = torch.Generator(device).manual_seed(seed)

        def random(*size: int) -> Tensor:
            return torch.randn(size, device=device, generator=generator)

        self.case = case
        self.hidden, self.weight = random(case.rows, case.width), random(case.items, case.width)
        self.catalog = prepare_catalog(self.weight, case.precision)
        self.target = torch.randint(case.items, (case.rows,), device=device, generator=generator)
        dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
        self.rows, self.table = self.hidden.to(dtype), self.weight.to(dtype)

    @cached_property
    def scores(self) -> careful.PreallocatedScores:
        return careful.PreallocatedScores(self.case.rows, self.case.items, self.hidden.device, self.rows.dtype)

    @property
    def table_bytes(self) -> int:
        return self.table.nbytes

    def true_scores(self, result: tuple[Tensor, Tensor]) -> list[Tensor]:
        """The scores, and the true ones of the items: the items themselves differ where scores nearly tie."""
        scores, items = result
        return [scores, torch.einsum("rd,rkd->rk", self.rows.float(), self.table[items].float())]


def _contest(
    contest: Contest, case: Case, what: str, contenders: Callable[[Inputs], dict[str, Any]], **how: Any
) -> None:
    """The contenders over as many sets of inputs as it takes, in the backend whose kernels are measured."""
    case = contest.size(case)
    sets = contest.sets(partial(Inputs, case, contest.device), lambda s: s.table_bytes)
    each = [contenders(s) for s in sets]
    if what.startswith("top"):
        how["compared"] = sets[0].true_scores
    with torch.no_grad(), contest.backend("triton"):
        contest(
            f"{what}, {case.name}",
            {who: [calls[who] for calls in each] for who in each[0]},
            bound=AGREEMENT[case.precision],
            targets=case.targets,
            call_seconds=case.call_seconds,
            **how,
        )


@pytest.mark.parametrize("case", TOPK, ids=lambda case: f"{case.device}, {case.name}")
def test_topk(case: Case, contest: Contest) -> None:
    def contenders(s: Inputs) -> dict[str, Any]:
        return {
            "ours": partial(catalog_topk, s.hidden, s.catalog, K, precision=case.precision),
            "ours, not prepared": partial(catalog_topk, s.hidden, s.weight, K, precision=case.precision),
            "naive": partial(naive.topk, s.rows, s.table, K),
            "careful (buffer)": partial(s.scores.topk, s.rows, s.table, K),
        }

    _contest(contest, case, f"top-{K}", contenders, seconds=3, least_runs=3)


@pytest.mark.parametrize("case", RANK, ids=lambda case: f"{case.device}, {case.name}")
def test_rank(case: Case, contest: Contest) -> None:
    def contenders(s: Inputs) -> dict[str, Any]:
        return {
            "ours": partial(catalog_rank, s.hidden, s.catalog, s.target, precision=case.precision),
            "ours, not prepared": partial(catalog_rank, s.hidden, s.weight, s.target, precision=case.precision),
            "naive": partial(naive.rank, s.rows, s.table, s.target),
            "careful (buffer)": partial(s.scores.rank, s.rows, s.table, s.target),
        }

    _contest(contest, case, "rank of the target", contenders, compared=lambda ranks: [ranks], seconds=3)
