"""Top-k of a prepared catalogue by tiles of bfloat16: exact for any table, and only because of its error bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from catalogs import INF, NAN, TABLES, wild_hidden
from torch import Tensor
from torch.library import opcheck

from rearec_kernels import PreparedCatalog, catalog_topk, prepare_catalog

pytestmark = pytest.mark.usefixtures("by_tiles")


def by_all_scores(hidden: Tensor, weight: Tensor, k: int, exclude: tuple[Tensor, Tensor] | Tensor | None = None):
    """The top-k of a table that is not prepared, by the scores of all items: for up to 8 rows, the float32 scores that
    candidates get too, bit for bit."""
    results = []
    for first in range(0, hidden.shape[0], 8):
        barred = exclude
        if isinstance(exclude, tuple):
            offsets, items = exclude
            offsets = offsets[first : first + 9]
            barred = offsets - offsets[0], items[offsets[0] : offsets[-1]]
        results.append(catalog_topk(hidden[first : first + 8], weight, k, exclude=barred))
    return tuple(torch.cat(x) for x in zip(*results, strict=True))


def assert_same(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(got[1], expected[1])
    assert torch.equal(got[0], expected[0])


def packed(catalog: PreparedCatalog) -> list[Tensor]:
    tensors = catalog.read()[1]
    assert tensors is not None
    return tensors


def float32_products(hidden: Tensor, catalog: PreparedCatalog, k: int) -> tuple[float, Tensor]:
    """How many float32 scores a row takes, and which rows the candidates are proven for."""
    from rearec_kernels.cpu import tiled_topk

    no_exclusion = torch.empty(0, dtype=torch.int64)
    *_, proven, computed = tiled_topk.topk(
        hidden.contiguous(), catalog.weight, k, lambda _: (0, 0, no_exclusion.data_ptr(), 0), packed(catalog)
    )
    return computed / hidden.shape[0], proven


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 16, 17, 40])
@pytest.mark.parametrize("width", [1, 7, 64, 256, 300])
@pytest.mark.parametrize("items", [1, 31, 33, 5000])
def test_shapes(items: int, width: int, rows: int, threads: int, set_threads: Callable[[int], None]) -> None:
    set_threads(threads)
    hidden, weight = torch.randn(rows, width), torch.randn(items, width)
    assert_same(catalog_topk(hidden, prepare_catalog(weight), 20), by_all_scores(hidden, weight, 20))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("k", [1, 20, 500, 5000])
def test_k(k: int, threads: int, set_threads: Callable[[int], None]) -> None:
    set_threads(threads)
    hidden, weight = torch.randn(9, 48), torch.randn(9000, 48)
    got = catalog_topk(hidden, prepare_catalog(weight), k)
    if 16 * k <= 9000:
        assert_same(got, by_all_scores(hidden, weight, k))
    else:  # every score is needed, from a product of matrices
        torch.testing.assert_close(got[0], by_all_scores(hidden, weight, k)[0])


def test_many_rows() -> None:
    hidden, weight = torch.randn(1100, 40), torch.randn(2000, 40)
    assert_same(catalog_topk(hidden, prepare_catalog(weight), 5), by_all_scores(hidden, weight, 5))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("table", TABLES)
def test_tables(table: str, dtype: torch.dtype, threads: int, set_threads: Callable[[int], None]) -> None:
    set_threads(threads)
    weight = TABLES[table]().to(dtype)
    for hidden in (torch.randn(20, 40), torch.randn(20, 40).bfloat16(), 1e-20 * torch.randn(20, 40), wild_hidden()):
        assert_same(catalog_topk(hidden, prepare_catalog(weight), 20), by_all_scores(hidden, weight, 20))


@pytest.mark.parametrize("table", ["gaussian", "clusters", "common offset", "many scales"])
def test_against_float64(table: str) -> None:
    hidden, weight = torch.randn(33, 40), TABLES[table]()
    scores, items = catalog_topk(hidden, prepare_catalog(weight), 20)
    exact = hidden.double() @ weight.double().T
    error = 40 * 2**-24 * hidden.double().norm(dim=1, keepdim=True) * weight.double().norm(dim=1)
    outside = exact.scatter(1, items, -INF) - error
    assert ((scores.double() - exact.gather(1, items)).abs() <= error.gather(1, items)).all()
    assert (outside <= scores[:, -1:].double()).all()


@pytest.mark.parametrize("table", ["gaussian", "integers", "copies", "all equal", "a few wild items"])
def test_exclusion(table: str) -> None:
    hidden, weight = torch.randn(20, 40), TABLES[table]()
    hidden[3] = INF
    everything_but_three = torch.arange(3000)[torch.arange(3000) % 1000 != 5]
    best = by_all_scores(hidden, weight, 50)[1].clamp_min(0)
    offsets = torch.arange(21) * 50
    offsets[10:] -= 50  # a row without any
    per_row = torch.cat([best[:9], best[10:]]).flatten()
    for exclude in (best[0], everything_but_three, torch.arange(3000).int(), (offsets, per_row)):
        got = catalog_topk(hidden, prepare_catalog(weight), 20, exclude=exclude)
        assert_same(got, by_all_scores(hidden, weight, 20, exclude))


def test_tables_whose_items_are_dense_but_not_next_to_each_other() -> None:
    hidden, wide = torch.randn(20, 24), torch.randn(3000, 60)
    for weight in (wide[:, 30:54], wide[::2, 1:25], wide[:1, :24].expand(3000, 24), wide.T[:24, :].T):
        got = catalog_topk(hidden, prepare_catalog(weight), 20)
        if weight.stride(1) == 1:
            assert_same(got, by_all_scores(hidden, weight, 20))
        else:  # no tiles
            torch.testing.assert_close(got[0], by_all_scores(hidden, weight, 20)[0])


def test_few_float32_scores_decide_and_near_ties_take_more() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(20, 64)
    gaussian, near_ties = torch.randn(20_000, 64), torch.randn(200, 64).repeat(100, 1)
    near_ties += 1e-5 * torch.randn(20_000, 64)
    few, proven = float32_products(hidden, prepare_catalog(gaussian), 20)
    assert few < 3 * 20 and proven.all()
    more, proven = float32_products(hidden, prepare_catalog(near_ties), 20)
    assert more > 100 and proven.all()
    _, proven = float32_products(hidden, prepare_catalog(torch.full((20_000, 64), 0.3)), 20)
    assert not proven.any()
    hidden[[2, 5], 0] = torch.tensor([NAN, 1e30])
    _, proven = float32_products(hidden, prepare_catalog(gaussian), 20)
    assert proven.logical_not().nonzero().flatten().tolist() == [2, 5]


def test_a_bound_that_is_too_small_is_seen() -> None:
    """The proof is what makes the result right: on near ties, as if the items had no rounding errors, it fails."""
    torch.manual_seed(0)
    hidden = torch.randn(20, 64)
    weight = torch.randn(200, 64).repeat(100, 1) + 1e-3 * torch.randn(20_000, 64)
    catalog, expected = prepare_catalog(weight), by_all_scores(hidden, weight, 20)
    assert_same(catalog_topk(hidden, catalog, 20), expected)
    packed(catalog)[1].zero_()
    with pytest.raises(ValueError, match="the table was written to after prepare_catalog"):
        catalog_topk(hidden, catalog, 20)


def test_a_table_that_was_written_is_seen_or_makes_no_difference() -> None:
    hidden, weight = torch.randn(20, 64), torch.randn(5000, 64)
    catalog = prepare_catalog(weight)
    expected = catalog_topk(hidden, catalog, 20)
    unseen = torch.tensor([item for item in range(5000) if not (expected[1] == item).any()][:1000])
    assert float32_products(hidden, catalog, 20)[0] < 60  # of few items
    before = weight[unseen].clone()
    weight[unseen] = 0.0  # of items that are not among the best: seen, or the old answer
    try:
        assert_same(catalog_topk(hidden, catalog, 20), expected)
    except ValueError as error:
        assert "the table was written to" in str(error)
    weight[unseen] = before
    for value in (NAN, INF, 0.0):
        best = int(expected[1][3, 0])
        before = weight[best].clone()
        weight[best] = value
        with pytest.raises(ValueError, match="the table was written to after prepare_catalog; call refresh"):
            catalog_topk(hidden, catalog, 20)
        weight[best] = before
    assert_same(catalog_topk(hidden, catalog, 20), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [7, 64, 70])
def test_bounds_are_upper_bounds_and_tight(width: int, dtype: torch.dtype) -> None:
    weight = (torch.randn(70, width) * 10 ** torch.empty(70, 1).uniform_(-20, 15)).to(dtype)
    weight[3] = 0
    tiles, bounds, center = packed(prepare_catalog(weight))
    depth = -(-width // 32)
    rounded = tiles.view(3, depth, 2, 16, 32).permute(0, 2, 3, 1, 4).reshape(96, depth * 32)
    assert not rounded[70:].any() and not rounded[:, width:].any()
    c = weight.double() - center.double()
    residual = c - rounded[:70, :width].double()
    assert (residual.abs() <= 2**-8 * c.abs() + 2**-126).all()
    for bound, vectors in zip(bounds.unbind(1), (c, residual), strict=True):
        length, bound = vectors.norm(dim=1), bound.flatten()[:70].double()
        assert (bound >= length).all() and (bound <= (1 + 1e-5) * length + 1e-30).all()


@pytest.mark.parametrize("precision, rows", [("bf16", 9), ("bf16", 40), ("bf16", 600), ("fp32", 256)])
@pytest.mark.parametrize("items, width", [(1, 3), (31, 7), (1000, 64), (3001, 70), (70, 5000)])
def test_a_table_that_is_packed_as_it_is_read_gives_the_same_bits(
    items: int, width: int, rows: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight = torch.randn(rows, width), torch.randn(items, 2 * width)[:, :width]
    weight[::7] *= 1e3
    offsets, barred = torch.arange(rows + 1) * 2, torch.randint(0, items, (2 * rows,))
    prepared = prepare_catalog(weight, precision)
    expected = catalog_topk(hidden, prepared, 5, exclude=(offsets, barred), precision=precision)
    monkeypatch.setattr("rearec_kernels.cpu.catalog_tiles.pack", None)
    got = catalog_topk(hidden, weight, 5, exclude=(offsets, barred), precision=precision)
    assert_same(got, expected)
    assert_same(
        catalog_topk(hidden, weight.bfloat16(), 5, precision="bf16"), catalog_topk(hidden, weight, 5, precision="bf16")
    )


@pytest.mark.parametrize("rows", [3, 40])
def test_bfloat16_scores_tie_where_items_are_equal(rows: int) -> None:
    hidden, weight = torch.randn(rows, 70), torch.randn(50, 70).repeat(60, 1)
    weight[5], weight[6, 0] = NAN, INF
    scores, items = catalog_topk(hidden, prepare_catalog(weight, "bf16"), 20, precision="bf16")
    assert ((scores[:, 1:] < scores[:, :-1]) | (items[:, 1:] > items[:, :-1])).all()
    finite = scores.isfinite()
    expected = (hidden.bfloat16().double() @ weight.bfloat16().double().T).gather(1, items)
    torch.testing.assert_close(scores[finite].double(), expected[finite], rtol=1e-5, atol=1e-5)
    for row in range(rows):  # each item's first copies, unless -inf
        kinds = items[row][finite[row]] % 50
        assert kinds.tolist() == sorted(kinds.tolist(), key=kinds.tolist().index)


def test_operators_keep_what_torch_library_expects_and_compile() -> None:
    torch._dynamo.reset()
    hidden, weight = torch.randn(12, 8), torch.randn(90, 8)
    exclude = torch.arange(13), torch.arange(12)
    for precision in ("fp32", "bf16"):
        opcheck(torch.ops.rearec.catalog_tiles, (weight, precision, "cpu"))
        catalog = prepare_catalog(weight, precision)
        opcheck(
            torch.ops.rearec.catalog_topk, (hidden, catalog.read()[0], 5, *exclude, precision, packed(catalog), "cpu")
        )
        compiled = torch.compile(catalog_topk, fullgraph=True, backend="aot_eager")
        arguments = {"k": 5, "exclude": exclude, "precision": precision}
        # Compiled code reads the table itself, whose products are summed in another order.
        (got, items), (scores, expected) = (
            compiled(hidden, catalog, **arguments),
            catalog_topk(hidden, catalog, **arguments),
        )
        assert torch.equal(items, expected)
        torch.testing.assert_close(got, scores)
