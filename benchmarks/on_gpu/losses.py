"""Losses over a catalogue and within a batch, with their gradients, by several contenders, over rotating inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial

import naive
import torch
import torch.nn.functional as F
from torch import Tensor

from on_gpu.comparison import Calls, Results
from rearec_kernels import annealed_cross_entropy, annealed_temperatures, ensemble_reasoning_loss, reasoning_info_nce

TEMPERATURE, ALPHA, KL_WEIGHT = 0.07, 1.5, 0.05
# Of the logits at the last temperature: some items take most of the probability, and none underflows.
LOGIT_DEVIATION = 4.0

Loss = Callable[[], Tensor]
# Of hidden [R, d], weight [N, d] and target [R], for plain cross-entropy.
FusedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LossShape:
    """Rows R of T states of width d, over N items; for the contrastive loss no items, but clean states."""

    rows: int
    states: int
    items: int
    width: int
    precision: str

    @property
    def product_operations(self) -> int:
        """Of one product of all states and all items (of a state: and those of its step)."""
        return 2 * self.rows * self.states * (self.items or self.rows) * self.width


class Inputs:
    """One set of inputs in float32, as under autocast: every contender rounds them itself."""

    def __init__(self, shape: LossShape, device: torch.device, seed: int) -> None:
        self.shape = shape
        generator = torch.Generator(device).manual_seed(seed)
        # One state: plain cross-entropy, so that nobody has to scale.
        self.host_temperature = annealed_temperatures(TEMPERATURE, ALPHA, shape.states - 1)
        if shape.states == 1:
            self.host_temperature.fill_(1.0)
        self.host_step_weight = torch.full((shape.states,), 0.5)
        self.host_step_weight[-1] = 1.0
        self.temperature, self.step_weight = (
            x.float().to(device) for x in (self.host_temperature, self.host_step_weight)
        )

        def random(*size: int) -> Tensor:
            return torch.randn(*size, device=device, generator=generator)

        states = shape.rows, shape.states, shape.width
        self.hidden = F.normalize(random(*states), dim=-1).requires_grad_()
        if shape.items:
            scale = LOGIT_DEVIATION * float(self.host_temperature[-1])
            self.table = (random(shape.items, shape.width) * scale).requires_grad_()
            self.target = torch.randint(shape.items, (shape.rows,), device=device, generator=generator)
        else:
            self.table = F.normalize(random(*states), dim=-1).requires_grad_()

    @cached_property
    def product_operands(self) -> tuple[Tensor, Tensor]:
        """[R * T, d] and [d, N] in bfloat16, N rounded up: cuBLAS is several times slower with rows not aligned."""
        with torch.no_grad():
            table = F.pad(self.table, (0, 0, 0, -self.table.shape[0] % 64)) if self.shape.items else self.table
            return self.hidden.flatten(0, 1).bfloat16(), table.bfloat16().T

    def gradients(self, loss: Loss) -> Results:
        value = loss()
        return [value.detach(), *torch.autograd.grad(value, (self.hidden, self.table))]


def input_sets(shape: LossShape, device: torch.device, rotated_bytes: int) -> list[Inputs]:
    """So many that what a call reads of all of them, and the gradients it writes, are at least `rotated_bytes`."""
    sets = [Inputs(shape, device, 0)]
    count = math.ceil(rotated_bytes / (2 * (sets[0].hidden.nbytes + sets[0].table.nbytes)))
    return sets + [Inputs(shape, device, seed) for seed in range(1, count)]


def products(sets: Sequence[Inputs]) -> Calls:
    """One product in bfloat16 of what the loss multiplies, to reckon times in."""
    return [partial(_product, s) for s in sets]


def _product(s: Inputs) -> Results:
    return [torch.mm(*s.product_operands)]


def cross_entropy(sets: Sequence[Inputs], compiled: bool) -> tuple[dict[str, Calls], dict[str, str]]:
    """Loss and gradients: the contenders, and those that cannot take part, each with its reason.

    compiled: with naive PyTorch under torch.compile and, for one state, the fused losses of torch and others.
    """
    contenders: dict[str, Calls] = {
        "ours": [partial(s.gradients, partial(_cross_entropy, s)) for s in sets],
        "naive": _plain(sets, partial(_naive_cross_entropy, naive.annealed_cross_entropy)),
    }
    absent: dict[str, str] = {}
    if not compiled:
        return contenders, absent
    torch.compiler.reset()  # what was compiled for other shapes counts against a limit
    backend = "inductor" if sets[0].hidden.is_cuda else "eager"
    compiled_naive = torch.compile(naive.annealed_cross_entropy, backend=backend, dynamic=False)
    contenders["torch.compile"] = _plain(sets, partial(_naive_cross_entropy, compiled_naive))
    for who, find in FUSED.items() if sets[0].shape.states == 1 else ():
        try:
            loss = find()
        except Exception as error:  # theirs: not there, or not for this torch
            absent[who] = f"not importable: {type(error).__name__}: {error}"
            continue
        contenders[who] = [partial(s.gradients, partial(_fused, loss, s)) for s in sets]
    return contenders, absent


def ensemble(sets: Sequence[Inputs]) -> dict[str, Calls]:
    return {
        "ours": [partial(s.gradients, partial(_ensemble, s)) for s in sets],
        "naive": _plain(sets, lambda s: naive.ensemble_loss(s.hidden, s.table, s.target, TEMPERATURE, KL_WEIGHT)),
    }


def contrast(sets: Sequence[Inputs]) -> dict[str, Calls]:
    return {
        "ours": [partial(s.gradients, partial(_contrast, s)) for s in sets],
        "naive": _plain(sets, lambda s: naive.info_nce(s.hidden, s.table, TEMPERATURE)),
    }


def _cross_entropy(s: Inputs) -> Tensor:
    return annealed_cross_entropy(
        s.hidden, s.table, s.target, temperature=s.host_temperature, step_weight=s.host_step_weight,
        precision=s.shape.precision,
    )  # fmt: skip


def _naive_cross_entropy(loss: Callable[..., Tensor], s: Inputs) -> Tensor:
    return loss(s.hidden, s.table, s.target, s.temperature, s.step_weight)


def _ensemble(s: Inputs) -> Tensor:
    return ensemble_reasoning_loss(
        s.hidden, s.table, s.target, temperature=TEMPERATURE, kl_weight=KL_WEIGHT, precision=s.shape.precision
    ).loss


def _contrast(s: Inputs) -> Tensor:
    return reasoning_info_nce(s.hidden, s.table, temperature=TEMPERATURE, precision=s.shape.precision)


# --- the others ---


def _plain(sets: Sequence[Inputs], loss: Callable[[Inputs], Tensor]) -> Calls:
    """Plain PyTorch in the precision of the case: under autocast, with TF32, or neither."""
    return [partial(_plain_gradients, s, loss) for s in sets]


def _plain_gradients(s: Inputs, loss: Callable[[Inputs], Tensor]) -> Results:
    def autocast_loss() -> Tensor:
        with torch.autocast(s.hidden.device.type, torch.bfloat16, enabled=s.shape.precision == "bf16"):
            return loss(s)

    with _tf32_products() if s.shape.precision == "tf32" else nullcontext():
        return s.gradients(autocast_loss)


@contextmanager
def _tf32_products() -> Iterator[None]:
    """Inside the block, torch's products of float32 on a GPU are TF32; also those of the backward pass."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _fused(loss: FusedLoss, s: Inputs) -> Tensor:
    return loss(s.hidden[:, 0].bfloat16(), s.table.bfloat16(), s.target)


def _torch_fused() -> FusedLoss:
    return F.linear_cross_entropy  # from torch 2.13


def _torch_chunked() -> FusedLoss:
    return partial(F.linear_cross_entropy, options=torch.nn.LinearCrossEntropyOptions())


def _liger() -> FusedLoss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss()
    return lambda hidden, weight, target: loss(weight, hidden, target)


def _cut() -> FusedLoss:
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy


# Raises where there is none.
FUSED: dict[str, Callable[[], FusedLoss]] = {
    "F.linear_cross_entropy": _torch_fused,
    "F.linear_cross_entropy, chunked": _torch_chunked,
    "Liger-Kernel": _liger,
    "cut-cross-entropy": _cut,
}
