"""Retrieval over the whole catalogue: the best items of each row, and the rank of a row's target.

No matrix of size [R, N] is made. Nothing here is differentiable.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

import rearec_kernels.ops  # noqa: F401  (registers torch.ops.rearec)
from rearec_kernels import native
from rearec_kernels.arguments import (
    as_int,
    check_floating,
    check_index,
    check_items,
    check_offsets,
    check_same_device,
    check_values,
    describe,
    refuse_tangents,
)
from rearec_kernels.dispatch import check_known_precision, check_precision, resolve_backend
from rearec_kernels.precision import operand_dtype
from rearec_kernels.sharded import retrieval as sharded
from rearec_kernels.sharded.meeting import refusals_told
from rearec_kernels.sharded.retrieval import Exclusion
from rearec_kernels.shards import CatalogShard

Exclude = Tensor | tuple[Tensor, Tensor] | None


class _Derived(NamedTuple):
    rounded: Tensor
    packed: list[Tensor] | None


class PreparedCatalog:
    """An item table and what retrieval derives from it; made by `prepare_catalog`.

    It is frozen by contract: whoever writes to the table calls `refresh` before the next retrieval. Until then, no
    answer mixes two tables: eager calls answer for the table as it was where they read a copy of it, and for the table
    as it is where they do not. The one place where they read both is "fp32" on a CPU: a float32 score that contradicts
    the copy is a ValueError, and what is answered holds for the old table up to the rounding of bfloat16. Code that
    torch.compile made reads the table itself, in every call; what it leaves to Python is eager.

    A copy (copy, deepcopy, pickle) derives its own from its own table.

    Attributes:
        weight: [N, d], the table, by reference.
        precision: of the calls that it is for.

    Examples:
        >>> table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> catalog = prepare_catalog(table, "bf16")
        >>> table.neg_()
        tensor([[-1., -0.],
                [-0., -1.],
                [-1., -1.]])
        >>> catalog.refresh()
        >>> catalog_topk(torch.tensor([[1.0, 2.0]]), catalog, 1, precision="bf16")
        (tensor([[-1.]]), tensor([[0]]))
    """

    def __init__(self, weight: Tensor, precision: str) -> None:
        self.weight = weight
        self.precision = precision
        self.refresh()

    def refresh(self) -> None:
        """Derives everything anew from the table as it is now. Meanwhile calls of other threads read the table."""
        self._derived: _Derived | None = None
        if torch.compiler.is_compiling():
            return
        table = self.weight.detach()
        rounded = table.to(torch.bfloat16) if self.precision == "bf16" else table
        fits = _fits_tiles(table, self.precision)
        self._derived = _Derived(
            rounded, torch.ops.rearec.catalog_tiles(table, self.precision, "cpu") if fits else None
        )

    def read(self) -> tuple[Tensor, list[Tensor] | None]:
        """What the products of a call read, [N, d]: the table or its bfloat16 copy; and the packed copy that a CPU
        reads in its place where that is faster, None where there is none."""
        derived = None if torch.compiler.is_compiling() else self._derived
        return (self.weight.detach(), None) if derived is None else derived

    def __getstate__(self) -> dict[str, Any]:
        return {"weight": self.weight, "precision": self.precision}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.refresh()


def prepare_catalog(weight: Tensor, precision: str = "fp32") -> PreparedCatalog:
    """Derives once what retrieval would derive from the table on every call; pass the result in place of `weight`.

    Under torch.compile the result stands for the table itself: nothing derived is baked in, new weights count at once.

    Args:
        weight: [N, d], floating point. After it was written, call the result's `refresh`. It is kept by reference;
            "bf16" adds a copy of 2 d bytes per item, unless it is bfloat16 already. On a CPU, "fp32" and
            "bf16" add 2 d + 8 bytes per item, d rounded up to a multiple of 32, where the table is float32 or bfloat16
            and its items are dense: half of a float32 table again.
        precision: of the calls that the catalogue is for, "fp32", "bf16" or "tf32"; see `rearec_kernels.precision`.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or value.

    Examples:
        >>> catalog = prepare_catalog(torch.eye(3))
        >>> catalog_topk(torch.tensor([[0.0, 2.0, 1.0]]), catalog, 2)
        (tensor([[2., 1.]]), tensor([[1, 2]]))
    """
    op = "prepare_catalog"
    _check_table(op, weight)
    check_known_precision(op, precision, "catalog_topk")
    refuse_tangents(op, (weight,))
    keeps_place = not torch.compiler.is_compiling() and weight.is_leaf  # a parameter that is given other memory
    return PreparedCatalog(weight if keeps_place else weight.detach(), precision)


def _fits_tiles(weight: Tensor, precision: str) -> bool:
    """Whether this machine has kernels by tiles and the calls would use them."""
    return (
        native.TILES is not None
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and precision in ("fp32", "bf16")
        and weight.shape[1] > 0
        and weight.stride(1) == 1
        and resolve_backend("catalog_topk", weight.device, weight.dtype) == "cpu"
    )


def catalog_topk(
    hidden: Tensor,
    weight: Tensor | PreparedCatalog | CatalogShard,
    k: int,
    *,
    exclude: Exclude = None,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """The k items with the highest scores hidden @ weight.T of each row.

    Args:
        hidden: [R, d], floating point.
        weight: [N, d], floating point, or a prepared catalogue, or a `CatalogShard`: then every rank of its group calls
            with its own rows and gets their result, as of the whole catalogue.
        k: at least 1; may exceed N.
        exclude: item ids [M] barred for all rows, or (offsets [R + 1], items [M]): those of row r are
            items[offsets[r]:offsets[r + 1]]. int32 or int64; repetitions do no harm. With a shard, [M] is the same on
            every rank (looked at where values are).
        precision: "fp32", "bf16", or "tf32" on a GPU; see `rearec_kernels.precision`.

    Returns:
        scores float32 [R, k] and items int64 [R, k], in descending order of these scores, ties by lower item. Where
        a row has fewer than k candidates the rest is score -inf, item -1. An item that scores NaN or -inf is no
        candidate.

        This is exact: the items are the best k of the whole catalogue by these scores, and a score is the dot product
        with float32 sums (two orders of summation may differ in its last bits; within a row one order serves all items,
        so that equal items tie). With a catalogue that is prepared for "fp32" on a CPU, products of bfloat16
        only choose candidates, and an error bound per row and item proves that none is missing.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value; a prepared catalogue's
            table was seen to be written since.
        IndexError: an excluded item is out of range (looked at on a CPU, elsewhere under REAREC_DEBUG=1).

    Examples:
        >>> hidden, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> scores, items = catalog_topk(hidden, weight, 2)
        >>> scores, items
        (tensor([[3., 2.]]), tensor([[2, 1]]))
        >>> catalog_topk(hidden, weight, 1, exclude=torch.tensor([2]))[1]
        tensor([[1]])
    """
    op = "catalog_topk"
    if isinstance(weight, CatalogShard):
        with refusals_told(weight):
            k = as_int(op, "k", k, least=1)
            barred = _check_sharded(op, hidden, weight, exclude, precision)
        search = functools.partial(_topk, weight=_slice_of(weight), precision=precision)
        return sharded.catalog_topk(weight, hidden, k, barred, precision, search)
    k = as_int(op, "k", k, least=1)
    _check_arguments(op, hidden, weight, precision)
    return _topk(hidden, k, _check_exclude(op, exclude, hidden), weight, precision)


def _topk(
    hidden: Tensor, k: int, exclude: Exclusion, weight: Tensor | PreparedCatalog, precision: str
) -> tuple[Tensor, Tensor]:
    op = "catalog_topk"
    table, packed = _read(weight)
    backend = resolve_backend(
        op, hidden.device, operand_dtype(hidden, table), precision=precision, k=min(k, table.shape[0])
    )
    check_precision(op, precision, backend)
    tiles = packed if backend == "cpu" else None
    return torch.ops.rearec.catalog_topk(hidden, table, k, *exclude, precision, tiles, backend)


def catalog_rank(
    hidden: Tensor,
    weight: Tensor | PreparedCatalog | CatalogShard,
    target: Tensor,
    *,
    exclude: Exclude = None,
    target_bonus: Tensor | None = None,
    precision: str = "fp32",
) -> Tensor:
    """The rank of each row's target among all items: how many score above it, plus half of those that tie with it.

    Args:
        hidden: [R, d], floating point.
        weight: [N, d], floating point, or a prepared catalogue, or a `CatalogShard`, as in `catalog_topk`.
        target: [R], int32 or int64, in [0, N). The target is never excluded and never its own rival.
        exclude: items that are not counted, in the forms of `catalog_topk`.
        target_bonus: [R], floating point and finite, added in float32 to the target's score before it is compared: the
            rank with a score that was raised, or above another threshold. Not differentiated.
        precision: "fp32", "bf16", or "tf32" on a GPU; see `rearec_kernels.precision`.

    Returns:
        float32 [R], 0 for the best. NaN where the target's score is NaN; other items with NaN are not counted.

        This is exact: what is counted are dot products with float32 sums (two orders of summation may differ in their
        last bits, and where scores nearly tie, in the rank). With a catalogue that is prepared for "fp32" on a CPU,
        products of bfloat16 decide only the items that an error bound keeps apart from the target.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value; a prepared catalogue's
            table was seen to be written since.
        IndexError: a target or an excluded item is out of range (looked at on a CPU, elsewhere under REAREC_DEBUG=1).

    Examples:
        >>> hidden, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> catalog_rank(hidden, weight, torch.tensor([0]))
        tensor([2.])
        >>> catalog_rank(hidden, weight, torch.tensor([0]), exclude=torch.tensor([2]))
        tensor([1.])
        >>> catalog_rank(hidden, weight, torch.tensor([0]), target_bonus=torch.tensor([1.5]))
        tensor([1.])
    """
    op = "catalog_rank"
    if isinstance(weight, CatalogShard):
        with refusals_told(weight):
            barred = _check_sharded(op, hidden, weight, exclude, precision)
            _check_target(op, hidden, target, target_bonus)
            check_items(op, "target", target, weight.num_items)
            if target_bonus is not None:
                check_values(op, "target_bonus", target_bonus)
        rank = functools.partial(_rank, weight=_slice_of(weight), precision=precision)
        return sharded.catalog_rank(weight, hidden, target, barred, target_bonus, precision, rank)
    _check_arguments(op, hidden, weight, precision)
    _check_target(op, hidden, target, target_bonus)
    barred = _check_exclude(op, exclude, hidden)
    return _rank(hidden, target, barred, target_bonus, None, weight, precision)[0]


def _check_target(op: str, hidden: Tensor, target: Tensor, target_bonus: Tensor | None) -> None:
    check_index(op, "target", target, hidden.shape[0])
    check_same_device(op, {"hidden": hidden, "target": target})
    if target_bonus is not None:
        check_floating(op, "target_bonus", target_bonus, "[R]")
        if target_bonus.shape != target.shape:
            raise ValueError(f"{op}: target_bonus must have shape {list(target.shape)}, got {list(target_bonus.shape)}")
        check_same_device(op, {"hidden": hidden, "target_bonus": target_bonus})


def _rank(
    hidden: Tensor,
    target: Tensor,
    exclude: Exclusion,
    bonus: Tensor | None,
    score: Tensor | None,
    weight: Tensor | PreparedCatalog,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """Ranks, and the scores that items were compared with: those of the targets, or `score` in place of them."""
    op = "catalog_rank"
    table, packed = _read(weight)
    backend = resolve_backend(op, hidden.device, operand_dtype(hidden, table), precision=precision)
    check_precision(op, precision, backend)
    tiles = packed if backend == "cpu" else None
    return torch.ops.rearec.catalog_rank(hidden, table, target, *exclude, precision, bonus, score, tiles, backend)


def _check_sharded(op: str, hidden: Tensor, shard: CatalogShard, exclude: Exclude, precision: str) -> Exclusion:
    """What is barred, by the ids of the whole catalogue; values are looked at here, the ops see only the slice's."""
    _check_arguments(op, hidden, _slice_of(shard), precision)
    dtype = operand_dtype(hidden, shard.table)
    check_precision(op, precision, resolve_backend(op, hidden.device, dtype, precision=precision))
    barred = _check_exclude(op, exclude, hidden)
    if barred.items is not None:
        check_items(op, "exclude", barred.items, shard.num_items)
        check_offsets(op, barred.offsets, barred.items)
    return barred


