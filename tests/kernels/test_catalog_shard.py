"""A catalogue sharded over 2 and 3 processes: what one process says of the whole table, and what is sent for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import shard_cases as cases
import torch
from ranks import run_ranks
from shard_cases import (
    ITEM_CUTS,
    ITEMS,
    LOSS_CASES,
    LOSSES,
    PLACES,
    RETRIEVAL_CASES,
    ROW_CUTS,
    ROWS,
    SHARP,
    STATES,
    WIDTH,
)
from torch import Tensor

from rearec_kernels import CatalogShard, available_backends, native, use_backend

WORLDS = (2, 3)


@pytest.fixture(scope="module", params=WORLDS)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All cases on every rank, in one start of the processes."""
    return run_ranks("shard_cases", request.param, tmp_path_factory.mktemp("ranks"))


def assert_near(actual: Tensor, expected: Tensor, tolerance: float, largest: Tensor) -> None:
    """The numbers differ by less than `tolerance` times the largest of all ranks."""
    bound = tolerance * max(largest.double().abs().max().item(), 1e-30)
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=bound)


def check_loss(ranks: list[dict[str, Any]], case: str, whole: dict[str, Tensor], tolerance: float) -> None:
    for rank, results in enumerate(ranks):
        part = cases.Part.of_rank(rank, len(ranks))
        found, expected = results[case], dict(whole)
        if whole["values"].dim() == 3:
            expected["values"] = whole["values"][:, part.rows]
        expected["hidden"], expected["weight"] = whole["hidden"][part.rows], whole["weight"][part.items]
        for name, x in expected.items():
            assert found[name].dtype == x.dtype
            assert_near(found[name], x, tolerance, whole[name])
        if whole["values"].dim() == 2:
            assert torch.equal(found["values"], ranks[0][case]["values"]), "the same number on every rank"


# Of the largest gradient. The paper's form of the divergence has gradients of probabilities' small differences, in
# which two float32 computations are 1e-6 away from float64 each.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2**-7}


@pytest.mark.filterwarnings("ignore:.*using the slower:UserWarning")
@pytest.mark.parametrize(("backend", "dtype", "loss"), LOSS_CASES)
def test_losses_are_those_of_one_process(
    ranks: list[dict[str, Any]], backend: str, dtype: torch.dtype, loss: str
) -> None:
    scale = cases.SHARP_SCALE if loss in SHARP else 1.0
    with use_backend(backend):
        problem = cases.Problem.of(dtype, scale)
        whole = cases.loss_results((LOSSES | SHARP)[loss], problem, cases.Part.whole())
    tolerance = TOLERANCES[dtype] * (3 if "paper" in loss else 1)
    if "ignored" in loss:
        assert not any(x.any() for x in whole.values())
    if loss in SHARP:
        assert (problem.hidden.double() @ problem.weight.double().T).abs().max() > 200
    check_loss(ranks, f"{backend} {dtype} {loss}", whole, tolerance)


@pytest.mark.skipif("cpu" not in available_backends("cpu") or native.TILES is None, reason="no kernels by tiles")
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_by_tiles(ranks: list[dict[str, Any]], loss: str) -> None:
    whole = cases.tiled_results(loss, cases.Part.whole())
    check_loss(ranks, f"tiles {loss}", whole, 1e-4)


@pytest.mark.parametrize(("backend", "tied", "form", "prepared"), RETRIEVAL_CASES)
def test_retrieval_is_that_of_one_process(
    ranks: list[dict[str, Any]], backend: str, tied: bool, form: str, prepared: bool
) -> None:
    """Scores are exact here, ties among them."""
    with use_backend(backend):
        whole = cases.retrieval_results(tied, form, prepared, cases.Part.whole())
    if tied:
        scores = whole["scores 30"]
        assert (scores[:, 1:] == scores[:, :-1]).sum() > ROWS
    if tied and form == "none":
        assert (whole["rank"] % 1 != 0).any()
    for rank, results in enumerate(ranks):
        found, rows = results[f"{backend} {tied} {form} {prepared}"], cases.Part.of_rank(rank, len(ranks)).rows
        for name, x in whole.items():
            assert found[name].dtype == x.dtype and torch.equal(found[name], x[rows]), name


