"""The losses in plain PyTorch, in log space, one chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rearec_kernels.ops.arguments import (
    AnnealedCrossEntropy,
    EnsembleReasoning,
    EnsembleSums,
    InfoNCE,
    Needed,
    RowGradients,
)
from rearec_kernels.ops.ensemble import ensemble_pairs, ensemble_terms
from rearec_kernels.ops.losses import scaled_gradients as scaled_gradients  # the op as it is
from rearec_kernels.precision import accumulate_dtype, ieee_products, product, rounded
from rearec_kernels.reference.products import operands, row_chunks


def _gradient_buffers(first: Tensor, second: Tensor, needed: Needed) -> tuple[Tensor, Tensor]:
    return first.new_zeros(first.shape if needed.first else 0), second.new_zeros(second.shape if needed.second else 0)


def _one_hot(target: Tensor, valid: Tensor, items: int, dtype: torch.dtype) -> Tensor:
    """[R] -> [R, 1, N], no target in the rows that are not valid."""
    hit = target[:, None, None] == torch.arange(items, device=target.device)
    return hit.logical_and_(valid[:, None, None]).to(dtype)


def _soft_target(loss: AnnealedCrossEntropy, rows: slice) -> Tensor | None:
    """The mass of every item for the states of some rows, [rows, T, N] or [rows, 1, N], or None for a hard target."""
    if loss.soft_items is None or loss.soft_mass is None:
        return None
    dtype = accumulate_dtype(loss.hidden, loss.weight)
    items, mass = loss.soft_items[rows].long()[:, None], loss.soft_mass[rows].to(dtype)
    mass = (mass[:, None] if mass.dim() == 2 else mass).masked_fill(items < 0, 0.0)
    distribution = mass.new_zeros((*mass.shape[:2], loss.weight.shape[0]))
    return distribution.scatter_add_(-1, items.clamp(min=0).expand(mass.shape), mass)


def _statistics(z: Tensor, temperature: Tensor | float) -> Tensor:
    """[..., N] -> [..., 2]: the largest, and the sum over n of exp((z_n - the largest) / τ)."""
    largest = z.amax(-1)
    return torch.stack([largest, (z - largest[..., None]).div_(temperature).exp_().sum(-1)], dim=-1)


def _log_softmax(z: Tensor, statistics: Tensor, temperature: Tensor | float) -> Tensor:
    return (z - statistics[..., :1]).div_(temperature).sub_(statistics[..., 1:].log())


def annealed_cross_entropy(loss: AnnealedCrossEntropy, needed: Needed) -> tuple[Tensor, Tensor, Tensor]:
    """The mean over the rows that are not ignored: the per-row loss with 1 / their number as upstream gradient."""
    dtype = accumulate_dtype(loss.hidden, loss.weight)
    loss = loss._replace(hidden=loss.hidden.to(dtype), weight=loss.weight.to(dtype))
    losses, statistics = annealed_cross_entropy_rows(loss)
    upstream = torch.ones_like(losses) / (loss.target != loss.ignore_index).sum().clamp(min=1)
    gradients = annealed_cross_entropy_rows_backward(RowGradients(upstream, statistics), loss, needed)
    return (losses * upstream).sum(), *gradients


def annealed_cross_entropy_rows(loss: AnnealedCrossEntropy) -> tuple[Tensor, Tensor]:
    """w_t (lse z_rt - z_rt[y_r]) with z_rt = h_rt Eᵀ over τ_t, 0 in ignored rows; and the statistics of z_rt. With a
    soft target q, w_t (Σ_n q_n) lse z_rt - w_t q . z_rt."""
    valid = loss.target != loss.ignore_index
    with ieee_products(loss.hidden.device):
        h, e, _ = operands(loss.hidden, loss.weight, loss.precision, valid)
        tau, w = loss.temperature.to(h)[:, None], loss.step_weight.to(h)
        column = loss.target.masked_fill(~valid, 0)[:, None, None].expand(-1, h.shape[1], 1).long()
        losses, statistics = h.new_empty(h.shape[:2]), h.new_empty((*h.shape[:2], 2))
        for rows in row_chunks(h.shape[0], h.shape[1] * e.shape[0]):
            z = product(h[rows], e.T, loss.precision)
            statistics[rows] = _statistics(z, tau)
            log_p, q = _log_softmax(z, statistics[rows], tau), _soft_target(loss, rows)
            if q is None:
                losses[rows] = -log_p.gather(-1, column[rows]).squeeze(-1) * w
            else:
                losses[rows] = -torch.where(q > 0, q * log_p, 0.0).sum(-1) * w
    return losses.masked_fill_(~valid[:, None], 0.0), statistics


def annealed_cross_entropy_rows_backward(
    known: RowGradients, loss: AnnealedCrossEntropy, needed: Needed
) -> tuple[Tensor, Tensor]:
    """dz = w upstream (softmax z - 1_y), or w upstream ((Σ_n q_n) softmax z - q); dh = dz E / τ; dE = (dz / τ)ᵀ h."""
    valid = loss.target != loss.ignore_index
    with ieee_products(loss.hidden.device):
        h, e, dtype = operands(loss.hidden, loss.weight, loss.precision, valid)
        grad_hidden, grad_weight = _gradient_buffers(h, e, needed)
        tau = loss.temperature.to(h)
        coefficient = (known.upstream * loss.step_weight.to(h)).masked_fill(~valid[:, None], 0.0) / tau
        statistics = known.statistics.masked_fill(~valid[:, None, None], 1.0)  # whatever they are in ignored rows
        for rows in row_chunks(h.shape[0], h.shape[1] * e.shape[0]):
            p = _log_softmax(product(h[rows], e.T, loss.precision), statistics[rows], tau[:, None]).exp_()
            q = _soft_target(loss, rows)
            if q is None:
                difference = p - _one_hot(loss.target[rows], valid[rows], e.shape[0], dtype)
            else:
                total = q.sum(-1) if loss.total_mass is None else loss.total_mass[rows].to(dtype)
                difference = total[..., None] * p - q
            dlogits = rounded(coefficient[rows, :, None] * difference, loss.precision, dtype)
            if needed.first:
                grad_hidden[rows] = product(dlogits, e, loss.precision)
            if needed.second:
                grad_weight += product(dlogits.flatten(0, 1).T, h[rows].flatten(0, 1), loss.precision)
    return grad_hidden.to(loss.hidden.dtype), grad_weight.to(loss.weight.dtype)


def ensemble_reasoning_loss(loss: EnsembleReasoning, needed: Needed) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """CE(mean_t z_t) - λ KL. The logits of the mean state are the mean of the logits."""
    ensemble = _Ensemble(loss, needed)
    cross_entropy = kl = ensemble.h.new_zeros((), dtype=torch.float64)
    for rows, z in ensemble.chunks():
        sums = ensemble.sums(rows, z)
        terms = ensemble_terms(sums, loss)
        of_cross_entropy, of_kl = (x.masked_fill(~ensemble.valid[rows], 0.0).sum() for x in terms)
        cross_entropy, kl = cross_entropy + of_cross_entropy, kl + of_kl
        ensemble.add_gradients(rows, z, sums)
    cross_entropy, kl = (x / ensemble.count for x in (cross_entropy, kl))
    total, cross_entropy, kl = (x.to(ensemble.dtype) for x in (cross_entropy - loss.kl_weight * kl, cross_entropy, kl))
    return total, cross_entropy, kl, *ensemble.gradients()


def ensemble_sums(loss: EnsembleReasoning) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ensemble = _Ensemble(loss, Needed(False, False))
    rows, states, _ = ensemble.h.shape
    sizes = (rows, states + 1), (rows, states + 1), (rows, states), (rows,)
    found = EnsembleSums(*(ensemble.h.new_empty(size) for size in sizes))
    for chunk, z in ensemble.chunks():
        for x, of_chunk in zip(found, ensemble.sums(chunk, z), strict=True):
            x[chunk] = of_chunk
    return found


def ensemble_gradients(known: EnsembleSums, loss: EnsembleReasoning, needed: Needed) -> tuple[Tensor, Tensor]:
    ensemble = _Ensemble(loss, needed)
    for rows, z in ensemble.chunks():
        ensemble.add_gradients(rows, z, EnsembleSums(*(x[rows] for x in known)))
    return ensemble.gradients()


class _Ensemble:
    """The ensemble loss by chunks of rows with their logits z [rows, T, N], not over the temperature.

    Per state, u_i = Σ_j (z_i - z_j) over the other states j (official) or the later ones (paper), which takes O(T)
    sums. The divergence's gradient in z_i / τ is p_i (u_i - E_i[u_i]) / τ, in the paper's form plus
    Σ_{k<i} (p_i - p_k).
    """

    def __init__(self, loss: EnsembleReasoning, needed: Needed) -> None:
        self.loss, self.needed = loss, needed
        self.valid = loss.target != loss.ignore_index
        self.count = self.valid.sum().clamp(min=1)
        self.h, self.e, self.dtype = operands(loss.hidden, loss.weight, loss.precision, self.valid)
        self.grad_hidden, self.grad_weight = _gradient_buffers(self.h, self.e, needed)

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        with ieee_products(self.h.device):
            for rows in row_chunks(self.h.shape[0], self.h.shape[1] * self.e.shape[0]):
                yield rows, product(self.h[rows], self.e.T, self.loss.precision)

    def _differences(self, z: Tensor) -> Tensor:
        """The u of every state, by way of the differences to the first: states that agree give exact zeros."""
        steps = z.shape[1]
        z = z - z[:, :1]
        if self.loss.kl_form != "paper":
            return steps * z - z.sum(1, keepdim=True)
        later = torch.arange(steps - 1, -1, -1, device=z.device, dtype=z.dtype)[:, None]
        return later * z - (z.flip(1).cumsum(1).flip(1) - z)

    def _one_hot(self, rows: slice) -> Tensor:
        """[rows, N], no target in ignored rows and for items that are not here."""
        return _one_hot(self.loss.target[rows], self.valid[rows], self.e.shape[0], self.dtype).squeeze(1)

    def sums(self, rows: slice, z: Tensor) -> EnsembleSums:
        mean = z.mean(1)
        statistics = [_statistics(x, self.loss.temperature) for x in (z, mean[:, None])]
        largest, total = torch.cat(statistics, 1).unbind(-1)
        p = ((z - largest[:, :-1, None]) / self.loss.temperature).exp_()
        here = self._one_hot(rows)
        target_logit = (mean - largest[:, -1:]) / self.loss.temperature
        target_logit = torch.where(here > 0, target_logit, 0.0).sum(-1)
        return EnsembleSums(largest, total, (p * self._differences(z)).sum(-1), target_logit)

    def add_gradients(self, rows: slice, z: Tensor, sums: EnsembleSums) -> None:
        if not any(self.needed):
            return
        steps, tau = z.shape[1], self.loss.temperature
        largest, total = sums.largest[..., None], sums.total[..., None]
        p = (z - largest[:, :-1]).div_(tau).exp_().div_(total[:, :-1])
        of_mean = (z.mean(1) - largest[:, -1]).div_(tau).exp_().div_(total[:, -1])
        mean_difference = (sums.spread / sums.total[:, :-1])[..., None]
        kl_gradient = p * ((self._differences(z) - mean_difference) / tau)
        if self.loss.kl_form == "paper":
            earlier = torch.arange(steps, device=z.device, dtype=z.dtype)[:, None]
            kl_gradient += earlier * p - (p.cumsum(1) - p)
        own = (of_mean - self._one_hot(rows))[:, None] / steps
        dz = own - (self.loss.kl_weight / ensemble_pairs(self.loss)) * kl_gradient
        dz = dz.masked_fill(~self.valid[rows, None, None], 0.0) / self.count
        dlogits = rounded(dz / tau, self.loss.precision, self.dtype)
        if self.needed.first:
            self.grad_hidden[rows] = product(dlogits, self.e, self.loss.precision)
        if self.needed.second:
            h = self.h[rows].flatten(0, 1)
            self.grad_weight += product(dlogits.flatten(0, 1).T, h, self.loss.precision)

    def gradients(self) -> tuple[Tensor, Tensor]:
        return self.grad_hidden, self.grad_weight


def _positives(loss: InfoNCE) -> Tensor:
    """int64 [R]: the key of every anchor."""
    return torch.arange(loss.noised.shape[0], device=loss.noised.device) + loss.first_key


def _similarities(u: Tensor, v: Tensor, rows: slice, loss: InfoNCE) -> Tensor:
    """u_rt . v_jt as [rows, T, J], -inf for the other keys j of the group of r's own."""
    s = product(u[rows].transpose(0, 1), v.permute(1, 2, 0), loss.precision).transpose(0, 1)
    if loss.row_group is None:
        return s
    own, key = _positives(loss)[rows], torch.arange(v.shape[0], device=v.device)
    masked = (loss.row_group[own, None] == loss.row_group) & (own[:, None] != key)
    return s.masked_fill(masked[:, None], float("-inf"))


