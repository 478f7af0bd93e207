"""Inputs of the losses, and the losses of plain PyTorch in the precision that ours computes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rearec_kernels import annealed_temperatures

TEMPERATURE, ALPHA, KL_WEIGHT = 0.07, 1.5, 0.05

Loss = Callable[[], Tensor]
Gradients = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Shape:
    """Rows R of T states of width d, over N items; for the contrastive loss no items, but clean states.

    scale: of the item table, whose entries are normal: states of length 1 have logits of std scale / temperature.
    """

    rows: int
    items: int
    states: int = 3
    width: int = 256
    scale: float = 1.0

    @property
    def product_operations(self) -> int:
        """Of one product of all states and all items (of a state: and those of its step)."""
        return 2 * self.rows * self.states * (self.items or self.rows) * self.width


class Inputs:
    """One set of inputs in float32, as under autocast: every contender rounds them itself."""

    def __init__(self, shape: Shape, device: torch.device | str = "cpu", seed: int = 0) -> None:
        self.shape = shape
        generator = torch.Generator(device).manual_seed(seed)

        def random(*size: int) -> Tensor:
            return torch.randn(*size, device=device, generator=generator)

        # One state: plain cross-entropy, so that nobody has to scale.
        plain = shape.states == 1
        self.host_temperature = [1.0] if plain else annealed_temperatures(TEMPERATURE, ALPHA, shape.states - 1).tolist()
        self.host_step_weight = [*[1 / max(1, shape.states - 1)] * (shape.states - 1), 1.0]
        self.temperature = torch.tensor(self.host_temperature, device=device)
        self.step_weight = torch.tensor(self.host_step_weight, device=device)
        states = shape.rows, shape.states, shape.width
        self.hidden = F.normalize(random(*states), dim=-1).requires_grad_()
        if shape.items:
            self.table = (random(shape.items, shape.width) * shape.scale).requires_grad_()
            self.target = torch.randint(shape.items, (shape.rows,), device=device, generator=generator)
        else:
            self.table = F.normalize(random(*states), dim=-1).requires_grad_()

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """Of the annealed cross-entropies of plain PyTorch."""
        return self.hidden, self.table, self.target, self.temperature, self.step_weight

    @property
    def bytes_used(self) -> int:
        """What a call reads, and the gradients it writes."""
        return 2 * (self.hidden.nbytes + self.table.nbytes)

    @cached_property
    def product_operands(self) -> tuple[Tensor, Tensor]:
        """[R * T, d] and [d, N] in bfloat16, N rounded up: cuBLAS is several times slower with rows not aligned."""
        with torch.no_grad():
            table = F.pad(self.table, (0, 0, 0, -self.table.shape[0] % 64))
            return self.hidden.flatten(0, 1).bfloat16(), table.bfloat16().T

    def product(self) -> Tensor:
        """One product in bfloat16 of what the loss multiplies, to reckon times in."""
        return torch.mm(*self.product_operands)

    def gradients(self, loss: Loss) -> Gradients:
        """A call that computes the loss, and its gradients with respect to the states and the table."""

        def call() -> Sequence[Tensor]:
            value = loss()
            return [value.detach(), *torch.autograd.grad(value, (self.hidden, self.table))]

        return call

    def plain(self, loss: Callable[..., Tensor], *arguments: Any, precision: str = "fp32") -> Gradients:
        """The same of plain PyTorch in a precision: under autocast, with TF32 products, or neither."""
        call = self.gradients(partial(_autocast, partial(loss, *arguments), precision, self.hidden.device.type))
        return partial(_with_tf32, call) if precision == "tf32" else call


def _autocast(loss: Loss, precision: str, device: str) -> Tensor:
    with torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext():
        return loss()


def _with_tf32(call: Gradients) -> Sequence[Tensor]:
    with tf32_products():
        return call()


@contextmanager
def tf32_products() -> Iterator[None]:
    """Inside the block, torch's products of float32 on a GPU are TF32; also those of the backward pass."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before