def expected_communication(world: int) -> dict[str, dict[str, int]]:
    """The formulas of CatalogShard's docstring."""
    g, p = world, max(b - a for a, b in zip(ROW_CUTS[world], ROW_CUTS[world][1:], strict=False))
    r, t, d, s, m = ROWS, STATES, WIDTH, 4, PLACES
    header, states, scattered = 72, p * t * d * s, 4 * g * p * t * d

    def calls(gathers: int, reduces: int = 0, scatters: int = 0) -> dict[str, int]:
        counts = {"all_gather_single": gathers, "all_reduce": reduces, "reduce_scatter_single": scatters}
        return {f"calls {name}": count for name, count in counts.items() if count}

    hard = {"all_gather_single": header + states + 8 * p * 2, "all_reduce": 4 * r * t + 8 * r * t}
    soft = header + states + 8 * p * (1 + m) + 4 * p * t * m
    ensemble = {
        "all_gather_single": header + states + 8 * p,
        "all_reduce": 4 * r * (t + 1) + 8 * r * (t + 1),
    }
    with_gradients = {"reduce_scatter_single": scattered}
    kept = min(5, max(b - a for a, b in zip(ITEM_CUTS[world], ITEM_CUTS[world][1:], strict=False)))
    excluded = [cases._bars("per row", cases.Part.of_rank(rank, world))[1].shape[0] for rank in range(world)]
    return {
        "hard": {**hard, **with_gradients, **calls(3, 2, 1)},
        "soft per state": {**hard, "all_gather_single": soft, **with_gradients, **calls(4, 2, 1)},
        "hard rows": {
            **hard,
            "all_gather_single": hard["all_gather_single"] + 4 * p * t,
            **with_gradients,
            **calls(4, 2, 1),
        },
        "ensemble": {**ensemble, **with_gradients, **calls(3, 2, 1)},
        "without gradients": {**hard, **calls(3, 2)},
        "topk": {
            "all_gather_single": header + p * d * s,
            "all_to_all_single": 12 * kept * r,
            "calls all_to_all_single": 1,
            **calls(2),
        },
        "rank": {
            "all_gather_single": header + p * d * s + 8 * p + 4 * p + 8 * p + 8 * max(excluded),
            "all_reduce": 4 * r,
            "reduce_scatter_single": 4 * g * p,
            **calls(6, 1, 1),
        },
    }


def test_what_is_sent_is_what_the_docstring_says(ranks: list[dict[str, Any]]) -> None:
    expected = expected_communication(len(ranks))
    for results in ranks:
        assert results["communication"] == expected


def test_nobody_holds_the_whole_table(ranks: list[dict[str, Any]]) -> None:
    items, width = cases.BIG, 8 * WIDTH
    for results in ranks:
        assert results["largest"] <= items // len(ranks) * width * 4 + 2**16


MESSAGES = {
    "gap": "ValueError: annealed_cross_entropy: the shards of the group have to tile the catalogue, got [0, ",
    "other size": "ValueError: annealed_cross_entropy: the shards of the group have to tile the catalogue, got [0, ",
    "other width": "ValueError: annealed_cross_entropy: T and d of hidden has to be the same on every rank of the "
    "shard's group, got (3, 8) on rank 0 and (3, 7) on rank LAST",
    "other dtype": "ValueError: annealed_cross_entropy: the dtype of weight has to be the same on every rank of the "
    "shard's group, got torch.float32 on rank 0 and torch.float64 on rank LAST",
    "other temperature": "ValueError: annealed_cross_entropy: temperature has to be the same on every rank of the "
    "shard's group, got [0.5, 0.5, 0.5] on rank 0 and [0.25, 0.25, 0.25] on rank LAST",
    "other call": "the call has to be the same on every rank of the shard's group, got annealed_cross_entropy on rank "
    "0 and catalog_topk on rank LAST",
    "other k": "ValueError: catalog_topk: k has to be the same on every rank of the shard's group, got 2 on rank 0 and "
    "3 on rank LAST",
    "other exclude": "ValueError: catalog_topk: exclude (its checksum) has to be the same on every rank",
    "other need": "annealed_cross_entropy: whether there is a backward pass has to be the same on every rank",
    "excluded out of range": "IndexError: catalog_topk: exclude[0] is 37, expected an item in [0, 37)",
    "log_inclusion": "ValueError: annealed_cross_entropy: log_inclusion is for a sample of the catalogue, weight is a "
    "shard of all of it",
    "no table": "ValueError: annealed_cross_entropy: weight must have shape [N, d] with N > 0",
}


