"""Calls with a sharded catalogue: the same on one process with the whole table and on every rank with its slice."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from rearec_kernels import (
    CatalogShard,
    annealed_cross_entropy,
    available_backends,
    catalog_rank,
    catalog_topk,
    ensemble_reasoning_loss,
    native,
    prepare_catalog,
    triton_support,
    use_backend,
)

ROWS, STATES, WIDTH, ITEMS, PLACES = 11, 3, 8, 37, 4
TEMPERATURES, STEP_WEIGHTS = [0.9, 0.6, 0.4], [0.5, 1.0, 2.0]
# Where rows and items are cut, by the number of ranks: uneven; a rank without rows and one with a single item.
ROW_CUTS = {2: [0, 0, 11], 3: [0, 4, 4, 11]}
ITEM_CUTS = {2: [0, 1, 37], 3: [0, 20, 21, 37]}
BIG = 40_000  # items, for the memory


@dataclass
class Part:
    """What one process has: all, or its rows and its slice of the table."""

    rows: slice
    items: slice
    is_shard: bool = False

    @staticmethod
    def whole(items: int = ITEMS) -> Part:
        return Part(slice(0, ROWS), slice(0, items))

    @staticmethod
    def of_rank(rank: int, world: int) -> Part:
        rows, items = ROW_CUTS[world], ITEM_CUTS[world]
        return Part(slice(rows[rank], rows[rank + 1]), slice(items[rank], items[rank + 1]), True)

    def table(self, weight: Tensor) -> Tensor | CatalogShard:
        return CatalogShard.of(weight) if self.is_shard else weight


@dataclass
class Problem:
    """Of all rows and the whole table; the parts are cut of it."""

    hidden: Tensor
    weight: Tensor
    target: Tensor
    items: Tensor  # of soft targets
    mass: Tensor

    @staticmethod
    def of(dtype: torch.dtype, scale: float = 1.0) -> Problem:
        g = torch.Generator().manual_seed(5)
        hidden = (torch.randn(ROWS, STATES, WIDTH, generator=g) * scale).to(dtype)
        weight = torch.randn(ITEMS, WIDTH, generator=g).to(dtype)
        target = torch.randint(0, ITEMS, (ROWS,), generator=g)
        target[[2, 7]] = -100
        target[0], target[5], target[10] = 0, 20, 36
        items = torch.randint(-1, ITEMS, (ROWS, PLACES), generator=g)
        items[3] = torch.tensor([20, 0, 20, 36])  # repeated, and on every slice
        items[4] = -1  # no mass at all
        return Problem(hidden, weight, target, items, torch.rand(ROWS, STATES, PLACES, generator=g))


Loss = Callable[..., Any]  # states, table, targets, items and mass of soft ones


def _hard(h: Tensor, w: Any, target: Tensor, items: Tensor, mass: Tensor, **options: Any) -> Tensor:
    return annealed_cross_entropy(h, w, target, temperature=TEMPERATURES, step_weight=STEP_WEIGHTS, **options)


def _soft(h: Tensor, w: Any, target: Tensor, items: Tensor, mass: Tensor, **options: Any) -> Tensor:
    return annealed_cross_entropy(h, w, target, temperature=TEMPERATURES, soft_target=(items, mass[:, 0]), **options)


def _soft_per_state(h: Tensor, w: Any, target: Tensor, items: Tensor, mass: Tensor, **options: Any) -> Tensor:
    soft = items.int(), mass
    return annealed_cross_entropy(
        h, w, None, temperature=TEMPERATURES, step_weight=STEP_WEIGHTS, soft_target=soft, **options
    )


def _hard_rows(h: Tensor, w: Any, target: Tensor, items: Tensor, mass: Tensor, **options: Any) -> Tensor:
    target = target.int().masked_fill(target == -100, -1)
    return annealed_cross_entropy(h, w, target, temperature=0.4, reduction="none", ignore_index=-1, **options)


def _soft_rows(h: Tensor, w: Any, target: Tensor, items: Tensor, mass: Tensor, **options: Any) -> Tensor:
    soft = items, mass
    return annealed_cross_entropy(h, w, target, temperature=TEMPERATURES, soft_target=soft, reduction="none", **options)


def _all_ignored(h: Tensor, w: Any, target: Tensor, items: Tensor, mass: Tensor, **options: Any) -> Tensor:
    return annealed_cross_entropy(h, w, torch.full_like(target, -100), temperature=0.4, **options)


def _sharp(h: Tensor, w: Any, target: Tensor, items: Tensor, mass: Tensor, **options: Any) -> Tensor:
    return annealed_cross_entropy(h, w, target, temperature=0.07, **options)


def _ensemble(form: str, temperature: float = 0.4) -> Loss:
    def loss(h: Tensor, w: Any, target: Tensor, items: Tensor, mass: Tensor, **options: Any) -> Any:
        return ensemble_reasoning_loss(h, w, target, temperature=temperature, kl_weight=0.2, kl_form=form, **options)

    return loss


def _ensemble_ignored(h: Tensor, w: Any, target: Tensor, items: Tensor, mass: Tensor, **options: Any) -> Any:
    target = torch.full_like(target, -100)
    return ensemble_reasoning_loss(h, w, target, temperature=0.4, kl_weight=0.2, **options)


LOSSES: dict[str, Loss] = {
    "hard": _hard,
    "soft": _soft,
    "soft per state": _soft_per_state,
    "hard rows": _hard_rows,
    "soft rows": _soft_rows,
    "all ignored": _all_ignored,
    "ensemble": _ensemble("official"),
    "ensemble paper": _ensemble("paper"),
    "ensemble all ignored": _ensemble_ignored,
}
SHARP: dict[str, Loss] = {"sharp": _sharp, "ensemble sharp": _ensemble("official", 0.07)}
SHARP_SCALE = 40.0  # logits of some +-200


# Triton's interpreter is slow: what differs between the backends.
FEW = ("hard rows", "soft per state", "ensemble paper")


def _loss_cases() -> Iterator[tuple[str, torch.dtype, str]]:
    single, double, half = torch.float32, torch.float64, torch.bfloat16
    dtypes = {"reference": (single, double), "cpu": (single, half), "triton": (single,)}
    for backend in available_backends("cpu"):
        for dtype in dtypes[backend]:
            for loss in FEW if backend == "triton" else (*LOSSES, *SHARP):
                yield backend, dtype, loss


LOSS_CASES = list(_loss_cases())


def loss_results(loss: Loss, problem: Problem, part: Part, **options: Any) -> dict[str, Tensor]:
    """Value and gradients; of the sum over rows with factors, where the loss is per row."""
    hidden = problem.hidden[part.rows].clone().requires_grad_()
    weight = problem.weight[part.items].clone().requires_grad_()
    own = (x[part.rows] for x in (problem.target, problem.items, problem.mass))
    value = loss(hidden, part.table(weight), *own, **options)
    terms = value if isinstance(value, tuple) else (value,)
    factors = torch.linspace(0.5, 2.0, ROWS)[part.rows, None] if terms[0].dim() == 2 else torch.tensor(1.5)
    (terms[0] * factors).sum().backward()
    assert hidden.grad is not None and weight.grad is not None
    return {"values": torch.stack([x.detach() for x in terms]), "hidden": hidden.grad, "weight": weight.grad}


def _bars(form: str, part: Part) -> Any:
    g = torch.Generator().manual_seed(9)
    if form == "none":
        return None
    if form == "for all":
        return torch.tensor([0, 20, 21, 21, 30])
    counts = torch.randint(0, 9, (ROWS,), generator=g)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    items = torch.randint(0, ITEMS, (int(offsets[-1]),), generator=g)
    own = offsets[part.rows.start : part.rows.stop + 1]
    return own - own[0], items[int(own[0]) : int(own[-1])]


def _integers(tied: bool) -> tuple[Tensor, Tensor, Tensor]:
    """States, table and targets of which every score is exact; with few different ones if tied."""
    g = torch.Generator().manual_seed(3)
    most = 2 if tied else 50
    hidden = torch.randint(-most, most, (ROWS, WIDTH), generator=g).float()
    weight = torch.randint(-most, most, (ITEMS, WIDTH), generator=g).float()
    if tied:
        weight[10:] = weight[:27].clone()
    return hidden, weight, torch.randint(0, ITEMS, (ROWS,), generator=g)


RETRIEVAL_CASES = [
    (backend, tied, form, prepared)
    for backend in available_backends("cpu")
    for tied in (False, True)
    for form in ("none", "for all", "per row")
    for prepared in (False, True)
    if backend != "triton" or (tied, form, prepared) == (True, "per row", False)
]
KS = (1, 5, 30, 50)  # more than a slice has; more than there are


def retrieval_results(tied: bool, form: str, prepared: bool, part: Part) -> dict[str, Tensor]:
    hidden, weight, target = _integers(tied)
    h, slice_of_table = hidden[part.rows], weight[part.items]
    table: Any = prepare_catalog(slice_of_table) if prepared else slice_of_table
    if part.is_shard:
        shard = CatalogShard.of(slice_of_table)
        table = CatalogShard(table, None, shard.first_item, shard.num_items)
    exclude = _bars(form, part)
    results = {}
    for k in KS:
        results[f"scores {k}"], results[f"items {k}"] = catalog_topk(h, table, k, exclude=exclude)
    own = target[part.rows]
    results["rank"] = catalog_rank(h, table, own, exclude=exclude)
    results["rank with bonus"] = catalog_rank(h, table, own.int(), exclude=exclude, target_bonus=h[:, 0])
    return results


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Bytes that are handed to each kind of collective inside the block, and "calls NAME", how often."""
    found: Counter[str] = Counter()
    place = {
        "all_gather_single": 1,
        "all_gather_into_tensor": 1,
        "reduce_scatter_single": 1,
        "reduce_scatter_tensor": 1,
    }
    place |= {"all_reduce": 0, "all_to_all_single": 1}
    names = {"all_gather_into_tensor": "all_gather_single", "reduce_scatter_tensor": "reduce_scatter_single"}
    with pytest.MonkeyPatch.context() as patch:
        for name, position in place.items():
            real = getattr(dist, name, None)
            if real is None:
                continue

            def call(*args: Any, real: Any = real, name: str = name, position: int = position, **options: Any) -> Any:
                kind = names.get(name, name)
                found[kind] += args[position].numel() * args[position].element_size()
                found[f"calls {kind}"] += 1
                return real(*args, **options)

            patch.setattr(dist, name, call)
        others = ("all_gather", "broadcast", "send", "recv", "gather", "scatter", "reduce", "all_gather_object")
        for name in others:
            patch.setattr(dist, name, lambda *_, name=name, **__: pytest.fail(f"{name} is not counted"))
        yield found


