"""The ensemble reasoning loss: one pass over the logits for its statistics, one each for the gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rearec_kernels.triton import configs
from rearec_kernels.triton.ensemble_kernels import (
    ensemble_merge,
    ensemble_rows_gradient,
    ensemble_statistics,
    ensemble_table_gradient,
)
from rearec_kernels.triton.launch import Config, architecture, blocks, config, launch, parts
from rearec_kernels.triton.operands import PRODUCTS, nothing, operand
from rearec_kernels.triton.tuning import magnitude, run_best


def ensemble_reasoning_loss(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: float, kl_weight: float,
    kl_form: str, precision: str, hidden_needed: bool, weight_needed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    loss = _Ensemble(hidden, weight, target, ignore_index, temperature, kl_form, precision)
    cross_entropy, kl = (x.sum() / loss.count for x in loss.statistics())
    kl = kl / loss.pairs
    gradients = (
        loss.rows_gradient(kl_weight) if hidden_needed else nothing(hidden.device),
        loss.table_gradient(kl_weight) if weight_needed else nothing(hidden.device),
    )
    return cross_entropy - kl_weight * kl, cross_entropy, kl, *gradients


class _Ensemble:
    """One call: operands, then the statistics of its rows, then gradients."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: float, kl_form: str,
        precision: str,
    ) -> None:  # fmt: skip
        self.rows, self.table, self.target = operand(hidden, precision), operand(weight, precision), target.contiguous()
        self.ignore_index, self.scale = ignore_index, 1 / temperature
        self.device, self.dtype, self.arch = hidden.device, self.rows.dtype, architecture(hidden.device)
        self.row_count, self.states, self.width = hidden.shape
        self.item_count = weight.shape[0]
        paper = kl_form == "paper"
        self.pairs = 1 if paper else max(1, self.states * (self.states - 1))
        valid = target != ignore_index
        self.count = valid.sum().clamp(min=1)
        self.share = valid / self.count
        self.shape = {"STATES": self.states, "PAPER": paper}
        self.product = {"WIDTH": self.width, "PRECISION": PRODUCTS[precision], **self.shape}
        states = (self.row_count, self.states)
        self.largest, self.total = self._empty(2, self.row_count, self.states + 1)
        self.spread = self._empty(*states)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def _parts(self, tiles: int, items: int) -> tuple[int, int]:
        """Parts of the items, and the items of each."""
        item_tiles = blocks(self.item_count, items)
        per_part = blocks(item_tiles, parts(tiles, item_tiles, self.device)) * items
        return blocks(self.item_count, per_part), per_part

    def _run_best(self, candidates: Callable[..., tuple[Config, ...]], run: Callable[[Config], Any]) -> Any:
        kind = (*self.product.values(), magnitude(self.row_count), magnitude(self.item_count))
        configs_of_kernel = candidates(self.arch, self.dtype, self.width, self.states)
        return run_best(candidates.__name__, (self.dtype, *kind), configs_of_kernel, self.device, run)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Cross-entropy and divergence of each row, the latter over all pairs."""
        return self._run_best(configs.ensemble_statistics, self._statistics)

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

    def rows_gradient(self, kl_weight: float) -> Tensor:
        return self._run_best(configs.ensemble_rows_gradient, lambda chosen: self._rows_gradient(chosen, kl_weight))

    def _rows_gradient(self, chosen: Config, kl_weight: float) -> Tensor:
        row_tiles, column_tiles = blocks(self.row_count, chosen["ROWS"]), blocks(self.width, chosen["COLUMNS"])
        count, per_part = self._parts(row_tiles * column_tiles, chosen["ITEMS"])
        gradient = self._empty(count, *self.rows.shape)
        launch(
            ensemble_rows_gradient, (row_tiles * count, column_tiles), chosen,
            self.rows, self.table, self.target, self.largest, self.total, self.spread, self.share, gradient,
            self.row_count, self.item_count, per_part, self.ignore_index, self.scale, -kl_weight / self.pairs,
            **self.product,
        )  # fmt: skip
        return gradient[0] if count == 1 else gradient.sum(0)

    def table_gradient(self, kl_weight: float) -> Tensor:
        gradient = self._empty(self.item_count, self.width)

        def run(chosen: Config) -> None:
            launch(
                ensemble_table_gradient,
                (blocks(self.item_count, chosen["ITEMS"]), blocks(self.width, chosen["COLUMNS"])), chosen,
                self.rows, self.table, self.target, self.largest, self.total, self.spread, self.share, gradient,
                self.row_count, self.item_count, self.ignore_index, self.scale, -kl_weight / self.pairs,
                **self.product,
            )  # fmt: skip

        self._run_best(configs.ensemble_table_gradient, run)
        return gradient