@pytest.mark.parametrize("case", MESSAGES)
def test_every_rank_refuses_in_one_line(ranks: list[dict[str, Any]], case: str) -> None:
    for results in ranks:
        text = results["refusals"][case]
        assert MESSAGES[case].replace("LAST", str(len(ranks) - 1)) in text and "\n" not in text, text


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("target out of range", "IndexError: annealed_cross_entropy: target["),
        ("bonus not finite", "ValueError: catalog_rank: target_bonus must be finite, got inf at [0]"),
    ],
)
def test_the_others_hear_of_a_rank_that_refuses(ranks: list[dict[str, Any]], case: str, error: str) -> None:
    *others, last = [results["refusals"][case] for results in ranks]
    assert last.startswith(error)
    why = last.partition(": ")[2]
    for text in others:
        refused = f"rank {len(ranks) - 1} of the shard's group refused its arguments: {why}"
        assert text == f"ValueError: {why.partition(':')[0]}: {refused}"


def test_the_group_works_after_refusals(ranks: list[dict[str, Any]]) -> None:
    assert all(results["refusals"]["none"] == "" for results in ranks)


def test_a_shard_of_nonsense() -> None:
    with pytest.raises(TypeError, match="CatalogShard: weight must be a tensor"):
        CatalogShard([1.0], None, 0, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="CatalogShard: first_item must be at least 0, got -1"):
        CatalogShard(torch.zeros(1, 1), None, -1, 1)
    with pytest.raises(TypeError, match="CatalogShard: num_items must be an int"):
        CatalogShard(torch.zeros(1, 1), None, 0, 1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weight must be a floating-point tensor"):
        CatalogShard.of(torch.zeros(1, 1, dtype=torch.int64))


def test_without_a_group() -> None:
    with pytest.raises(ValueError, match="there is no process group; call"):
        CatalogShard.of(torch.zeros(ITEMS, WIDTH))
    shard = CatalogShard(torch.zeros(ITEMS, WIDTH), None, 0, ITEMS)
    with pytest.raises(ValueError, match="there is no process group"):
        cases.LOSSES["hard"](torch.zeros(1, 3, WIDTH), shard, torch.tensor([1]), None, None)


def test_one_process_is_a_group_too(tmp_path: Path) -> None:
    """And what autograd promises: gradients once, as often as asked for, of the caller's numbers as they were."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        problem = cases.Problem.of(torch.float32)
        part = cases.Part(slice(0, ROWS), slice(0, ITEMS), True)
        for name in ("hard", "soft rows", "ensemble"):
            found = cases.loss_results(LOSSES[name], problem, part)
            whole = cases.loss_results(LOSSES[name], problem, cases.Part.whole())
            for key, x in whole.items():
                assert_near(found[key], x, 1e-6, x)

            hidden = problem.hidden.clone().requires_grad_()
            shard = CatalogShard.of(problem.weight.clone().requires_grad_())
            loss = LOSSES[name](hidden, shard, problem.target, problem.items, problem.mass)
            loss = (loss[0] if isinstance(loss, tuple) else loss).sum()
            first, again = (torch.autograd.grad(loss, hidden, retain_graph=True) for _ in range(2))
            assert torch.equal(first[0], again[0])
            with torch.no_grad():
                shard.weight.add_(1)  # type: ignore[union-attr]
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
    finally:
        torch.distributed.destroy_process_group()
