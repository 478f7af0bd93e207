"""The ensemble reasoning loss: one pass over the logits for its statistics, one for their gradients, which products of
the library take to those of rows and table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rearec_kernels.ops.arguments import EnsembleReasoning, EnsembleSums, Needed
from rearec_kernels.triton import configs
from rearec_kernels.triton.ensemble_kernels import (
    ensemble_logit_gradients,
    ensemble_merge,
    ensemble_statistics,
)
from rearec_kernels.triton.launch import Config, architecture, blocks, config, launch, no_gradient, parts
from rearec_kernels.triton.products import PRODUCTS, add_product, plain_products, rounded
from rearec_kernels.triton.tuning import magnitude, run_best

_CHUNK_BYTES, _CHUNK_UNIT, _LEAST_CHUNKS = 24 << 20, 128, 8


class Ensemble:
    """One call: operands, then the statistics of its rows, if they are not known, then gradients."""

    def __init__(self, loss: EnsembleReasoning, known: EnsembleSums | None = None) -> None:
        valid = loss.target != loss.ignore_index
        # Ignored rows may hold anything: 0 of it must stay 0 in the gradient of the table.
        self.rows = rounded(loss.hidden, loss.precision).masked_fill(~valid[:, None, None], 0.0)
        self.table, self.target = rounded(loss.weight, loss.precision), loss.target.contiguous()
        self.ignore_index, self.scale, self.precision = loss.ignore_index, 1 / loss.temperature, loss.precision
        self.kl_weight = loss.kl_weight
        self.device, self.dtype = self.rows.device, self.rows.dtype
        self.arch = architecture(self.device)
        self.row_count, self.states, self.width = self.rows.shape
        self.item_count = self.table.shape[0]
        paper = loss.kl_form == "paper"
        self.pairs = 1 if paper else max(1, self.states * (self.states - 1))
        self.count = valid.sum().clamp(min=1)
        self.share = valid.float() / self.count
        self.shape = {"STATES": self.states, "PAPER": paper}
        self.product = {"WIDTH": self.width, "PRECISION": PRODUCTS[self.precision], **self.shape}
        states = (self.row_count, self.states)
        self.largest, self.total = self._empty(2, self.row_count, self.states + 1)
        self.spread = self._empty(*states)
        if known is not None:
            self.largest.copy_(known.largest)
            self.total.copy_(known.total)
            self.spread.copy_(known.spread / known.total[:, :-1])

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def _parts(self, tiles: int, items: int) -> tuple[int, int]:
        """Parts of the items, and the items of each."""
        item_tiles = blocks(self.item_count, items)
        per_part = blocks(item_tiles, parts(tiles, item_tiles, self.device)) * items
        return blocks(self.item_count, per_part), per_part

    def _run_best(self, kernel: str, run: Callable[[Config], Any]) -> Any:
        kind = (*self.product.values(), magnitude(self.row_count), magnitude(self.item_count))
        candidates = configs.ensemble(self.arch, self.dtype, self.width, self.states)
        return run_best(kernel, (self.dtype, *kind), candidates, self.device, run)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Cross-entropy and divergence of each row, the latter over all pairs."""
        return self._run_best("ensemble_statistics", self._statistics)

    def _statistics(self, chosen: Config) -> tuple[Tensor, Tensor]:
        row_tiles = blocks(self.row_count, chosen["ROWS"])
        count, per_part = self._parts(row_tiles, chosen["ITEMS"])
        part_largest, part_total = self._empty(2, count, self.row_count, self.states + 1)
        part_spread = self._empty(count, self.row_count, self.states)
        part_target_logit = self._empty(count, self.row_count)
        launch(
            ensemble_statistics, (row_tiles, count), chosen,
            self.rows, self.table, self.target, part_largest, part_total, part_spread, part_target_logit,
            self.row_count, self.item_count, per_part, self.ignore_index, self.scale, **self.product,
        )  # fmt: skip
        cross_entropy, divergence = self._empty(2, self.row_count)
        merge = config(4, 1, ROWS=128)
        launch(
            ensemble_merge, (blocks(self.row_count, merge["ROWS"]),), merge,
            part_largest, part_total, part_spread, part_target_logit, self.target,
            self.largest, self.total, self.spread, cross_entropy, divergence,
            self.row_count, count, self.ignore_index, self.scale, **self.shape,
        )  # fmt: skip
        return cross_entropy, divergence

    def sums(self, cross_entropy: Tensor) -> EnsembleSums:
        """What `statistics` has left, and the target's logit of the cross-entropy that it gave."""
        target_logit = (self.total[:, -1].log() - cross_entropy).masked_fill(self.target < 0, 0.0)
        largest, total = self.largest.clone(), self.total.clone()  # they are views of one tensor
        return EnsembleSums(largest, total, self.spread * total[:, :-1], target_logit)

    def gradients(self, needed: Needed) -> tuple[Tensor, Tensor]:
        """Of rows and table, once the statistics are known: by the gradient of the logits, a chunk at a time."""
        if not any(needed):
            return no_gradient(self.device), no_gradient(self.device)
        return self._run_best("ensemble_logit_gradients", lambda chosen: self._gradients(chosen, needed))

    def _gradients(self, chosen: Config, needed: Needed) -> tuple[Tensor, Tensor]:
        rows = self.rows.flatten(0, 1)
        chunk = _chunk_items(rows, self.item_count)
        logit_gradients = torch.empty((rows.shape[0], chunk), dtype=self.dtype, device=self.device)
        grad_rows = self._empty(*rows.shape) if needed.first else no_gradient(self.device)
        grad_table = self._empty(*self.table.shape) if needed.second else no_gradient(self.device)
        row_tiles, item_tiles = blocks(self.row_count, chosen["ROWS"]), blocks(chunk, chosen["ITEMS"])
        per_part = blocks(item_tiles, parts(row_tiles, item_tiles, self.device)) * chosen["ITEMS"]
        with plain_products(self.device, self.precision):
            for first in range(0, self.item_count, chunk):
                count = min(chunk, self.item_count - first)
                launch(
                    ensemble_logit_gradients, (row_tiles, blocks(count, per_part)), chosen,
                    self.rows, self.table, self.target, self.largest, self.total, self.spread, self.share,
                    logit_gradients, self.row_count, first, chunk, self.item_count, per_part, self.ignore_index,
                    self.scale, -self.kl_weight / self.pairs, **self.product,
                )  # fmt: skip
                known, items = logit_gradients[:, :count], slice(first, first + count)
                if needed.first:
                    add_product(grad_rows, known, self.table[items], is_first=first == 0)
                if needed.second:
                    add_product(grad_table[items], known.t(), rows, is_first=True)
        return grad_rows.view(self.rows.shape) if needed.first else grad_rows, grad_table


def _chunk_items(rows: Tensor, items: int) -> int:
    """Of how many items the gradients of all rows' logits are in memory at a time: few megabytes, which stay in a GPU's
    L2 cache between the kernel that writes them and the products that read them, and a small part of all of them."""
    most = min(_CHUNK_BYTES // (rows.element_size() * max(1, rows.shape[0])), items // _LEAST_CHUNKS)
    most = max(most // _CHUNK_UNIT, 1) * _CHUNK_UNIT
    chunks = blocks(items, most)
    return blocks(blocks(items, chunks), _CHUNK_UNIT) * _CHUNK_UNIT