def reasoning_info_nce(loss: InfoNCE, needed: Needed) -> tuple[Tensor, Tensor, Tensor]:
    """The mean over rows and steps: the per-row loss with 1 / (R T) as upstream gradient."""
    dtype = accumulate_dtype(loss.noised, loss.clean)
    loss = loss._replace(noised=loss.noised.to(dtype), clean=loss.clean.to(dtype))
    losses, statistics = reasoning_info_nce_rows(loss)
    upstream = torch.full_like(losses, 1 / max(1, losses.numel()))
    gradients = reasoning_info_nce_rows_backward(RowGradients(upstream, statistics), loss, needed)
    return (losses * upstream).sum(), *gradients


def reasoning_info_nce_rows(loss: InfoNCE) -> tuple[Tensor, Tensor]:
    """lse_j s_t[r, j] - s_t[r, r] with s over τ, and the statistics of s_t[r]."""
    with ieee_products(loss.noised.device):
        u, v, _ = operands(loss.noised, loss.clean, loss.precision)
        losses, statistics = u.new_empty(u.shape[:2]), u.new_empty((*u.shape[:2], 2))
        own = _positives(loss)[:, None, None].expand(-1, u.shape[1], 1)
        for rows in row_chunks(u.shape[0], u.shape[1] * v.shape[0]):
            s = _similarities(u, v, rows, loss)
            statistics[rows] = _statistics(s, loss.temperature)
            losses[rows] = -_log_softmax(s, statistics[rows], loss.temperature).gather(-1, own[rows]).squeeze(-1)
    return losses, statistics