def _slice_of(shard: CatalogShard) -> Tensor | PreparedCatalog:
    """What the shard has of the table; anything else than these was refused."""
    return cast("Tensor | PreparedCatalog", shard.weight)


def _read(weight: Tensor | PreparedCatalog) -> tuple[Tensor, list[Tensor] | None]:
    """What the op reads: the table, and its packed copy where there is one."""
    return weight.read() if isinstance(weight, PreparedCatalog) else (weight, None)


def _check_table(op: str, weight: Tensor) -> None:
    check_floating(op, "weight", weight, "[N, d]")
    if weight.shape[0] == 0:
        raise ValueError(f"{op}: weight must have at least one item, got {list(weight.shape)}")


def _check_arguments(op: str, hidden: Tensor, weight: Tensor | PreparedCatalog, precision: str) -> None:
    check_floating(op, "hidden", hidden, "[R, d]")
    if not isinstance(weight, PreparedCatalog):
        _check_table(op, weight)
    elif weight.precision != precision:
        raise ValueError(
            f"{op}: the catalogue was prepared for precision {weight.precision!r}, got precision={precision!r}"
        )
    table, _ = _read(weight)
    if table.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"{op}: weight must have shape [N, d] with hidden's d = {hidden.shape[1]}, got {list(table.shape)}"
        )
    check_same_device(op, {"hidden": hidden, "weight": table})


