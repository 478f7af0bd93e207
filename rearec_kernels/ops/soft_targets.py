"""What a soft target adds to a cross-entropy whose softmax pass over the catalogue knows no target.

The loss sum_m mass_m (logsumexp z - z[item_m]) has the gradient total * softmax z - mass in z, of which the pass over
the catalogue computes the first part, with coefficients times the total mass. The second has M numbers a row, which are
added here, in plain PyTorch. Where an item is likely the two nearly cancel, and under "bf16" the rounding of the first
would be left over: it is taken off as well.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rearec_kernels.ops.arguments import AnnealedCrossEntropy
from rearec_kernels.precision import held, product, rounded

_CHUNK_NUMBERS = 2**20  # of the table, gathered at a time: they stay in the cache


class SoftTarget(NamedTuple):
    """Made by `soft_target`. A place without mass has some item, and adds nothing whatever that item scores."""

    items: Tensor  # int64 [R, M]; those with mass differ within a row
    mass: Tensor  # float32 [R, T, M]
    total: Tensor  # [R, T], of all items, also those that are not in this table

    def of_rows(self, rows: Tensor | slice) -> SoftTarget:
        return SoftTarget(self.items[rows], self.mass[rows], self.total[rows])

    def entries(self) -> Tensor:
        """The items of every state, [R, T, M], an index of logits [R, T, N]."""
        return self.items[:, None].expand(self.mass.shape)

    def losses(self, relative: Tensor, norm: Tensor) -> Tensor:
        """float64 [R, T].

        Args:
            relative: [R, T, M], the items' logits relative to the largest, over the temperature.
            norm: [R, T], the sum of the exponentials of such logits.
        """
        terms = self.mass.double() * (norm.double().log()[..., None] - relative.double())
        return torch.where(self.mass > 0, terms, 0.0).sum(-1)

    def logit_gradients(
        self, coefficient: Tensor, inverse_temperature: Tensor, relative: Tensor, norm: Tensor, precision: str
    ) -> Tensor:
        """[R, T, M]: what the gradient in the items' logits has besides coefficient * total * softmax.

        Args:
            coefficient: [R, T].
            inverse_temperature: [T].
            precision: that the pass over the catalogue has rounded its part of the gradient for.
        """
        # In the order of the kernels, so that a likely item of all the mass leaves no rounding.
        own = coefficient[..., None] * self.mass * inverse_temperature[:, None]
        if precision in ("fp32", "tf32"):
            return torch.where(self.mass > 0, -own, 0.0)
        likely = (coefficient * self.total * inverse_temperature / norm)[..., None] * relative.exp()
        return torch.where(self.mass > 0, (likely - own) - held(likely, precision), 0.0)


def soft_target(loss: AnnealedCrossEntropy, rows: Tensor | None = None) -> SoftTarget | None:
    """That of the given rows, int64, or of all; repeated items put together. None if the target is a hard one."""
    if loss.soft_items is None or loss.soft_mass is None:
        return None
    items, mass = (x if rows is None else x[rows] for x in (loss.soft_items.long(), loss.soft_mass))
    total = loss.total_mass if rows is None or loss.total_mass is None else loss.total_mass[rows]
    mass = mass[:, None] if mass.dim() == 2 else mass
    items, order = items.sort(dim=1, stable=True)
    begins = torch.ones_like(items)
    begins[:, 1:] = items[:, 1:] != items[:, :-1]
    place = begins.cumsum(1) - 1  # of each item among the different ones
    # In float64, so that the order in which a GPU adds does not show.
    mass = mass.double().gather(2, order[:, None].expand(mass.shape)).masked_fill((items < 0)[:, None], 0.0)
    together = torch.zeros_like(mass).scatter_add_(2, place[:, None].expand(mass.shape), mass).float()
    different = torch.zeros_like(items).scatter_(1, place, items.clamp(min=0))
    together = together.expand(-1, loss.hidden.shape[1], -1)
    return SoftTarget(different, together, together.sum(-1) if total is None else total.float())


class States(NamedTuple):
    """Rows, table and what a pass over the catalogue has found; operands are not rounded yet."""

    rows: Tensor  # [R, T, d]
    table: Tensor  # [N, d]
    shift: Tensor  # [R, T], the largest logit, not over the temperature
    norm: Tensor  # [R, T]
    inverse_temperature: Tensor  # [T]


class SparseGradients(NamedTuple):
    """Where to add the gradients, float32 and dense, or None."""

    coefficient: Tensor  # [R, T]
    rows: Tensor | None  # [R, T, d]
    table: Tensor | None  # [N, d]
    rows_exact: bool = False  # whether the pass has not rounded what it computed that of the rows from


def soft_losses(soft: SoftTarget, states: States, precision: str, gradients: SparseGradients | None) -> Tensor:
    """The losses, float64 [R, T]; adds what the gradients have besides those of coefficient * total * logsumexp.

    For a pass whose logits nobody sees: those of the targets are computed again, from the table's rows.
    """
    losses = torch.empty(states.shift.shape, dtype=torch.float64, device=states.shift.device)
    row_count, places = soft.items.shape
    size = max(1, _CHUNK_NUMBERS // max(1, places * states.table.shape[1]))
    for chunk in (slice(first, first + size) for first in range(0, row_count, size)):
        own, norm = soft.of_rows(chunk), states.norm[chunk]
        h, e = (rounded(x, precision, torch.float32) for x in (states.rows[chunk], states.table[own.items]))
        z = product(h, e.mT, precision)
        relative = (z - states.shift[chunk, :, None]) * states.inverse_temperature[:, None]
        losses[chunk] = own.losses(relative, norm)
        if gradients is None:
            continue
        known = gradients.coefficient[chunk], states.inverse_temperature, relative, norm
        dz = own.logit_gradients(*known, precision)
        if gradients.rows is not None:
            gradients.rows[chunk] += (own.logit_gradients(*known, "fp32") if gradients.rows_exact else dz) @ e
        if gradients.table is not None:
            _add_rows(gradients.table, own.items.flatten(), (dz.mT @ h).flatten(0, 1))
    return losses


def _add_rows(table: Tensor, items: Tensor, rows: Tensor) -> None:
    """In an order that is the same every time: `index_add_` on a GPU adds as it comes, `index_put_` sorts first."""
    if table.device.type == "cpu":
        table.index_add_(0, items, rows)
    else:
        table.index_put_((items,), rows, accumulate=True)
