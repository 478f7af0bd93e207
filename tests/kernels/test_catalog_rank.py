"""catalog_rank: against counting over all scores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from backends import catalog_backends
from torch import Tensor
from torch.library import opcheck

from rearec_kernels import catalog_rank, catalog_topk, prepare_catalog, use_backend

BACKENDS = catalog_backends()
pytestmark = pytest.mark.usefixtures("tensors_on_device")
# rows R, width d, items N
SHAPES = [(1, 1, 1), (1, 16, 17), (2, 7, 33), (8, 20, 700), (9, 5, 200), (40, 32, 3000), (333, 16, 1001)]
backends = pytest.mark.parametrize("backend", BACKENDS)


def problem(shape: tuple[int, int, int], integers: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Random states, items and targets; with small integers every score is exact and ties are many."""
    rows, width, items = shape
    generator = torch.Generator(torch.get_default_device()).manual_seed(rows + items)
    if integers:
        hidden, weight = (torch.randint(-2, 3, (n, width), generator=generator).float() for n in (rows, items))
    else:
        hidden, weight = (torch.randn(n, width, generator=generator) for n in (rows, items))
    return hidden, weight, torch.randint(0, items, (rows,), generator=generator)


def counted(scores: Tensor, target: Tensor, excluded: Tensor | None = None, bonus: Tensor | None = None) -> Tensor:
    own = scores.gather(1, target[:, None])
    if bonus is not None:
        own = own + bonus[:, None]
    rival = torch.ones_like(scores, dtype=torch.bool) if excluded is None else ~excluded
    rival = rival.scatter(1, target[:, None], False)
    return ((scores > own) & rival).sum(1) + ((scores == own) & rival).sum(1) / 2


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few scores at a time that a small catalogue is many blocks of many rows, the last overlapping."""
    if "cpu" in BACKENDS:
        from rearec_kernels.cpu import chunks, retrieval

        monkeypatch.setattr(retrieval, "_RANK_SCORES", 64 * 97)
        monkeypatch.setattr(retrieval, "_TOPK_SCORES", 64 * 97)
        monkeypatch.setattr(chunks, "WHOLE_MATRIX", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@backends
def test_counts_what_scores_higher_and_half_of_the_ties(
    backend: str, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    hidden, weight, target = problem(shape)
    with use_backend(backend):
        ranks = catalog_rank(hidden.to(dtype), weight.to(dtype), target)
    assert ranks.dtype == torch.float32
    assert torch.equal(ranks, counted(hidden @ weight.T, target))


@pytest.mark.parametrize("shape", SHAPES)
@backends
@pytest.mark.usefixtures("small_blocks")
def test_counts_are_the_same_over_many_blocks(backend: str, shape: tuple[int, int, int]) -> None:
    hidden, weight, target = problem(shape)
    scores = hidden @ weight.T
    per_row = torch.arange(shape[0]) % 5
    offsets = torch.nn.functional.pad(per_row.cumsum(0), (1, 0))
    items = torch.randint(0, shape[2], (int(offsets[-1]),))
    excluded = torch.zeros_like(scores, dtype=torch.bool)
    excluded[torch.repeat_interleave(per_row), items] = True
    with use_backend(backend):
        assert torch.equal(catalog_rank(hidden, weight, target), counted(scores, target))
        ranks = catalog_rank(hidden, weight, target, exclude=(offsets, items))
        assert torch.equal(ranks, counted(scores, target, excluded))
        k = min(20, shape[2])
        best = scores.sort(dim=1, descending=True, stable=True)
        assert torch.equal(catalog_topk(hidden, weight, k)[1], best.indices[:, :k])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
@backends
@pytest.mark.usefixtures("small_blocks")
def test_ranks_are_right_but_for_near_ties(backend: str, shape: tuple[int, int, int], precision: str) -> None:
    hidden, weight, target = problem(shape, integers=False)
    with use_backend(backend):
        ranks = catalog_rank(hidden, weight, target, precision=precision)
    h, e = ((x.bfloat16() if precision == "bf16" else x).double() for x in (hidden, weight))
    scores = h @ e.T
    margin = 2e-6 * (h.abs() @ e.abs().T).amax(1)
    own = scores.gather(1, target[:, None]).squeeze(1)
    surely_above = (scores > (own + margin)[:, None]).sum(1)
    maybe_above = (scores >= (own - margin)[:, None]).sum(1) - 1
    assert ((ranks >= surely_above) & (ranks <= maybe_above)).all()
    assert (ranks == surely_above).float().mean() > 0.9


def product_is_even(hidden: Tensor, weight: Tensor) -> bool:
    """Whether equal items get equal scores from torch's matrix product on this machine, however many rows it is of."""
    products = (hidden[:rows] @ weight.T for rows in {*range(1, min(len(hidden), 32) + 1), len(hidden)})
    return all(bool((scores == scores[:, :1]).all()) for scores in products)


