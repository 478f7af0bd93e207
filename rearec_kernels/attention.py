"""Attention of reasoning tokens over a prefix cache: appends and attends in one call, differentiable throughout."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import rearec_kernels.ops  # noqa: F401  (registers torch.ops.rearec)
from rearec_kernels.arguments import as_int, as_number, describe
from rearec_kernels.cache import ReasoningCache
from rearec_kernels.dispatch import resolve_backend
from rearec_kernels.dropout import checked_mask_rows, seed_tensor
from rearec_kernels.native import MAX_HEAD_DIM
from rearec_kernels.ops.arguments import MaskRows

_NAME = "cached_reason_attention"


def cached_reason_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: ReasoningCache,
    *,
    step: int | None = None,
    softmax_scale: float | None = None,
    dropout_p: float = 0.0,
    seed: int | Tensor | None = None,
    mask_rows: MaskRows | None = None,
) -> Tensor:
    """Appends k, v as new reasoning tokens of every row and attends q to the row's prefix slots and tokens.

    The new tokens are causal among themselves. Differentiable in q, k, v and the prefix K/V of the cache, through any
    number of steps; the prefix gradient of all steps is computed and written once. Differentiating twice raises.
    ReaRec (arXiv 2503.22675), section 3.2: the step k of the latent reasoning is one call per layer with Q = 1.

    Args:
        q: [R, Q, H, D], or [R, H, D] for one new token per row.
        k, v: like q with the cache's Hkv heads; H is a multiple of Hkv and query head h reads head h // (H / Hkv).
        cache: appended to. Its dtype is the storage and compute-input dtype; accumulation is float32 (float64 for it).
        step: the token slot of the first new token, default `cache.length`. Calling again with a slot already filled
            recomputes it and gives the same result: activation checkpointing (use_reentrant=False).
        softmax_scale: factor of q.k, default 1 / sqrt(D).
        dropout_p: probability of dropping an attention probability, in [0, 1).
        seed: of the dropout mask (Philox4x32-10; counter = key slot, query token, head, row): an int, or int64 [1] on
            the device; None draws one from torch's generator.
        mask_rows: which rows of a larger call the R rows are: the mask is then that of the larger call there, if its
            prefixes have as many slots. None: they are all rows.

    Returns:
        Of q's shape and dtype.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value.
        IndexError: `step` leaves a gap, or the tokens do not fit into max_tokens.
        RuntimeError: a checkpoint with use_reentrant=True computes a step again.
        NotImplementedError: an argument has a tangent, of forward-mode AD.

    Examples:
        >>> k, v = torch.zeros(1, 3, 2, 4), torch.ones(1, 3, 2, 4)  # one prefix of three slots, two heads
        >>> cache = ReasoningCache.from_prefix(k, v, max_tokens=2)
        >>> q = torch.zeros(1, 2, 4, requires_grad=True)
        >>> out = cached_reason_attention(q, torch.zeros(1, 2, 4), 5 * torch.ones(1, 2, 4), cache)
        >>> out[0, 0].detach()  # the mean over three slots and the new token
        tensor([2., 2., 2., 2.])
        >>> out.sum().backward()
    """
    if not isinstance(cache, ReasoningCache):
        raise TypeError(f"{_NAME}: cache must be a ReasoningCache, got {type(cache).__name__}")
    single = isinstance(q, Tensor) and q.dim() == 3
    q4, k4, v4 = (_with_query(x) for x in (q, k, v)) if single else (q, k, v)
    _check_tensors(q4, k4, v4, cache)
    queries, heads, width = q4.shape[1:]
    slot = _check_step(step, queries, cache)
    dropout_p = as_number(_NAME, "dropout_p", dropout_p)
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"{_NAME}: dropout_p must be in [0, 1), got {dropout_p}")
    masks = checked_mask_rows(_NAME, mask_rows)
    scale = width**-0.5 if softmax_scale is None else _check_scale(softmax_scale)
    dtype = cache.prefix_k.dtype
    backend = resolve_backend(_NAME, q.device, dtype, head_dim=width)
    mask_seed = seed_tensor(_NAME, seed, q.device) if dropout_p > 0 else None
    checkpointed = _may_be_checkpointed(k, v)
    if checkpointed:
        with torch.enable_grad():  # a backward pass may need the tokens' place in the graph
            k4, v4 = (_dense(_with_query(x) if single else x, dtype) for x in (k, v))
    q4, k4, v4 = (_dense(x, dtype) for x in (q4, k4, v4))

    given = (q4, k4, v4, cache.prefix_k, cache.prefix_v)
    known = cache.tokens
    gradients = torch.is_grad_enabled() and (any(x.requires_grad for x in given) or known.requires_grad())
    if gradients or checkpointed or known.segments:
        segments = known.append(slot, k4, v4, recorded=gradients)
        carriers = cache.carriers.take(cache, queries, heads, backend) if gradients else []
        tokens = ([segment.k for segment in segments], [segment.v for segment in segments])
        out, _, _ = torch.ops.rearec.attention(
            q4, *tokens, cache.prefix_k, cache.prefix_v, carriers, scale, dropout_p, mask_seed, gradients,
            *cache.seen, *masks, backend,
        )  # fmt: skip
    else:
        out = torch.ops.rearec.attention_decode(
            q4, k4, v4, cache.prefix_k, cache.prefix_v, *known.buffer(), slot, scale, dropout_p, mask_seed,
            *cache.seen, *masks, backend,
        )  # fmt: skip
    known.length = max(known.length, slot + queries)
    out = out.to(q.dtype)
    return out.squeeze(1) if single else out


def _with_query(x: Tensor) -> Tensor:
    """[R, H, D] -> [R, 1, H, D]; anything else as it is, for the checks to refuse."""
    return x.unsqueeze(1) if isinstance(x, Tensor) and x.dim() == 3 else x


def _dense(x: Tensor, dtype: torch.dtype) -> Tensor:
    return (x if x.dtype == dtype else x.to(dtype)).contiguous()


def _may_be_checkpointed(k: Tensor, v: Tensor) -> bool:
    """Whether gradients are off but what is appended has one: torch.utils.checkpoint with use_reentrant=True runs the
    forward pass so."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return False
    return k.requires_grad and v.requires_grad


