"""What all losses promise about memory: the logits or similarities of all rows are never there at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from backends import catalog_backends
from torch import Tensor

from rearec_kernels import annealed_cross_entropy, ensemble_reasoning_loss, reasoning_info_nce, use_backend

BACKENDS = catalog_backends()
pytestmark = pytest.mark.usefixtures("tensors_on_device")


def soft(target: Tensor) -> tuple[Tensor, Tensor]:
    items = target[:, None] // torch.arange(1, 12, device=target.device)
    return items, torch.full(items.shape, 1 / 11, device=target.device)


MEMORY_CASES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "annealed": lambda h, e, y: annealed_cross_entropy(h, e, y, temperature=0.5),
    "annealed_rows": lambda h, e, y: annealed_cross_entropy(h, e, y, temperature=0.5, reduction="none").sum(),
    "soft": lambda h, e, y: annealed_cross_entropy(h, e, y, temperature=0.5, soft_target=soft(y)),
    "soft_rows": lambda h, e, y: annealed_cross_entropy(
        h, e, y, temperature=0.5, soft_target=soft(y), reduction="none"
    ).sum(),
    "ensemble": lambda h, e, y: ensemble_reasoning_loss(h, e, y, temperature=0.5, kl_weight=0.1).loss,
    "ensemble_paper": lambda h, e, y: (
        ensemble_reasoning_loss(h, e, y, temperature=0.5, kl_weight=0.1, kl_form="paper").loss
    ),
}


@pytest.mark.parametrize("name", MEMORY_CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_logits_of_all_rows_are_never_in_memory(
    backend: str, name: str, largest_allocation: Callable[[Callable[[], object]], int]
) -> None:
    rows, steps, width, items = 150 if backend == "triton" else 500, 3, 16, 3000
    hidden, weight = torch.randn(rows, steps, width, requires_grad=True), torch.randn(items, width, requires_grad=True)
    target = torch.randint(0, items, (rows,))
    all_logits = 4 * rows * steps * items

    def materialised() -> None:
        (hidden @ weight.T).logsumexp(-1).sum().backward()

    def ours() -> None:
        with use_backend(backend):
            MEMORY_CASES[name](hidden, weight, target).backward()

    assert largest_allocation(materialised) >= all_logits
    assert largest_allocation(ours) < (all_logits / 6 if backend != "reference" else all_logits)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_similarities_of_all_rows_are_never_in_memory(
    backend: str, reduction: str, largest_allocation: Callable[[Callable[[], object]], int]
) -> None:
    rows, steps, width = 700 if backend == "triton" else 1500, 2, 16
    noised, clean = (torch.randn(rows, steps, width, requires_grad=True) for _ in range(2))

    def ours() -> None:
        with use_backend(backend):
            reasoning_info_nce(noised, clean, temperature=0.5, reduction=reduction).sum().backward()

    limit = 4 * rows * rows * steps
    assert largest_allocation(ours) < (limit / 6 if backend != "reference" else limit)
