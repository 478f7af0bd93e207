"""Retrieval over the whole catalogue: the best items of each row, and the rank of a row's target.

No matrix of size [R, N] is made. Nothing here is differentiable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import rearec_kernels.ops  # noqa: F401  (registers torch.ops.rearec)
from rearec_kernels import native
from rearec_kernels.arguments import as_int, check_floating, check_index, check_same_device, describe, refuse_tangents
from rearec_kernels.dispatch import resolve_backend
from rearec_kernels.precision import RETRIEVAL_PRECISIONS, check_precision, operand_dtype
from rearec_kernels.writes import WriteMark

Exclude = Tensor | tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Catalog:
    """An item table and what retrieval derives from it; made by `prepare_catalog`.

    It is frozen: after the table was written, prepare it again. A write that is noticed (`writes.WriteMark` says which
    are) makes retrieval refuse it. Copies, by copy, deepcopy or pickle, are as good as what they were made from.

    Attributes:
        weight: [N, d], the table it was made from, by reference.
        precision: what it was prepared for.
        operand: what the products read: `weight`, or its bfloat16 copy.
        tiles: what they read on a CPU with tiles for bfloat16 (AMX); else None.
        mark: of the table when it was prepared; None in the copy of a catalogue whose table was written.
    """

    weight: Tensor
    precision: str
    operand: Tensor
    tiles: list[Tensor] | None
    mark: WriteMark | None

    def is_current(self) -> bool:
        """Whether the table has not been written since, as far as that is seen."""
        return self.mark is not None and self.mark.is_current()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "mark": self.is_current()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        mark = WriteMark([state["weight"]], may_move=True) if state["mark"] else None
        self.__dict__.update({**state, "mark": mark})


def prepare_catalog(weight: Tensor, precision: str = "fp32") -> Catalog:
    """Derives once what retrieval would derive from the table on every call; pass the result in place of `weight`.

    Under torch.compile the result is the table itself: nothing derived is baked in, new weights count at once.

    Args:
        weight: [N, d], floating point. A table that is written to afterwards has to be prepared again. It is kept by
            reference; "bf16" adds a copy of 2 d bytes per item, unless it is bfloat16 already. On a CPU with tiles for
            bfloat16 (AMX), "fp32" and "bf16" add 2 d + 8 bytes per item, d rounded up to a multiple of 32, where the
            table is float32 or bfloat16 and its items are dense: half of a float32 table again.
        precision: of the calls that the catalogue is for.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or value.
    """
    op = "prepare_catalog"
    _check_table(op, weight)
    check_precision(op, precision, precisions=RETRIEVAL_PRECISIONS)
    refuse_tangents(op, (weight,))
    weight = weight.detach()
    operand = weight.to(torch.bfloat16) if precision == "bf16" else weight
    fits = _fits_tiles(weight, precision)
    tiles = torch.ops.rearec.catalog_tiles(weight, precision, "cpu") if fits else None
    return Catalog(weight, precision, operand, tiles, WriteMark([weight], may_move=True))


def _fits_tiles(weight: Tensor, precision: str) -> bool:
    """Whether there are tiles for bfloat16 and the top-k would use them."""
    return (
        native.AMX is not None
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and precision in ("fp32", "bf16")
        and weight.shape[1] > 0
        and weight.stride(1) == 1
        and resolve_backend("catalog_topk", weight.device, weight.dtype) == "cpu"
    )


def catalog_topk(
    hidden: Tensor, weight: Tensor | Catalog, k: int, *, exclude: Exclude = None, precision: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """The k items with the highest scores hidden @ weight.T of each row.

    Args:
        hidden: [R, d], floating point.
        weight: [N, d], floating point, or a prepared catalogue.
        k: at least 1; may exceed N.
        exclude: item ids [M] barred for all rows, or (offsets [R + 1], items [M]): those of row r are
            items[offsets[r]:offsets[r + 1]]. int32 or int64; repetitions do no harm.
        precision: "fp32", "bf16" to round the operands of the product to bfloat16 (sums stay float32), or, on a GPU,
            "tf32".

    Returns:
        scores float32 [R, k] and items int64 [R, k], in descending order of these scores, ties by lower item. Where
        a row has fewer than k candidates the rest is score -inf, item -1. An item that scores NaN or -inf is no
        candidate.

        This is exact: the items are the best k of the whole catalogue by these scores, and a score is the dot product
        with float32 sums (two orders of summation may differ in its last bits; within a row one order serves all items,
        so that equal items tie). With a catalogue that is prepared for "fp32" on a CPU with AMX, products of bfloat16
        only choose candidates, and an error bound per row and item proves that none is missing.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value.
        IndexError: an excluded item is out of range (looked at on a CPU, elsewhere under REAREC_DEBUG=1).
    """
    op = "catalog_topk"
    k = as_int(op, "k", k, least=1)
    table = _check_arguments(op, hidden, weight, precision)
    offsets, items = _check_exclude(op, exclude, hidden)
    backend = resolve_backend(op, hidden.device, operand_dtype(hidden, table), k=min(k, table.shape[0]))
    check_precision(op, precision, backend, RETRIEVAL_PRECISIONS)
    return torch.ops.rearec.catalog_topk(hidden, table, k, offsets, items, precision, _tiles(weight, backend), backend)


def catalog_rank(
    hidden: Tensor, weight: Tensor | Catalog, target: Tensor, *, exclude: Exclude = None, precision: str = "fp32"
) -> Tensor:
    """The rank of each row's target among all items: how many score above it, plus half of those that tie with it.

    Args:
        hidden: [R, d], floating point.
        weight: [N, d], floating point, or a prepared catalogue.
        target: [R], int32 or int64, in [0, N). The target is never excluded and never its own rival.
        exclude: items that are not counted, in the forms of `catalog_topk`.
        precision: "fp32", "bf16" to round the operands of the product to bfloat16 (sums stay float32), or, on a GPU,
            "tf32".

    Returns:
        float32 [R], 0 for the best. NaN where the target's score is NaN; other items with NaN are not counted.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value.
        IndexError: a target or an excluded item is out of range (looked at on a CPU, elsewhere under REAREC_DEBUG=1).
    """
    op = "catalog_rank"
    table = _check_arguments(op, hidden, weight, precision)
    check_index(op, "target", target, hidden.shape[0])
    check_same_device(op, {"hidden": hidden, "target": target})
    offsets, items = _check_exclude(op, exclude, hidden)
    backend = resolve_backend(op, hidden.device, operand_dtype(hidden, table))
    check_precision(op, precision, backend, RETRIEVAL_PRECISIONS)
    return torch.ops.rearec.catalog_rank(hidden, table, target, offsets, items, precision, backend)


def _tiles(weight: Tensor | Catalog, backend: str) -> list[Tensor] | None:
    """What the op reads besides the table."""
    if not isinstance(weight, Catalog) or backend != "cpu" or torch.compiler.is_compiling():
        return None
    return weight.tiles


def _check_table(op: str, weight: Tensor) -> None:
    check_floating(op, "weight", weight, "[N, d]")
    if weight.shape[0] == 0:
        raise ValueError(f"{op}: weight must have at least one item, got {list(weight.shape)}")


def _check_arguments(op: str, hidden: Tensor, weight: Tensor | Catalog, precision: str) -> Tensor:
    """The table that the op reads."""
    check_floating(op, "hidden", hidden, "[R, d]")
    if isinstance(weight, Catalog):
        if weight.precision != precision:
            raise ValueError(
                f"{op}: the catalogue was prepared for precision {weight.precision!r}, got precision={precision!r}"
            )
        if torch.compiler.is_compiling():
            table = weight.weight  # what was derived from it would stay as it is now, whatever is written later
        elif weight.is_current():
            table = weight.operand
        else:
            raise ValueError(f"{op}: the table was written to after prepare_catalog; prepare it again")
    else:
        _check_table(op, weight)
        table = weight
    if table.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"{op}: weight must have shape [N, d] with hidden's d = {hidden.shape[1]}, got {list(table.shape)}"
        )
    check_same_device(op, {"hidden": hidden, "weight": table})
    return table


_EXCLUDE_FORMS = "exclude must be items [M], or a pair (offsets [R + 1], items [M]), in int32 or int64 tensors"


def _pair(op: str, exclude: object) -> tuple[Tensor, Tensor]:
    if not isinstance(exclude, tuple) or len(exclude) != 2:
        raise TypeError(f"{op}: {_EXCLUDE_FORMS}; got {describe(exclude)}")
    return exclude


def _check_exclude(op: str, exclude: Exclude, hidden: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if exclude is None:
        return None, None
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
    return offsets, items