def _check_tensors(q: Tensor, k: Tensor, v: Tensor, cache: ReasoningCache) -> None:
    rows, device = cache.rows, cache.prefix_k.device
    _, _, kv_heads, width = cache.prefix_k.shape
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{_NAME}: {name} must be a floating-point tensor, got {describe(x)}")
        if x.device != device:
            raise ValueError(f"{_NAME}: {name} is on {x.device}, the cache on {device}")
    shape = q.shape
    if len(shape) != 4 or shape[0] != rows or shape[3] != width or shape[1] == 0:
        raise ValueError(
            f"{_NAME}: q must have shape [R, Q, heads, D] or [R, heads, D] with R = {rows} and D = {width}, "
            f"got {list(shape)}"
        )
    if shape[2] == 0 or shape[2] % kv_heads != 0:
        raise ValueError(f"{_NAME}: q has {shape[2]} heads, expected a multiple of the cache's {kv_heads}")
    expected = (rows, shape[1], kv_heads, width)
    for name, x in (("k", k), ("v", v)):
        if x.shape != expected:
            raise ValueError(f"{_NAME}: {name} must have shape {list(expected)}, got {list(x.shape)}")
    if width > MAX_HEAD_DIM:
        raise ValueError(f"{_NAME}: the head dimension may be {MAX_HEAD_DIM} at most, got {width}")


def _check_step(step: int | None, queries: int, cache: ReasoningCache) -> int:
    slot = cache.length if step is None else as_int(_NAME, "step", step)
    if slot < 0 or slot > cache.length:
        raise IndexError(f"{_NAME}: step {slot} leaves a gap, the cache holds {cache.length} reasoning tokens")
    if slot + queries > cache.max_tokens:
        raise IndexError(
            f"{_NAME}: {queries} more reasoning tokens at {slot} do not fit into max_tokens = {cache.max_tokens}"
        )
    return slot


def _check_scale(softmax_scale: float) -> float:
    scale = float(as_number(_NAME, "softmax_scale", softmax_scale))
    if not math.isfinite(scale):
        raise ValueError(f"{_NAME}: softmax_scale must be finite, got {softmax_scale}")
    return scale