def communication(part: Part) -> dict[str, dict[str, int]]:
    """What each call sends on this rank."""
    problem, found = Problem.of(torch.float32), {}
    shard = CatalogShard.of(problem.weight[part.items].clone().requires_grad_())
    h = problem.hidden[part.rows]
    own = [x[part.rows] for x in (problem.target, problem.items, problem.mass)]
    for name in ("hard", "soft per state", "ensemble", "hard rows"):
        with counted() as found_here:
            value = LOSSES[name](h.clone().requires_grad_(), shard, *own)
            (value[0] if isinstance(value, tuple) else value).sum().backward()
        found[name] = dict(found_here)
    with counted() as found_here, torch.no_grad():
        LOSSES["hard"](h, shard, *own)
    found["without gradients"] = dict(found_here)
    with counted() as found_here:
        catalog_topk(h[:, 0], shard, 5)
    found["topk"] = dict(found_here)
    target = own[0].clamp(min=0)
    with counted() as found_here:
        catalog_rank(h[:, 0], shard, target, exclude=_bars("per row", part), target_bonus=h[:, 0, 0])
    found["rank"] = dict(found_here)
    return found


def refusals(rank: int, part: Part) -> dict[str, str]:
    """What this rank raises, by the case; the group works on after each."""
    problem = Problem.of(torch.float32)
    h, target = problem.hidden[part.rows], problem.target[part.rows]
    shard = CatalogShard.of(problem.weight[part.items])
    last = rank == dist.get_world_size() - 1

    def loss(shard: CatalogShard = shard, h: Tensor = h, target: Tensor = target, **options: Any) -> Tensor:
        return annealed_cross_entropy(h, shard, target, **{"temperature": 0.5, **options})

    gap = CatalogShard(shard.weight, None, shard.first_item + (1 if last else 0), shard.num_items + 1)
    off = CatalogShard(shard.weight, None, shard.first_item, shard.num_items + (1 if last else 0))
    narrow = CatalogShard(problem.weight[part.items, : WIDTH - 1], None, shard.first_item, shard.num_items)
    double = CatalogShard(problem.weight[part.items].double(), None, shard.first_item, shard.num_items)
    cases: dict[str, Callable[[], object]] = {
        "gap": lambda: loss(gap),
        "other size": lambda: loss(off),
        "other width": lambda: loss(narrow, h[..., :-1]) if last else loss(),
        "other dtype": lambda: loss(double) if last else loss(),
        "other temperature": lambda: loss(temperature=0.25 if last else 0.5),
        "other call": lambda: catalog_topk(h[:, 0], shard, 2) if last else loss(),
        "other k": lambda: catalog_topk(h[:, 0], shard, 3 if last else 2),
        "other exclude": lambda: catalog_topk(h[:, 0], shard, 2, exclude=torch.tensor([2 if last else 1])),
        "other need": lambda: loss(reduction="none", h=h if last else h.clone().requires_grad_()),
        "target out of range": lambda: loss(target=target + ITEMS * last),
        "excluded out of range": lambda: catalog_topk(h[:, 0], shard, 2, exclude=torch.tensor([ITEMS])),
        "bonus not finite": lambda: catalog_rank(
            h[:, 0], shard, target.clamp(min=0), target_bonus=torch.full((len(target),), float("inf" if last else "1"))
        ),
        "log_inclusion": lambda: loss(log_inclusion=torch.zeros(shard.table.shape[0])),
        "no table": lambda: loss(CatalogShard(shard.weight[:0], None, shard.first_item, shard.num_items)),  # type: ignore[index]
        "none": lambda: loss(),
    }
    found = {}
    for name, call in cases.items():
        try:
            call()
            found[name] = ""
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def _without_recycling() -> AbstractContextManager[None]:
    """Recycled memory would not be seen by the profiler."""
    if native.C is None:
        return nullcontext()
    from rearec_kernels.cpu.memory import without_recycling

    return without_recycling()


