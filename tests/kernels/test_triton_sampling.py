"""catalog_topk in Triton over large catalogues, whose best scores a sample bounds: with that from small sizes on."""

from __future__ import annotations

import pytest
import torch
from backends import catalog_backends

from rearec_kernels import catalog_topk, triton_support, use_backend

if "triton" not in str(catalog_backends()):
    pytest.skip("Triton kernels do not run here", allow_module_level=True)

from rearec_kernels.triton import retrieval

assert triton_support.INSTALLED
pytestmark = [
    pytest.mark.usefixtures("tensors_on_device"),
    pytest.mark.triton_interpreter if triton_support.INTERPRETED else pytest.mark.gpu,
    pytest.mark.parametrize("backend", ["triton"]),
]


@pytest.fixture(autouse=True)
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_LEAST_SAMPLED", 8)


@pytest.mark.parametrize("excluded", ["nothing", "the first items", "the row's best"])
def test_the_sample_leaves_out_nothing(backend: str, excluded: str) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    hidden, weight = (torch.randint(-2, 3, (n, 4), generator=generator).float() for n in (40, 1600))  # many ties
    hidden[3], hidden[5] = float("nan"), 0.0
    exclude = None
    if excluded == "the first items":
        exclude = torch.arange(200)
    elif excluded == "the row's best":
        exclude = (torch.arange(41) * 9, (hidden @ weight.T).nan_to_num().topk(9).indices.flatten())
    with use_backend("reference"):
        expected = catalog_topk(hidden, weight, 7, exclude=exclude)
    with use_backend(backend):
        got = catalog_topk(hidden, weight, 7, exclude=exclude)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_the_best_may_all_be_in_the_sample(backend: str) -> None:
    weight = -torch.arange(1600.0)[:, None]
    with use_backend(backend):
        _, items = catalog_topk(torch.ones(2, 1), weight, 5)
    assert items.tolist() == [[0, 1, 2, 3, 4]] * 2