_EXCLUDE_FORMS = "exclude must be items [M], or a pair (offsets [R + 1], items [M]), in int32 or int64 tensors"


def _pair(op: str, exclude: object) -> tuple[Tensor, Tensor]:
    if not isinstance(exclude, tuple) or len(exclude) != 2:
        raise TypeError(f"{op}: {_EXCLUDE_FORMS}; got {describe(exclude)}")
    return exclude


def _check_exclude(op: str, exclude: Exclude, hidden: Tensor) -> Exclusion:
    if exclude is None:
        return Exclusion(None, None)
    offsets, items = (None, exclude) if isinstance(exclude, Tensor) else _pair(op, exclude)
    for name, x in (("offsets", offsets), ("items", items)):
        if x is None and name == "offsets":
            continue
        if not isinstance(x, Tensor) or x.dtype not in (torch.int32, torch.int64) or x.dim() != 1:
            raise TypeError(f"{op}: {_EXCLUDE_FORMS}; got {describe(x)} for its {name}")
        check_same_device(op, {"hidden": hidden, "exclude": x})
    if offsets is not None and offsets.shape[0] != hidden.shape[0] + 1:
        raise ValueError(
            f"{op}: the offsets of exclude must have shape [R + 1] = [{hidden.shape[0] + 1}], got {list(offsets.shape)}"
        )
    return Exclusion(offsets, items)