@pytest.mark.parametrize("rows", [1, 7, 300])
@backends
@pytest.mark.usefixtures("small_blocks")
def test_identical_items_tie_wherever_they_are(backend: str, rows: int) -> None:
    torch.manual_seed(0)
    vector, hidden = torch.randn(1, 24), torch.randn(rows, 24)
    weight = vector.repeat(1003, 1)
    target = torch.randint(0, 1003, (rows,))
    with use_backend(backend):
        tie = catalog_rank(hidden, weight, target).eq(1002 / 2).all()
    if not tie and backend in ("cpu", "reference") and not product_is_even(hidden, weight):
        pytest.skip("the library's matrix product gives equal items unequal scores on this processor")
    assert tie


@pytest.mark.parametrize("shape", SHAPES)
@backends
def test_excluded_items_do_not_count_and_the_target_always_does(backend: str, shape: tuple[int, int, int]) -> None:
    hidden, weight, target = problem(shape)
    scores = hidden @ weight.T
    rows, items_count = scores.shape
    generator = torch.Generator(torch.get_default_device()).manual_seed(1)
    for_all = torch.randint(0, items_count, (items_count // 3 + 2,), generator=generator, dtype=torch.int32)
    excluded = torch.zeros_like(scores, dtype=torch.bool)
    excluded[:, for_all.long()] = True
    # Every row bars its own target, twice, and two more items.
    offsets = torch.arange(rows + 1) * 4
    items = torch.stack([target, target, *torch.randint(0, items_count, (2, rows), generator=generator)], 1).flatten()
    excluded_per_row = torch.zeros_like(excluded).scatter(1, items.view(rows, 4), True)
    with use_backend(backend):
        assert torch.equal(catalog_rank(hidden, weight, target, exclude=for_all), counted(scores, target, excluded))
        got = catalog_rank(hidden, weight, target, exclude=(offsets, items))
        assert torch.equal(got, counted(scores, target, excluded_per_row))
        assert not catalog_rank(hidden, weight, target, exclude=torch.arange(items_count)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@backends
@pytest.mark.usefixtures("small_blocks")
def test_a_bonus_is_added_to_the_targets_score_alone(
    backend: str, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    hidden, weight, target = problem(shape)
    scores = (hidden.double() @ weight.double().T).float()
    generator = torch.Generator(torch.get_default_device()).manual_seed(2)
    bonus = torch.randint(-6, 7, (shape[0],), generator=generator) / 2  # ties and, with halves, none
    items = torch.randint(0, shape[2], (shape[0], 2), generator=generator)
    excluded = torch.zeros_like(scores, dtype=torch.bool).scatter(1, items, True)
    exclude = torch.arange(shape[0] + 1) * 2, items.flatten()
    strided = torch.stack([bonus.to(dtype)] * 2, 1)[:, 0]
    with use_backend(backend):
        got = catalog_rank(hidden, weight, target, target_bonus=strided)
        assert torch.equal(got, counted(scores, target, bonus=bonus))
        got = catalog_rank(hidden, weight, target, target_bonus=bonus.to(dtype), exclude=exclude)
        assert torch.equal(got, counted(scores, target, excluded, bonus))
        for height, rank in ((1e4, 0), (-1e4, shape[2] - 1)):
            far = torch.full((shape[0],), height, dtype=dtype)
            assert (catalog_rank(hidden, weight, target, target_bonus=far) == rank).all()
        zero = torch.zeros(shape[0], dtype=dtype)
        assert torch.equal(catalog_rank(hidden, weight, target, target_bonus=zero), counted(scores, target))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@backends
def test_with_a_bonus_ranks_are_right_but_for_near_ties(backend: str, precision: str) -> None:
    hidden, weight, target = problem((40, 32, 3000), integers=False)
    bonus = torch.linspace(-9, 9, 40)
    with use_backend(backend):
        ranks = catalog_rank(hidden, weight, target, target_bonus=bonus, precision=precision)
    h, e = ((x.bfloat16() if precision == "bf16" else x).double() for x in (hidden, weight))
    scores = h @ e.T
    own = scores.gather(1, target[:, None]).squeeze(1) + bonus.double()
    margin = 2e-6 * ((h.abs() @ e.abs().T).amax(1) + bonus.abs())
    others = scores.scatter(1, target[:, None], float("-inf"))
    assert (ranks >= (others > (own + margin)[:, None]).sum(1)).all()
    assert (ranks <= (others >= (own - margin)[:, None]).sum(1)).all()
    assert (ranks != counted(scores, target)).float().mean() > 0.5


@backends
def test_rank_is_the_place_in_the_top_k(backend: str) -> None:
    hidden, weight, _ = problem((20, 16, 400), integers=False)
    with use_backend(backend):
        _, items = catalog_topk(hidden, weight, 30)
        for place in (0, 7, 29):
            assert torch.equal(catalog_rank(hidden, weight, items[:, place]), torch.full((20,), float(place)))


@backends
def test_nan_in_the_targets_score_is_nan_and_elsewhere_does_not_count(backend: str) -> None:
    hidden, weight, target = problem((30, 8, 300))
    spoiled = hidden.clone()
    spoiled[4] = float("nan")
    others = torch.arange(30) != 4
    expected = counted(hidden @ weight.T, target)
    with use_backend(backend):
        ranks = catalog_rank(spoiled, weight, target)
        assert ranks[4].isnan() and torch.equal(ranks[others], expected[others])
        spoiled_weight = weight.clone()
        spoiled_weight[9] = float("nan")
        safe = torch.where(target == 9, 10, target)
        expected = counted((hidden @ weight.T).index_fill(1, torch.tensor([9]), float("-inf")), safe)
        assert torch.equal(catalog_rank(hidden, spoiled_weight, safe), expected)


@backends
def test_no_rows(backend: str) -> None:
    with use_backend(backend):
        assert catalog_rank(torch.empty(0, 4), torch.randn(9, 4), torch.empty(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@backends
def test_prepared_catalogue_strides_and_int32_targets_change_nothing(backend: str, precision: str) -> None:
    hidden, weight, target = problem((40, 8, 500))
    strided = (hidden.t().contiguous().t(), weight.t().contiguous().t(), target.to(torch.int32))
    with use_backend(backend):
        expected = catalog_rank(hidden, weight, target, precision=precision)
        assert torch.equal(catalog_rank(*strided, precision=precision), expected)
        catalog = prepare_catalog(weight, precision)
        assert torch.equal(catalog_rank(hidden, catalog, target, precision=precision), expected)


@backends
def test_same_bits_every_time_and_for_every_number_of_threads(backend: str, set_threads: Callable[[int], None]) -> None:
    hidden, weight, target = problem((100, 16, 2000))
    with use_backend(backend):
        for threads in (1, 2):
            set_threads(threads)
            for _ in range(2):
                assert torch.equal(catalog_rank(hidden, weight, target), counted(hidden @ weight.T, target))


@backends
def test_the_scores_of_all_rows_are_never_in_memory(
    backend: str, largest_allocation: Callable[[Callable[[], object]], int]
) -> None:
    hidden, weight, target = problem((700, 8, 20_000))

    def ours() -> None:
        with use_backend(backend):
            catalog_rank(hidden, weight, target)

    assert largest_allocation(ours) < 4 * hidden.shape[0] * weight.shape[0] * (1 if backend == "reference" else 1 / 3)


@backends
def test_operator_keeps_what_torch_library_expects_and_compiles(backend: str) -> None:
    torch._dynamo.reset()
    hidden, weight, target = problem((12, 8, 90))
    offsets, items = torch.arange(13), torch.arange(12)
    op = torch.ops.rearec.catalog_rank
    opcheck(op, (hidden, weight, target, None, None, "fp32", None, None, None, backend))
    opcheck(op, (hidden, weight, target, None, items, "bf16", None, hidden[:, 0].contiguous(), None, backend))
    opcheck(op, (hidden, weight, target, offsets, items, "fp32", hidden[:, 0], None, None, backend))
    with use_backend(backend):
        compiled = torch.compile(catalog_rank, fullgraph=True, backend="aot_eager")
        expected = catalog_rank(hidden, weight, target, exclude=(offsets, items))
        assert torch.equal(compiled(hidden, weight, target, exclude=(offsets, items)), expected)
        expected = catalog_rank(hidden, weight, target, target_bonus=hidden[:, 0])
        assert torch.equal(compiled(hidden, weight, target, target_bonus=hidden[:, 0]), expected)
