"""Ops of the retrieval over the catalogue; nothing of them is differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rearec_kernels.checks import check_items, check_offsets
from rearec_kernels.dispatch import implementation
from rearec_kernels.ops.registry import define

_EXCLUDE = "Tensor? exclude_offsets, Tensor? exclude_items"


def _checked_retrieval(name: str) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        *arguments, backend = args
        _, weight, target, offsets, items, _ = arguments
        if name == "catalog_rank":
            check_items(name, "target", target, weight.shape[0])
        if items is not None:
            check_items(name, "exclude", items, weight.shape[0])
            check_offsets(name, offsets, items)
        return implementation(backend, name)(*arguments)

    return run


define(
    "catalog_topk",
    f"(Tensor hidden, Tensor weight, int k, {_EXCLUDE}, str precision, str backend) -> (Tensor, Tensor)",
    lambda hidden, weight, k, *_: (
        hidden.new_empty((hidden.shape[0], k), dtype=torch.float32),
        hidden.new_empty((hidden.shape[0], k), dtype=torch.int64),
    ),
    run=_checked_retrieval("catalog_topk"),
)

define(
    "catalog_rank",
    f"(Tensor hidden, Tensor weight, Tensor target, {_EXCLUDE}, str precision, str backend) -> Tensor",
    lambda hidden, *_: hidden.new_empty(hidden.shape[0], dtype=torch.float32),
    run=_checked_retrieval("catalog_rank"),
)
