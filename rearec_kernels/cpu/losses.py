"""Native losses: products by torch, everything between them by one pass of csrc/cpu/losses.cpp over the logits; or all
of it by csrc/amx, where the machine has tiles and the precision is made for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rearec_kernels import _C  # type: ignore[attr-defined]
from rearec_kernels.cpu import tiled_softmax as tiles
from rearec_kernels.cpu.chunks import even_chunks, operand, part_of, slice_address
from rearec_kernels.cpu.memory import empty
from rearec_kernels.precision import ieee_products

# Row chunk by row chunk: one product writes the logits into scratch, one native pass turns them into statistics and,
# in place, into their gradient, and two products take that to the gradients of the operands. An efficient product wants
# some 200 rows; the scratch stays below the size of the table's gradient, or small.

_CHUNK_ROWS = (192, 384)
_SCRATCH_BYTES = 64 << 20


def _users_per_chunk(users: int, steps: int, items: int, width: int) -> int:
    rows = min(max(width, _CHUNK_ROWS[0]), _CHUNK_ROWS[1])
    budget = max(_SCRATCH_BYTES, 4 * items * width)
    return max(1, min(min(rows, budget // (4 * items)) // steps, part_of(users, steps * items)))


def _padded(columns: int) -> int:
    return -(-columns // _C.LOGITS_PADDING) * _C.LOGITS_PADDING


def _nothing() -> Tensor:
    """In place of a gradient that is not needed."""
    return torch.empty(0, dtype=torch.float32, device="cpu")


def _softmax_chunks(
    rows: Tensor,
    table: Tensor,
    target: Tensor,
    steps: int,
    run: Callable[[tuple[int, ...], slice], None],
    grad_rows: Tensor | None = None,
    grad_table: Tensor | None = None,
) -> None:
    """rows [U * steps, d] against table [N, d]: `run` sees each chunk of logits with the users that it belongs to.

    The gradients, if any, are filled with what `run` left in place of the logits.
    """
    items, width = table.shape
    users = target.shape[0]
    chunks = list(even_chunks(users, _users_per_chunk(users, steps, items, width)))
    scratch = empty((chunks[0].stop * steps, _padded(items)))
    for chunk in chunks:
        part = rows[chunk.start * steps : chunk.stop * steps]
        logits = scratch[: part.shape[0], :items]
        torch.mm(part, table.t(), out=logits)
        address = target.data_ptr() + chunk.start * target.element_size()
        run((logits.data_ptr(), *logits.shape, logits.stride(0), steps, address, torch.get_num_threads()), chunk)
        if grad_rows is not None:
            torch.mm(logits, table, out=grad_rows[chunk.start * steps : chunk.stop * steps])
        if grad_table is not None:
            torch.addmm(grad_table, logits.t(), part, beta=int(chunk.start > 0), out=grad_table)


class Passes(NamedTuple):
    """Over the logits: for statistics, and from these for gradients."""

    statistics: bool
    gradient: bool


_CROSS_ENTROPY = {
    Passes(True, True): "cross_entropy",
    Passes(True, False): "cross_entropy_statistics",
    Passes(False, True): "cross_entropy_gradient",
}


class _Counted:
    """The rows of a loss over the catalogue that are not ignored, as operands, and where their gradients go."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, precision: str, needed: Sequence[bool]
    ) -> None:
        self.precision = precision
        counted = target != ignore_index
        self.index = counted.nonzero().squeeze(1)
        if tiles.serve(precision):
            self.index = self.index[target[self.index].argsort()]  # what csrc/amx asks for
            hidden, weight = tiles.operand(hidden), tiles.operand(weight)
        else:
            hidden, weight = operand(hidden, precision), operand(weight, precision)
        self.all = not tiles.serve(precision) and bool(counted.all())
        self.shape = hidden.shape
        self.target = target[self.index].long()
        self.users, self.steps = self.target.shape[0], hidden.shape[1]
        self.rows = (hidden if self.all else hidden[self.index]).reshape(-1, hidden.shape[2]).contiguous()
        self.table = weight
        self.grad_rows = empty(self.rows.shape) if needed[0] else None
        self.grad_table = empty(weight.shape) if needed[1] else None

    def chunks(self, run: Callable[[tuple[int, ...], slice], None]) -> None:
        if self.users > 0:
            with ieee_products(self.rows.device):
                _softmax_chunks(self.rows, self.table, self.target, self.steps, run, self.grad_rows, self.grad_table)

    def catalogue(self, passes: Passes) -> tiles.Catalogue:
        return tiles.Catalogue(
            self.rows, self.table, self.target, self.steps, self.grad_rows, self.grad_table, self.precision, *passes
        )

    def scatter(self, x: Tensor) -> Tensor:
        """[counted rows, ...] -> [R, ...], 0 in ignored rows."""
        return x if self.all else x.new_zeros((self.shape[0], *x.shape[1:])).index_copy_(0, self.index, x)

    def gradients(self) -> tuple[Tensor, Tensor]:
        if self.users == 0 and self.grad_table is not None:
            self.grad_table.zero_()
        grad_hidden = _nothing() if self.grad_rows is None else self.scatter(self.grad_rows.view(-1, *self.shape[1:]))
        return grad_hidden, _nothing() if self.grad_table is None else self.grad_table