def largest_tensor(rank: int, world: int) -> int:
    """Bytes of the largest allocation of forward and backward passes over a large table, which this rank has a part
    of."""
    items = BIG // world
    weight = torch.randn(items, WIDTH * 8, requires_grad=True)
    shard = CatalogShard(weight, None, rank * items, items * world)
    hidden, target = torch.randn(2, 2, WIDTH * 8, requires_grad=True), torch.tensor([0, items])
    with _without_recycling(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        annealed_cross_entropy(hidden, shard, target, temperature=0.5).backward()
        ensemble_reasoning_loss(hidden, shard, target, temperature=0.5, kl_weight=0.1).loss.backward()
        catalog_topk(hidden[:, 0].detach(), shard, 5)
        catalog_rank(hidden[:, 0].detach(), shard, target)
    events = watched.profiler.kineto_results.events() if watched.profiler is not None else []
    return max(event.nbytes() for event in events if event.name() == "[memory]")


def run() -> dict[str, Any]:
    """All of it, on one rank."""
    warnings.simplefilter("ignore")  # a slower backend
    if triton_support.INTERPRETED:
        import interpreter

        interpreter.prepare()
    rank, world = dist.get_rank(), dist.get_world_size()
    part = Part.of_rank(rank, world)
    found: dict[str, Any] = {"refusals": refusals(rank, part), "communication": communication(part)}
    for backend, dtype, loss in LOSS_CASES:
        problem = Problem.of(dtype, SHARP_SCALE if loss in SHARP else 1.0)
        with use_backend(backend):
            found[f"{backend} {dtype} {loss}"] = loss_results((LOSSES | SHARP)[loss], problem, part)
    for backend, tied, form, prepared in RETRIEVAL_CASES:
        with use_backend(backend):
            found[f"{backend} {tied} {form} {prepared}"] = retrieval_results(tied, form, prepared, part)
    if native.TILES is not None:
        for loss in LOSSES:
            found[f"tiles {loss}"] = tiled_results(loss, part)
    found["largest"] = largest_tensor(rank, world)
    return found


def tiled_results(loss: str, part: Part) -> dict[str, Tensor]:
    """Of kernels by tiles, also where something else is faster."""
    with use_backend("cpu"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "MULTIPLIES_BF16", True)
        return loss_results(LOSSES[loss], Problem.of(torch.float32), part, precision="bf16x3")
