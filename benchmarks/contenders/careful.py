"""The best plain PyTorch a careful user would write: fused attention, chunked losses, buffers that are reused."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


class PreallocatedCache:
    """K and V of prefix and steps in one buffer [R, H, C + K, D] (heads first, as SDPA likes it)."""

    def __init__(self, prefix_k: Tensor, prefix_v: Tensor, steps: int) -> None:
        self.slots = prefix_k.shape[1]
        self.k, self.v = (F.pad(x.transpose(1, 2), (0, 0, 0, steps)).contiguous() for x in (prefix_k, prefix_v))

    def attention_steps(
        self, visible: Tensor | None, q: list[Tensor], k: list[Tensor], v: list[Tensor]
    ) -> list[Tensor]:
        """visible: bool, or what SDPA adds to scores, [R, 1, 1, C + K]; None when every slot is real."""
        steps = enumerate(zip(q, k, v, strict=True))
        return [self.attend(step, visible, query, key, value) for step, (query, key, value) in steps]

    def attend(self, step: int, visible: Tensor | None, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One step (from 0): query, key and value [R, H, D] -> [R, H, D]."""
        stop = self.slots + step + 1
        self.k[:, :, stop - 1], self.v[:, :, stop - 1] = key, value
        mask = None if visible is None else visible[..., :stop]
        out = F.scaled_dot_product_attention(query[:, :, None], self.k[:, :, :stop], self.v[:, :, :stop], mask)
        return out.squeeze(2)


def attention_steps_sdpa(
    prefix_k: Tensor, prefix_v: Tensor, visible: Tensor | None, q: list[Tensor], k: list[Tensor], v: list[Tensor]
) -> list[Tensor]:
    """Differentiable: SDPA over the prefix and the tokens so far. prefix [R, H, C, D]."""
    keys, values, outputs = prefix_k, prefix_v, []
    for query, key, value in zip(q, k, v, strict=True):
        keys, values = torch.cat([keys, key[:, :, None]], 2), torch.cat([values, value[:, :, None]], 2)
        mask = None if visible is None else visible[..., : keys.shape[2]]
        outputs.append(F.scaled_dot_product_attention(query[:, :, None], keys, values, mask).squeeze(2))
    return outputs


def attention_steps_split(
    prefix_k: Tensor, prefix_v: Tensor, visible: Tensor | None, q: list[Tensor], k: list[Tensor], v: list[Tensor]
) -> list[Tensor]:
    """Differentiable without concatenating K and V: scores of prefix and tokens apart. prefix [R, H, C, D]."""
    slots, outputs = prefix_k.shape[2], []
    for step, query in enumerate(q):
        keys, values = torch.stack(k[: step + 1], 2), torch.stack(v[: step + 1], 2)
        scaled = query[:, :, None] * query.shape[-1] ** -0.5
        prefix_scores = scaled @ prefix_k.mT
        if visible is not None:
            prefix_scores = prefix_scores.masked_fill(~visible[..., :slots], float("-inf"))
        weights = torch.cat([prefix_scores, scaled @ keys.mT], -1).softmax(-1)
        outputs.append((weights[..., :slots] @ prefix_v + weights[..., slots:] @ values).squeeze(2))
    return outputs


class _ChunkedLoss(torch.autograd.Function):
    """Gradients in the forward pass, chunk by chunk, with logits in one reused buffer."""

    @staticmethod
    def forward(ctx, hidden, weight, gradient_of_logits, chunk):  # type: ignore[no-untyped-def]
        rows, steps, width = hidden.shape
        flat, grad_hidden, grad_weight = hidden.reshape(-1, width), torch.empty_like(hidden), torch.zeros_like(weight)
        buffer = hidden.new_empty(min(chunk, rows) * steps, weight.shape[0])
        loss = hidden.new_zeros(())
        for first in range(0, rows, chunk):
            part = slice(first * steps, min(first + chunk, rows) * steps)
            logits = torch.mm(flat[part], weight.T, out=buffer[: flat[part].shape[0]])
            loss += gradient_of_logits(logits, slice(first, min(first + chunk, rows)))
            torch.mm(logits, weight, out=grad_hidden.view(-1, width)[part])
            grad_weight.addmm_(logits.T, flat[part])
        ctx.save_for_backward(grad_hidden, grad_weight)
        return loss

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad * grad_hidden, grad * grad_weight, None, None


