"""A softmax of rows over the items of a table: what a loss asks of it, however it is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rearec_kernels.cpu.chunks import slice_address
from rearec_kernels.ops.arguments import EnsembleSums
from rearec_kernels.ops.soft_targets import SoftTarget

EVERYONE = slice(0, None)


class Passes(NamedTuple):
    """Over the logits: for statistics, and from these for gradients."""

    statistics: bool
    gradient: bool


class CrossEntropyStatistics:
    """Per user and step: the largest logit, the sum of exponentials relative to it, the target's logit relative to it.
    With soft targets, their losses in place of the last.

    Args:
        known: the first two, [users, T, 2], for a gradient pass of its own.
    """

    def __init__(self, users: int, steps: int, known: Tensor | None = None) -> None:
        self.shift, self.norm, self.target_logit = torch.zeros((3, users, steps), dtype=torch.float32, device="cpu")
        self.soft_losses: Tensor | None = None
        if known is not None:
            self.shift.copy_(known[..., 0])
            self.norm.copy_(known[..., 1])

    def addresses(self, users: slice) -> tuple[int, int, int]:
        return (
            slice_address(self.shift, users),
            slice_address(self.norm, users),
            slice_address(self.target_logit, users),
        )

    def losses(self) -> Tensor:
        """[users, T] in float64."""
        if self.soft_losses is not None:
            return self.soft_losses
        return self.norm.double().log() - self.target_logit

    def kept(self) -> Tensor:
        """What a gradient pass of its own needs to know."""
        return torch.stack([self.shift, self.norm], dim=-1)


class EnsembleStatistics:
    """Per user, of the T states and then of their mean: the largest logit, and the sum of exponentials relative to it;
    of each state, its part of the divergence; of the mean, the target's logit relative to the largest.

    Args:
        known: all of these, for a gradient pass of its own.
    """

    def __init__(self, users: int, steps: int, known: EnsembleSums | None = None) -> None:
        self.shift, self.norm = torch.empty((2, users, steps + 1), dtype=torch.float32, device="cpu")
        self.spread = torch.empty((users, steps), dtype=torch.float32, device="cpu")
        self.target_logit = torch.empty(users, dtype=torch.float32, device="cpu")
        if known is not None:
            for own, given in zip(self.sums, known, strict=True):
                own.copy_(given)

    @property
    def sums(self) -> EnsembleSums:
        return EnsembleSums(self.shift, self.norm, self.spread, self.target_logit)

    def addresses(self, users: slice) -> tuple[int, ...]:
        return tuple(slice_address(x, users) for x in self.sums)


class EnsembleNumbers(NamedTuple):
    """What the kernels of the ensemble loss take besides tensors."""

    inverse_temperature: float
    paper: bool  # the form of the divergence
    cross_entropy_factor: float  # of its gradient
    divergence_factor: float


@dataclass
class SoftmaxOverItems(ABC):
    """Rows, of which `steps` after another belong to one user, against a table of items, one of which is the user's
    target, or several with a mass each. Keeps the tensors alive whose addresses the kernels take.

    Attributes:
        rows: [users * steps, d], as `prepared` makes it.
        table: [N, d], likewise.
        target: int64 [users]; ascending if `wants_sorted_targets`. -1 for none, as is to be with soft targets.
        grad_rows, grad_table: float32, filled by a gradient pass; None where they are not needed.
        group: int32 [N or more]; items in the group of a row's target, itself excepted, are left out. None for none.
        soft: the targets of the users, for the cross-entropy.
    """

    rows: Tensor
    table: Tensor
    target: Tensor
    steps: int
    grad_rows: Tensor | None
    grad_table: Tensor | None
    precision: str
    group: Tensor | None = None
    soft: SoftTarget | None = None

    wants_sorted_targets: ClassVar[bool]

    @staticmethod
    @abstractmethod
    def prepared(x: Tensor, precision: str, dense: bool = False) -> Tensor:
        """x as rows or table; `dense` without gaps between rows, where that is of use."""

    @abstractmethod
    def cross_entropy(
        self,
        passes: Passes,
        inverse_temperature: Tensor,
        statistics: CrossEntropyStatistics,
        coefficient: Tensor | None = None,
    ) -> None:
        """Fills the statistics, or reads them, and fills the gradients of the sum of coefficient times loss.

        Args:
            inverse_temperature: float32 [steps].
            coefficient: float32 [users, steps], for a gradient pass.
        """

    def _with_total_mass(self, coefficient: Tensor | None) -> Tensor | None:
        """The coefficient of the softmax, of which a soft target has its total mass."""
        if self.soft is None or coefficient is None:
            return coefficient
        return (coefficient * self.soft.total).contiguous()

    @abstractmethod
    def ensemble(self, passes: Passes, statistics: EnsembleStatistics, numbers: EnsembleNumbers) -> None:
        """Fills the statistics, or reads them, and fills the gradients."""
