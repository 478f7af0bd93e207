"""Ops of the retrieval over the catalogue; nothing of them is differentiated.

`tiles` is what the op `catalog_tiles` made of the table for the backend and precision of the call, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rearec_kernels.arguments import check_items, check_offsets
from rearec_kernels.dispatch import implementation
from rearec_kernels.ops.registry import define

_EXCLUDE = "Tensor? exclude_offsets, Tensor? exclude_items"
_HOW = "str precision, str backend, Tensor[]? tiles=None"


def _checked_retrieval(name: str) -> Callable[..., Any]:
    def run(
        hidden: Tensor,
        weight: Tensor,
        target: Any,
        offsets: Tensor | None,
        items: Tensor | None,
        precision: str,
        backend: str,
        tiles: list[Tensor] | None = None,
    ) -> Any:
        if name == "catalog_rank":
            check_items(name, "target", target, weight.shape[0])
        if items is not None:
            check_items(name, "exclude", items, weight.shape[0])
            check_offsets(name, offsets, items)
        arguments = (hidden, weight, target, offsets, items, precision)
        return implementation(backend, name)(*arguments, *([tiles] if tiles else []))

    return run


define(
    "catalog_topk",
    f"(Tensor hidden, Tensor weight, int k, {_EXCLUDE}, {_HOW}) -> (Tensor, Tensor)",
    lambda hidden, weight, k, *_: (
        hidden.new_empty((hidden.shape[0], k), dtype=torch.float32),
        hidden.new_empty((hidden.shape[0], k), dtype=torch.int64),
    ),
    run=_checked_retrieval("catalog_topk"),
    not_differentiated="catalog_topk",
)

define(
    "catalog_rank",
    f"(Tensor hidden, Tensor weight, Tensor target, {_EXCLUDE}, {_HOW}) -> Tensor",
    lambda hidden, *_: hidden.new_empty(hidden.shape[0], dtype=torch.float32),
    run=_checked_retrieval("catalog_rank"),
    not_differentiated="catalog_rank",
)


def _fake_tiles(weight: Tensor, precision: str, backend: str) -> list[Tensor]:
    blocks, depth = -(-weight.shape[0] // 32), -(-weight.shape[1] // 32)
    tiles = [weight.new_empty((blocks, depth * 32 * 32), dtype=torch.bfloat16)]
    if precision == "fp32":
        shapes = (blocks, 2, 32), (weight.shape[1],)
        tiles += [weight.new_empty(shape, dtype=torch.float32) for shape in shapes]
    return tiles


define("catalog_tiles", "(Tensor weight, str precision, str backend) -> Tensor[]", _fake_tiles)
