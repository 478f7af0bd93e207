"""The rank by tiles of bfloat16: that of float32 scores for any table, and only because of its error bounds; and that
of scores of bfloat16 numbers, whose target is scored by the same products."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from catalogs import INF, NAN, TABLES, wild_hidden
from torch import Tensor
from torch.library import opcheck

from rearec_kernels import PreparedCatalog, catalog_rank, prepare_catalog
from rearec_kernels.retrieval import Exclude

pytestmark = pytest.mark.usefixtures("by_tiles")


def by_all_scores(
    hidden: Tensor, weight: Tensor, target: Tensor, exclude: Exclude = None, bonus: Tensor | None = None
) -> Tensor:
    """The ranks in a table that is not prepared, for up to 8 rows: by the float32 scores that tiles leave to be
    computed, bit for bit."""
    ranks = []
    for first in range(0, hidden.shape[0], 8):
        rows, barred = slice(first, first + 8), exclude
        if isinstance(exclude, tuple):
            offsets, items = exclude
            offsets = offsets[first : first + 9]
            barred = offsets - offsets[0], items[offsets[0] : offsets[-1]]
        added = None if bonus is None else bonus[rows]
        ranks.append(catalog_rank(hidden[rows], weight, target[rows], exclude=barred, target_bonus=added))
    return torch.cat(ranks)


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.nan_to_num(-1), expected.nan_to_num(-1))


def random_exclusion(rows: int, items: int) -> tuple[Tensor, Tensor]:
    per_row = torch.randint(0, 9, (rows,))
    return torch.nn.functional.pad(per_row.cumsum(0), (1, 0)), torch.randint(0, items, (int(per_row.sum()),))


def float32_products(hidden: Tensor, catalog: PreparedCatalog, target: Tensor) -> tuple[float, Tensor]:
    """How many float32 scores a row takes, and which rows they decide."""
    from rearec_kernels.cpu import tiled_rank

    none, packed = torch.empty(0, dtype=torch.int64), catalog.read()[1]
    assert packed is not None
    *_, proven, computed = tiled_rank.half_counts(
        hidden.contiguous(), catalog.weight, target, None, lambda _: (0, 0, none.data_ptr(), 0), packed
    )
    return computed / hidden.shape[0], proven


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 16, 17, 40])
@pytest.mark.parametrize("width", [1, 7, 64, 300])
@pytest.mark.parametrize("items", [1, 31, 33, 5000])
def test_shapes(items: int, width: int, rows: int, threads: int, set_threads: Callable[[int], None]) -> None:
    set_threads(threads)
    hidden, weight, target = torch.randn(rows, width), torch.randn(items, width), torch.randint(0, items, (rows,))
    exclude, bonus, catalog = random_exclusion(rows, items), torch.randn(rows), prepare_catalog(weight)
    assert_same(catalog_rank(hidden, catalog, target), by_all_scores(hidden, weight, target))
    got = catalog_rank(hidden, catalog, target, exclude=exclude, target_bonus=bonus)
    assert_same(got, by_all_scores(hidden, weight, target, exclude, bonus))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("table", TABLES)
def test_tables(table: str, dtype: torch.dtype, threads: int, set_threads: Callable[[int], None]) -> None:
    set_threads(threads)
    weight = TABLES[table]().to(dtype)
    target, bonus = torch.randint(0, 3000, (20,)), torch.randn(20)
    target[:4] = torch.tensor([7, 8, 100, 2999])
    for hidden in (torch.randn(20, 40), torch.randn(20, 40).bfloat16(), 1e-20 * torch.randn(20, 40), wild_hidden()):
        catalog = prepare_catalog(weight)
        assert_same(catalog_rank(hidden, catalog, target), by_all_scores(hidden, weight, target))
        got = catalog_rank(hidden, catalog, target, target_bonus=bonus)
        assert_same(got, by_all_scores(hidden, weight, target, bonus=bonus))


@pytest.mark.parametrize("is_prepared", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("table", ["gaussian", "clusters", "common offset", "many scales"])
def test_against_float64(table: str, precision: str, is_prepared: bool) -> None:
    hidden, weight, target = torch.randn(300, 40), TABLES[table](), torch.randint(0, 3000, (300,))
    exclude, bonus = random_exclusion(300, 3000), torch.randn(300)
    catalog = prepare_catalog(weight, precision) if is_prepared else weight
    ranks = catalog_rank(hidden, catalog, target, exclude=exclude, target_bonus=bonus, precision=precision)
    h, e = ((x.bfloat16() if precision == "bf16" else x).double() for x in (hidden, weight))
    barred = torch.zeros(300, 3000, dtype=torch.bool)
    barred[torch.repeat_interleave(exclude[0].diff()), exclude[1]] = True
    scores = h @ e.T
    own = scores.gather(1, target[:, None]) + bonus[:, None].double()
    error = 40 * 2**-23 * h.norm(dim=1, keepdim=True) * e.norm(dim=1)
    error = error + error.gather(1, target[:, None]) + 2**-22 * own.abs()
    is_rival = ~barred.scatter(1, target[:, None], True)
    assert (ranks >= ((scores > own + error) & is_rival).sum(1)).all()
    assert (ranks <= ((scores >= own - error) & is_rival).sum(1)).all()


@pytest.mark.parametrize("precision, rows", [("bf16", 9), ("bf16", 40), ("bf16", 600), ("fp32", 256)])
@pytest.mark.parametrize("items, width", [(1, 3), (31, 7), (1000, 64), (3001, 70), (70, 5000)])
def test_a_table_that_is_packed_as_it_is_read_gives_the_same_ranks(
    items: int, width: int, rows: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight = torch.randn(rows, width), torch.randn(items, 2 * width)[:, :width]
    target, exclude = torch.randint(0, items, (rows,)), random_exclusion(rows, items)
    expected = catalog_rank(hidden, prepare_catalog(weight, precision), target, exclude=exclude, precision=precision)
    monkeypatch.setattr("rearec_kernels.cpu.catalog_tiles.pack", None)
    got = catalog_rank(hidden, weight, target, exclude=exclude, precision=precision)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("table", ["gaussian", "integers", "copies", "all equal", "a few wild items"])
def test_exclusion(table: str, precision: str) -> None:
    hidden, weight, target = torch.randn(20, 40), TABLES[table](), torch.randint(0, 3000, (20,))
    hidden[3] = INF
    everything_but_three = torch.arange(3000)[torch.arange(3000) % 1000 != 5]
    offsets = torch.arange(21) * 500
    offsets[10:] -= 500  # a row without any
    per_row = torch.randint(0, 3000, (9500,))
    per_row[::500] = torch.cat([target[:9], target[10:]])  # the target, which counts all the same
    catalog = prepare_catalog(weight, precision)
    for exclude in (everything_but_three, torch.arange(3000).int(), torch.randint(0, 3000, (40,)), (offsets, per_row)):
        got = catalog_rank(hidden, catalog, target, exclude=exclude, precision=precision)
        if precision == "fp32":
            assert_same(got, by_all_scores(hidden, weight, target, exclude))
        barred = torch.zeros(20, 3000, dtype=torch.bool)
        row = torch.repeat_interleave(offsets.diff()) if isinstance(exclude, tuple) else slice(None)
        barred[row, (exclude[1] if isinstance(exclude, tuple) else exclude).long()] = True
        for r in range(20):  # as if what is barred were not there
            kept = torch.cat([target[r : r + 1], (~barred[r]).scatter(0, target[r], False).nonzero().flatten()])
            alone = catalog_rank(
                hidden[[r] * 9],
                prepare_catalog(weight[kept], precision),
                torch.zeros(9, dtype=torch.int64),
                precision=precision,
            )
            assert_same(got[r : r + 1].expand(9), alone)


@pytest.mark.parametrize("rows", [9, 40])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_equal_items_tie_wherever_they_are(precision: str, rows: int) -> None:
    hidden, weight = torch.randn(rows, 70), torch.randn(50, 70).repeat(60, 1)
    kind = torch.arange(rows) % 50
    for copy in (0, 31, 59):
        ranks = catalog_rank(hidden, prepare_catalog(weight, precision), kind + 50 * copy, precision=precision)
        assert ((ranks - 59 / 2) % 60 == 0).all()  # 60 copies of each better item, and half of the target's others


def test_numbers_that_are_not_finite() -> None:
    """In bfloat16 as plain PyTorch has them: a target of NaN has no rank, another item of NaN does not count."""
    hidden, weight, target = torch.randn(40, 24), torch.randn(900, 24), torch.randint(10, 900, (40,))
    weight[5], weight[6, 0], weight[7, 3] = NAN, INF, -INF
    hidden[3], hidden[4, 2] = NAN, INF
    target[8:11] = torch.tensor([5, 6, 7])
    scores = hidden.bfloat16().float() @ weight.bfloat16().float().T
    own = scores.gather(1, target[:, None])
    above = (scores > own).sum(1) + (
        (scores == own).sum(1) - own.isfinite().logical_or(own.isinf()).squeeze(1).int()
    ) / 2
    expected = above.masked_fill(own.isnan().squeeze(1), NAN)
    for catalog in (weight, prepare_catalog(weight, "bf16")):
        got = catalog_rank(hidden, catalog, target, precision="bf16")
        assert torch.equal(got.isnan(), expected.isnan())
        far = (got - expected).abs().nan_to_num(0)
        assert far.max() <= 1  # near ties
        assert (far[4:11] == 0).all()


def test_few_float32_scores_decide_and_near_ties_take_more() -> None:
    torch.manual_seed(0)
    hidden, target = torch.randn(20, 64), torch.arange(20)
    gaussian, near_ties = torch.randn(20_000, 64), torch.randn(200, 64).repeat(100, 1)
    near_ties += 1e-5 * torch.randn(20_000, 64)
    few, proven = float32_products(hidden, prepare_catalog(gaussian), target)
    assert few < 20_000 / 20 and proven.all()
    more, proven = float32_products(hidden, prepare_catalog(near_ties), target)
    assert 100 <= more < 20_000 / 8 and proven.all()
    _, proven = float32_products(hidden, prepare_catalog(torch.full((20_000, 64), 0.3)), target)
    assert not proven.any()
    hidden[[2, 5], 0] = torch.tensor([NAN, 1e30])
    _, proven = float32_products(hidden, prepare_catalog(gaussian), target)
    assert proven.logical_not().nonzero().flatten().tolist() == [2, 5]


def test_a_bound_that_is_too_small_is_seen() -> None:
    torch.manual_seed(0)
    hidden, target = torch.randn(20, 64), torch.arange(20)
    weight = torch.randn(200, 64).repeat(100, 1) + 1e-3 * torch.randn(20_000, 64)
    catalog = prepare_catalog(weight)
    assert_same(catalog_rank(hidden, catalog, target), by_all_scores(hidden, weight, target))
    packed = catalog.read()[1]
    assert packed is not None
    packed[1].zero_()
    with pytest.raises(ValueError, match="the table was written to after prepare_catalog"):
        catalog_rank(hidden, catalog, target)


def test_a_table_that_was_written_is_seen_or_the_answer_is_the_old_one() -> None:
    hidden, weight, target = torch.randn(20, 64), torch.randn(5000, 64), torch.arange(20)
    catalog = prepare_catalog(weight)
    expected = catalog_rank(hidden, catalog, target)
    before = weight.clone()
    for value in (NAN, INF, 0.0, -1.0):  # of a target, which is always looked at
        weight[3] = value
        with pytest.raises(
            ValueError, match="catalog_rank: the table was written to after prepare_catalog; call refresh"
        ):
            catalog_rank(hidden, catalog, target)
        weight.copy_(before)
    weight[4000:] = 0.0
    try:
        assert_same(catalog_rank(hidden, catalog, target), expected)
    except ValueError as error:
        assert "the table was written to" in str(error)
    weight.copy_(before)
    assert_same(catalog_rank(hidden, catalog, target), expected)
    weight.mul_(-1)
    catalog.refresh()
    assert_same(catalog_rank(hidden, catalog, target), by_all_scores(hidden, weight, target))


def test_operators_keep_what_torch_library_expects_and_compile() -> None:
    torch._dynamo.reset()
    hidden, weight, target = torch.randn(12, 8), torch.randn(90, 8), torch.arange(12)
    exclude, bonus = (torch.arange(13), torch.arange(12)), torch.randn(12)
    for precision in ("fp32", "bf16"):
        catalog = prepare_catalog(weight, precision)
        table, packed = catalog.read()
        opcheck(torch.ops.rearec.catalog_rank, (hidden, table, target, *exclude, precision, bonus, None, packed, "cpu"))
        compiled = torch.compile(catalog_rank, fullgraph=True, backend="aot_eager")
        arguments = {"exclude": exclude, "target_bonus": bonus, "precision": precision}
        assert torch.equal(
            compiled(hidden, catalog, target, **arguments), catalog_rank(hidden, catalog, target, **arguments)
        )