def reasoning_info_nce_rows_backward(known: RowGradients, loss: InfoNCE, needed: Needed) -> tuple[Tensor, Tensor]:
    """ds = upstream (softmax s - 1_r); du = ds v / τ; dv = (ds / τ)ᵀ u, step by step."""
    with ieee_products(loss.noised.device):
        u, v, dtype = operands(loss.noised, loss.clean, loss.precision)
        grad_noised, grad_clean = _gradient_buffers(u, v, needed)
        own, key = _positives(loss), torch.arange(v.shape[0], device=v.device)
        for rows in row_chunks(u.shape[0], u.shape[1] * v.shape[0]):
            s = _similarities(u, v, rows, loss)
            p = _log_softmax(s, known.statistics[rows], loss.temperature).exp_()
            one_hot = (own[rows, None, None] == key).to(dtype)
            ds = rounded(known.upstream[rows, :, None] * (p - one_hot) / loss.temperature, loss.precision, dtype)
            if needed.first:
                grad_noised[rows] = product(ds.transpose(0, 1), v.transpose(0, 1), loss.precision).transpose(0, 1)
            if needed.second:
                grad_clean += product(ds.permute(1, 2, 0), u[rows].transpose(0, 1), loss.precision).transpose(0, 1)
    return grad_noised.to(loss.noised.dtype), grad_clean.to(loss.clean.dtype)