def annealed_cross_entropy(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: Tensor, step_weight: Tensor,
    precision: str, hidden_needed: bool, weight_needed: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    needed = (hidden_needed, weight_needed)
    counted = _Counted(hidden, weight, target, ignore_index, precision, needed)
    coefficient = (step_weight / max(1, counted.users)).float().expand(counted.users, -1).contiguous()
    statistics = _cross_entropy(counted, Passes(True, any(needed)), temperature, coefficient)
    loss = (statistics.losses().sum(0) * step_weight).sum() / max(1, counted.users)
    return loss.float(), *counted.gradients()


def annealed_cross_entropy_rows(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: Tensor, step_weight: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    counted = _Counted(hidden, weight, target, ignore_index, precision, (False, False))
    statistics = _cross_entropy(counted, Passes(True, False), temperature, None)
    return counted.scatter((statistics.losses() * step_weight).float()), counted.scatter(statistics.kept())


def annealed_cross_entropy_rows_backward(
    upstream: Tensor, statistics: Tensor, hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int,
    temperature: Tensor, step_weight: Tensor, precision: str, hidden_needed: bool, weight_needed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    counted = _Counted(hidden, weight, target, ignore_index, precision, (hidden_needed, weight_needed))
    coefficient = (upstream[counted.index] * step_weight).float().contiguous()
    known = statistics[counted.index]
    _cross_entropy(counted, Passes(False, True), temperature, coefficient, known)
    grad_hidden, grad_weight = counted.gradients()
    return grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype)


def _cross_entropy(
    counted: _Counted, passes: Passes, temperature: Tensor, coefficient: Tensor | None, known: Tensor | None = None
) -> _Statistics:
    """The passes over all logits."""
    statistics = _Statistics(counted.users, counted.steps, known)
    inverse_temperature = temperature.reciprocal().float()
    if tiles.serve(counted.precision):
        if counted.users > 0:
            addresses = statistics.addresses(slice(0, None), coefficient)
            counted.catalogue(passes).cross_entropy(inverse_temperature.data_ptr(), *addresses)
        return statistics
    kernel, rounded = getattr(_C, _CROSS_ENTROPY[passes]), counted.precision == "bf16"

    def run(logits: tuple[int, ...], chunk: slice) -> None:
        kernel(logits, inverse_temperature.data_ptr(), *statistics.addresses(chunk, coefficient), rounded)

    counted.chunks(run)
    return statistics


class _Statistics:
    """Per user and step: the largest logit, the sum of exponentials relative to it, the target's logit relative to it.

    The first two, [users, T, 2], are what a gradient pass of its own needs to know.
    """

    def __init__(self, users: int, steps: int, known: Tensor | None) -> None:
        self.shift, self.norm, self.target_logit = torch.zeros((3, users, steps), dtype=torch.float32, device="cpu")
        if known is not None:
            self.shift.copy_(known[..., 0])
            self.norm.copy_(known[..., 1])

    def addresses(self, chunk: slice, coefficient: Tensor | None) -> tuple[int, ...]:
        statistics = (self.shift, self.norm, self.target_logit)
        last = 0 if coefficient is None else slice_address(coefficient, chunk)
        return *(slice_address(x, chunk) for x in statistics), last

    def losses(self) -> Tensor:
        """[users, T] in float64."""
        return self.norm.double().log() - self.target_logit

    def kept(self) -> Tensor:
        return torch.stack([self.shift, self.norm], dim=-1)


def ensemble_reasoning_loss(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: float, kl_weight: float,
    kl_form: str, precision: str, hidden_needed: bool, weight_needed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    needed = (hidden_needed, weight_needed)
    steps, paper = hidden.shape[1], kl_form == "paper"
    counted = _Counted(hidden, weight, target, ignore_index, precision, needed)
    users, pairs = max(1, counted.users), 1 if paper else max(1, steps * (steps - 1))
    # Of the T states and then of their mean.
    shift, norm = torch.empty((2, counted.users, steps + 1), dtype=torch.float32, device="cpu")
    spread = torch.empty((counted.users, steps), dtype=torch.float32, device="cpu")
    target_logit = torch.empty(counted.users, dtype=torch.float32, device="cpu")
    kernel = _C.ensemble if any(needed) else _C.ensemble_statistics

    def arguments(users_of_chunk: slice) -> tuple[object, ...]:
        addresses = (slice_address(x, users_of_chunk) for x in (shift, norm, spread, target_logit))
        return 1 / temperature, paper, *addresses, 1 / users, -kl_weight / (users * pairs)

    if not tiles.serve(precision):
        counted.chunks(lambda logits, chunk: kernel(logits, *arguments(chunk), precision == "bf16"))
    elif counted.users > 0:
        counted.catalogue(Passes(True, any(needed))).ensemble(*arguments(slice(0, None)))
    log_norm = norm.double().log()
    cross_entropy = (log_norm[:, steps] - target_logit).sum() / users
    kl = (spread / norm[:, :steps].double()).sum() / temperature
    if paper:
        # Differences of logarithms of sums; their coefficients add up to 0, so what is common to all states cancels.
        relative = (shift[:, :steps] - shift[:, :1]).double() / temperature + log_norm[:, :steps]
        kl = kl - (relative * torch.arange(steps - 1, -steps, -2, device="cpu")).sum()
    kl = kl / (users * pairs)
    loss = cross_entropy - kl_weight * kl
    return loss.float(), cross_entropy.float(), kl.float(), *counted.gradients()


def reasoning_info_nce(
    noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float, precision: str,
    noised_needed: bool, clean_needed: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    contrast = _Contrast(noised, clean, row_group, temperature, precision, (noised_needed, clean_needed))
    count = max(1, noised.shape[0] * noised.shape[1])
    coefficient = torch.full(noised.shape[:2], 1 / count, dtype=torch.float32, device="cpu")
    losses, _ = contrast.steps(Passes(True, noised_needed or clean_needed), coefficient)
    return (losses.sum() / count).float(), *contrast.gradients()


def reasoning_info_nce_rows(
    noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float, precision: str
) -> tuple[Tensor, Tensor]:
    contrast = _Contrast(noised, clean, row_group, temperature, precision, (False, False))
    losses, statistics = contrast.steps(Passes(True, False))
    return losses.float(), statistics


def reasoning_info_nce_rows_backward(
    upstream: Tensor, statistics: Tensor, noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float,
    precision: str, noised_needed: bool, clean_needed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    contrast = _Contrast(noised, clean, row_group, temperature, precision, (noised_needed, clean_needed))
    contrast.steps(Passes(False, True), upstream.float(), statistics)
    grad_noised, grad_clean = contrast.gradients()
    return grad_noised.to(noised.dtype), grad_clean.to(clean.dtype)


class _Contrast:
    """Per step a cross-entropy of the noised states with the clean states as table and the row itself as target."""

    def __init__(
        self, noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float, precision: str,
        needed: Sequence[bool],
    ) -> None:  # fmt: skip
        self.precision = precision
        if tiles.serve(precision):
            self.noised, self.clean = tiles.operand(noised), tiles.operand(clean)
        else:
            self.noised, self.clean = (operand(x, precision).contiguous() for x in (noised, clean))
        self.grad_noised = empty(self.noised.shape) if needed[0] else None
        self.grad_clean = empty(self.clean.shape) if needed[1] else None
        self.inverse_temperature = torch.full((1,), 1 / temperature, dtype=torch.float32, device="cpu")
        self.group: Tensor | None = None
        if row_group is not None:
            # Any ids become small ones; padded like a row of logits.
            self.group = torch.zeros(_padded(noised.shape[0]), dtype=torch.int32, device="cpu")
            self.group[: noised.shape[0]] = row_group.unique(return_inverse=True)[1]

    def steps(
        self, passes: Passes, coefficient: Tensor | None = None, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The passes over all steps; losses [R, T] in float64 and statistics [R, T, 2]."""
        rows, steps, _ = self.noised.shape
        losses = torch.zeros((rows, steps), dtype=torch.float64, device="cpu")
        kept = torch.zeros((rows, steps, 2), dtype=torch.float32, device="cpu")
        target = torch.arange(rows, device="cpu")
        run = self._by_tiles if tiles.serve(self.precision) else self._by_chunks
        for t in range(steps if rows > 0 else 0):
            statistics = _Statistics(rows, 1, None if known is None else known[:, t : t + 1])
            run(passes, t, target, statistics, None if coefficient is None else coefficient[:, t].contiguous())
            losses[:, t], kept[:, t] = statistics.losses().squeeze(1), statistics.kept().squeeze(1)
        return losses, kept

    def _step(self, t: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        grad_noised, grad_clean = (None if g is None else g[:, t] for g in (self.grad_noised, self.grad_clean))
        return self.noised[:, t], self.clean[:, t], grad_noised, grad_clean

    def _by_tiles(
        self, passes: Passes, t: int, target: Tensor, statistics: _Statistics, coefficient: Tensor | None
    ) -> None:
        noised, clean, grad_noised, grad_clean = self._step(t)
        catalogue = tiles.Catalogue(
            noised, clean, target, 1, grad_noised, grad_clean, self.precision, *passes, self.group
        )
        addresses = statistics.addresses(slice(0, None), coefficient)
        catalogue.cross_entropy(self.inverse_temperature.data_ptr(), *addresses)

    def _by_chunks(
        self, passes: Passes, t: int, target: Tensor, statistics: _Statistics, coefficient: Tensor | None
    ) -> None:
        noised, clean, *gradients = self._step(t)
        kernel = getattr(_C, _CROSS_ENTROPY[passes])
        with ieee_products(noised.device):
            _softmax_chunks(
                noised,
                clean,
                target,
                1,
                partial(self._run, kernel, statistics, coefficient),
                *gradients,
            )

    def _run(
        self, kernel: Callable[..., None], statistics: _Statistics, coefficient: Tensor | None,
        logits: tuple[int, ...], chunk: slice,
    ) -> None:  # fmt: skip
        if self.group is not None:
            _C.mask_groups(logits, self.group.data_ptr())
        addresses = statistics.addresses(chunk, coefficient)
        kernel(logits, self.inverse_temperature.data_ptr(), *addresses, self.precision == "bf16")

    def gradients(self) -> tuple[Tensor, Tensor]:
        grad_noised, grad_clean = (_nothing() if g is None else g for g in (self.grad_noised, self.grad_clean))
        return grad_noised, grad_clean


def scaled_gradients(
    upstream: Tensor, first: Tensor, second: Tensor, first_gradient: Tensor, second_gradient: Tensor
) -> tuple[Tensor, Tensor]:
    def scaled(gradient: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.mul(gradient, upstream, out=empty(gradient.shape, gradient.dtype)).to(dtype)

    return scaled(first_gradient, first.dtype), scaled(second_gradient, second.dtype)