def annealed_cross_entropy(
    hidden: Tensor, weight: Tensor, target: Tensor, temperature: Tensor, step_weight: Tensor, chunk: int = 128
) -> Tensor:
    rows, steps, _ = hidden.shape

    def gradient_of_logits(logits: Tensor, part: slice) -> Tensor:
        """Turns logits into their gradient, in place; returns the loss."""
        users = logits.view(-1, steps, logits.shape[1]).div_(temperature[:, None])
        index = target[part, None, None].expand(-1, steps, 1)
        own = users.gather(2, index)
        lse = users.logsumexp(-1, keepdim=True)
        scale = (step_weight / temperature / rows)[:, None]
        users.sub_(lse).exp_().mul_(scale).scatter_add_(2, index, -scale.expand(users.shape[0], steps, 1))
        return ((lse - own).squeeze(-1) * step_weight).sum() / rows

    return _ChunkedLoss.apply(hidden, weight, gradient_of_logits, chunk)


def ensemble_loss(
    hidden: Tensor, weight: Tensor, target: Tensor, temperature: float, kl_weight: float, chunk: int = 32
) -> Tensor:
    rows, steps, _ = hidden.shape

    def gradient_of_logits(logits: Tensor, part: slice) -> Tensor:
        z = logits.view(-1, steps, logits.shape[1]).div_(temperature)
        mean = z.mean(1)
        lse_mean = mean.logsumexp(-1, keepdim=True)
        index = target[part, None]
        cross_entropy = (lse_mean - mean.gather(1, index)).sum() / rows
        u = (z - mean[:, None]).mul_(steps)
        p = z.log_softmax(-1).exp_()
        expected = (p * u).sum(-1, keepdim=True)
        coefficient = kl_weight / (rows * steps * (steps - 1))
        common = mean.sub_(lse_mean).exp_().scatter_add_(1, index, -torch.ones_like(index, dtype=z.dtype))
        torch.mul(p, u.sub_(expected), out=z).mul_(-coefficient / temperature)
        z.add_(common[:, None], alpha=1 / (rows * steps * temperature))
        return cross_entropy - coefficient * expected.sum()

    return _ChunkedLoss.apply(hidden, weight, gradient_of_logits, chunk)


def step_by_step(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    hidden: Tensor, weight: Tensor, target: Tensor, temperature: Tensor, step_weight: Tensor,
) -> Tensor:  # fmt: skip
    """Annealed cross-entropy by a plain one of hidden [R, d], weight [N, d] and target [R]: one call per step."""
    losses = [w * loss(hidden[:, t] / temperature[t], weight, target) for t, w in enumerate(step_weight)]
    return torch.stack(losses).sum()


def info_nce(noised: Tensor, clean: Tensor, temperature: float) -> Tensor:
    rows, steps, _ = noised.shape
    similarity = torch.bmm(noised.transpose(0, 1) / temperature, clean.permute(1, 2, 0))
    return F.cross_entropy(similarity.view(steps * rows, rows), torch.arange(rows, device=noised.device).repeat(steps))


class PreallocatedScores:
    """Scores in one buffer kept between calls: no page faults after the first."""

    def __init__(
        self, rows: int, items: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.scores = torch.empty(rows, items, device=device, dtype=dtype)

    def topk(self, hidden: Tensor, weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
        scores, items = torch.mm(hidden, weight.T, out=self.scores).topk(k)
        return scores, items

    def rank(self, hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        torch.mm(hidden, weight.T, out=self.scores)
        own = self.scores.gather(1, target[:, None])
        return (self.scores > own).sum(1) + 0.5 * ((self.scores == own).sum(1) - 1)
