"""catalog_topk: against sorting all scores, and the order of what it returns itself."""

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
# rows R, width d, items N, k; up to 8 rows go another way than more, and blocks of scores hold a million of them
SHAPES = [
    (1, 1, 1, 1),
    (1, 16, 17, 5),
    (2, 7, 33, 3),
    (3, 64, 1000, 20),
    (5, 8, 129, 129),
    (8, 24, 500, 10),
    (9, 5, 200, 7),
    (40, 32, 3000, 20),
    (600, 16, 9001, 4),
]
backends = pytest.mark.parametrize("backend", BACKENDS)


def problem(shape: tuple[int, int, int, int], integers: bool = False) -> tuple[Tensor, Tensor, int]:
    """Random states and items; with small integers every score is exact and ties are many."""
    rows, width, items, k = shape
    generator = torch.Generator(torch.get_default_device()).manual_seed(rows + items)
    if integers:
        hidden, weight = (torch.randint(-2, 3, (n, width), generator=generator).float() for n in (rows, items))
    else:
        hidden, weight = (torch.randn(n, width, generator=generator) for n in (rows, items))
    return hidden, weight, k


def sorted_all(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Descending, ties by lower item; -inf is no candidate."""
    scores, items = scores.sort(dim=1, descending=True, stable=True)
    items = items.masked_fill(scores == float("-inf"), -1)
    missing = max(0, k - scores.shape[1])
    pad = torch.nn.functional.pad
    return pad(scores, (0, missing), value=float("-inf"))[:, :k], pad(items, (0, missing), value=-1)[:, :k]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@backends
def test_exact_scores_come_in_exact_order(backend: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    hidden, weight, k = problem(shape, integers=True)
    expected_scores, expected_items = sorted_all(hidden @ weight.T, k)
    with use_backend(backend):
        scores, items = catalog_topk(hidden.to(dtype), weight.to(dtype), k)
    assert scores.dtype == torch.float32 and items.dtype == torch.int64
    assert torch.equal(scores, expected_scores)
    assert torch.equal(items, expected_items)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@backends
def test_scores_are_right_to_rounding_and_their_order_is_theirs(
    backend: str, shape: tuple[int, int, int, int], dtype: torch.dtype, precision: str
) -> None:
    hidden, weight, k = problem(shape)
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    with use_backend(backend):
        scores, items = catalog_topk(hidden, weight, k, precision=precision)
    exact = ((x.bfloat16() if precision == "bf16" else x).double() for x in (hidden, weight))
    h, e = exact
    products = h @ e.T
    bound = 1e-6 * (h.abs() @ e.abs().T).amax(1, keepdim=True)
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    assert ((scores[:, 1:] < scores[:, :-1]) | (items[:, 1:] > items[:, :-1])).all()
    assert ((scores.double() - products.gather(1, items)).abs() <= bound).all()
    # Nothing outside is better than the worst inside, but for rounding.
    outside = products.scatter(1, items, float("-inf"))
    assert (outside <= scores[:, -1:].double() + 2 * bound).all()
    assert all(row.unique().numel() == k for row in items)


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("width", [1, 5, 16, 70])
def test_few_rows_read_a_float32_table_as_its_bfloat16_copy(width: int, rows: int) -> None:
    if "cpu" not in BACKENDS:
        pytest.skip("an install without the native module")
    hidden, weight = torch.randn(rows, width), torch.randn(1001, width) * 10 ** torch.empty(1001, 1).uniform_(-30, 20)
    weight[5], weight[6, 0], weight[7], weight[8] = float("nan"), float("inf"), 3.4e38, 1e-41
    weight[9:200] = (weight[9:200].view(torch.int32) & -65536 | 0x8000).view(torch.float32)  # between two bfloat16
    with use_backend("cpu"):
        scores, items = catalog_topk(hidden, weight, 1001, precision="bf16")
        expected, best = catalog_topk(hidden, weight.bfloat16(), 1001, precision="bf16")
        assert torch.equal(scores, expected) and torch.equal(items, best)
        target = torch.randint(200, 1001, (rows,))
        ranks = catalog_rank(hidden, weight, target, precision="bf16")
        assert torch.equal(ranks, catalog_rank(hidden, weight.bfloat16(), target, precision="bf16"))


@backends
def test_ties_go_to_the_lower_item_across_blocks_and_threads(backend: str, set_threads: Callable[[int], None]) -> None:
    for threads in (1, 3):
        set_threads(threads)
        for rows in (1, 3, 300):
            with use_backend(backend):
                scores, items = catalog_topk(torch.ones(rows, 4), torch.ones(20_001, 4), 6)
            assert (scores == 4).all()
            assert (items == torch.arange(6)).all()


@pytest.mark.parametrize("order", ["rising", "falling"])
@backends
def test_scores_that_rise_or_fall_with_the_item(backend: str, order: str) -> None:
    weight = torch.arange(5000.0)[:, None] * (1 if order == "rising" else -1)
    for rows in (2, 20):
        with use_backend(backend):
            _, items = catalog_topk(torch.ones(rows, 1), weight, 3)
        assert (items == torch.tensor([4999, 4998, 4997] if order == "rising" else [0, 1, 2])).all()


@pytest.mark.parametrize("shape", SHAPES)
@backends
def test_excluded_items_never_come_back(backend: str, shape: tuple[int, int, int, int]) -> None:
    hidden, weight, k = problem(shape, integers=True)
    rows, items_count = hidden.shape[0], weight.shape[0]
    generator = torch.Generator(torch.get_default_device()).manual_seed(1)
    for_all = torch.randint(0, items_count, (items_count // 3 + 1,), generator=generator)
    per_row = torch.randint(0, 4, (rows,), generator=generator)
    offsets = torch.nn.functional.pad(per_row.cumsum(0), (1, 0))
    items = torch.randint(0, items_count, (int(offsets[-1]),), generator=generator, dtype=torch.int32)
    scores = hidden @ weight.T
    barred_for_all = scores.index_fill(1, for_all, float("-inf"))
    barred_per_row = scores.clone()
    for r in range(rows):
        barred_per_row[r, items[offsets[r] : offsets[r + 1]].long()] = float("-inf")
    with use_backend(backend):
        for exclude, expected in ((for_all, barred_for_all), ((offsets, items), barred_per_row)):
            got = catalog_topk(hidden, weight, k, exclude=exclude)
            assert all(torch.equal(a, b) for a, b in zip(got, sorted_all(expected, k), strict=True))


@pytest.mark.parametrize("rows", [2, 12])
@backends
def test_fewer_candidates_than_k_leave_empty_places(backend: str, rows: int) -> None:
    hidden, weight = torch.ones(rows, 2), torch.ones(3, 2)
    with use_backend(backend):
        scores, items = catalog_topk(hidden, weight, 5, exclude=torch.tensor([1, 1]))
        nothing = catalog_topk(hidden, weight, 2, exclude=torch.arange(3))
    assert items.tolist() == [[0, 2, -1, -1, -1]] * rows
    assert scores.tolist() == [[2.0, 2.0] + [float("-inf")] * 3] * rows
    assert nothing[1].tolist() == [[-1, -1]] * rows
    assert (nothing[0] == float("-inf")).all()


@pytest.mark.parametrize("rows", [3, 30])
@backends
def test_nan_is_no_candidate_and_stays_in_its_row(backend: str, rows: int) -> None:
    hidden, weight, _ = problem((rows, 8, 300, 5), integers=True)
    expected = sorted_all(hidden @ weight.T, 5)
    spoiled = hidden.clone()
    spoiled[1] = float("nan")
    others = torch.arange(rows) != 1
    with use_backend(backend):
        scores, items = catalog_topk(spoiled, weight, 5)
        spoiled_weight = weight.clone()
        spoiled_weight[7] = float("nan")
        without_item = catalog_topk(hidden, spoiled_weight, 5)
    assert (items[1] == -1).all() and (scores[1] == float("-inf")).all()
    assert torch.equal(scores[others], expected[0][others]) and torch.equal(items[others], expected[1][others])
    barred = (hidden @ weight.T).index_fill(1, torch.tensor([7]), float("-inf"))
    assert all(torch.equal(a, b) for a, b in zip(without_item, sorted_all(barred, 5), strict=True))


@backends
def test_infinite_scores_come_first(backend: str) -> None:
    weight = torch.zeros(50, 2)
    weight[[9, 30], 0] = torch.tensor([float("inf"), float("-inf")])
    for rows in (1, 10):
        hidden = torch.tensor([[1.0, 0.0]]).expand(rows, 2)
        with use_backend(backend):
            scores, items = catalog_topk(hidden, weight, 50)
        assert items[:, 0].eq(9).all() and scores[:, 0].eq(float("inf")).all()
        assert (items[:, -1] == -1).all()


@backends
def test_no_rows(backend: str) -> None:
    with use_backend(backend):
        scores, items = catalog_topk(torch.empty(0, 4), torch.randn(9, 4), 3)
        excluded = catalog_topk(
            torch.empty(0, 4), torch.randn(9, 4), 3, exclude=(torch.zeros(1, dtype=torch.int64), torch.empty(0).long())
        )
    assert scores.shape == items.shape == excluded[0].shape == (0, 3)


@pytest.mark.parametrize("rows", [2, 40])
@backends
def test_non_contiguous_inputs(backend: str, rows: int) -> None:
    hidden, weight, k = problem((rows, 8, 500, 6), integers=True)
    strided = (hidden.t().contiguous().t(), weight.t().contiguous().t())
    sliced = (torch.cat([hidden, hidden], 1)[:, :8], torch.cat([weight, weight], 1)[:, 8:])
    with use_backend(backend):
        expected = catalog_topk(hidden, weight, k)
        for inputs in (strided, sliced):
            assert all(torch.equal(a, b) for a, b in zip(catalog_topk(*inputs, k), expected, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rows", [2, 40])
@backends
def test_a_prepared_catalogue_gives_the_same(backend: str, rows: int, precision: str) -> None:
    hidden, weight, k = problem((rows, 24, 700, 10))
    with use_backend(backend):
        expected = catalog_topk(hidden, weight, k, precision=precision)
        got = catalog_topk(hidden, prepare_catalog(weight, precision), k, precision=precision)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(got[1], expected[1])


def test_a_prepared_catalogue_is_for_its_precision() -> None:
    hidden, weight = torch.randn(3, 8), torch.randn(20, 8)
    catalog = prepare_catalog(weight, "bf16")
    with pytest.raises(ValueError, match="prepared for precision 'bf16', got precision='fp32'"):
        catalog_topk(hidden, catalog, 2)
    with torch.inference_mode():
        catalog_topk(torch.randn(3, 8), prepare_catalog(torch.randn(20, 8)), 2)


@backends
def test_no_gradient_is_tracked(backend: str) -> None:
    with use_backend(backend):
        scores, _ = catalog_topk(torch.randn(3, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True), 2)
    assert not scores.requires_grad


@backends
def test_mixed_dtypes(backend: str) -> None:
    hidden, weight, k = problem((12, 8, 90, 5), integers=True)
    with use_backend(backend):
        expected = catalog_topk(hidden, weight, k)
        for dtypes in ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)):
            got = catalog_topk(hidden.to(dtypes[0]), weight.to(dtypes[1]), k)
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("rows", [4, 300])
@backends
def test_same_bits_every_time_and_the_same_scores_to_rounding_for_every_number_of_threads(
    backend: str, rows: int, set_threads: Callable[[int], None]
) -> None:
    hidden, weight, k = problem((rows, 64, 3000, 20))
    with use_backend(backend):
        for threads in (1, 2):
            set_threads(threads)
            first, again = (catalog_topk(hidden, weight, k) for _ in range(2))
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            if threads == 1:
                one_thread = first
    torch.testing.assert_close(first[0], one_thread[0], rtol=1e-6, atol=1e-5)


@backends
def test_the_scores_of_all_rows_are_never_in_memory(
    backend: str, largest_allocation: Callable[[Callable[[], object]], int]
) -> None:
    hidden, weight, k = problem((700, 8, 20_000, 20))

    def ours() -> None:
        with use_backend(backend):
            catalog_topk(hidden, weight, k)

    all_scores = 4 * hidden.shape[0] * weight.shape[0]
    assert largest_allocation(lambda: (hidden @ weight.T).topk(k)) >= all_scores
    assert largest_allocation(ours) < (all_scores if backend == "reference" else all_scores / 8)


@backends
def test_operator_keeps_what_torch_library_expects_and_compiles(backend: str) -> None:
    torch._dynamo.reset()
    hidden, weight, k = problem((12, 8, 90, 5))
    offsets, items = torch.arange(13), torch.arange(12)
    op = torch.ops.rearec.catalog_topk
    opcheck(op, (hidden, weight, k, None, None, "fp32", None, backend))
    opcheck(op, (hidden, weight, k, None, items, "bf16", None, backend))
    opcheck(op, (hidden, weight, k, offsets, items, "fp32", None, backend))
    with use_backend(backend):
        compiled = torch.compile(catalog_topk, fullgraph=True, backend="aot_eager")
        expected = catalog_topk(hidden, weight, k, exclude=(offsets, items))
        got = compiled(hidden, weight, k, exclude=(offsets, items))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
