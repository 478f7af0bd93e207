"""The whole latent reasoning of a batch in one call: all steps through all layers, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

import rearec_kernels.ops  # noqa: F401  (registers torch.ops.rearec)
from rearec_kernels.arguments import as_int, check_floating, check_prefix, describe, refuse_tangents
from rearec_kernels.dispatch import resolve_backend
from rearec_kernels.layer_weights import PreparedLayers
from rearec_kernels.rows import PrefixRows, index_of

_NAME = "reasoning_rollout"


@overload
def reasoning_rollout(
    hidden: Tensor,
    layers: PreparedLayers,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    steps: int,
    rows: PrefixRows | None = None,
    return_tokens: Literal[False] = ...,
) -> Tensor: ...


@overload
def reasoning_rollout(
    hidden: Tensor,
    layers: PreparedLayers,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    steps: int,
    rows: PrefixRows | None = None,
    return_tokens: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def reasoning_rollout(
    hidden: Tensor,
    layers: PreparedLayers,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    steps: int,
    rows: PrefixRows | None = None,
    return_tokens: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Lets every row reason for `steps` steps over its part of a cached prefix.

    Step k feeds back LayerNorm(h_{k-1} + position_embedding[k - 1]) as one new token per row, which passes through all
    layers, in each of which it attends to the row's prefix slots, the row's earlier reasoning tokens and itself; its
    output is h_k. ReaRec (arXiv 2503.22675), section 3.2. The same as that many calls of `cached_reason_attention` per
    layer with the layers' linear parts between them, for inference only: it has no derivative.

    Args:
        hidden: [R, d], h_0 of every row.
        layers: from `prepare_layers`; its dtype and device are those of all tensors here.
        keys, values: of every layer [S, C, heads, d / heads], any outer strides, the last dimension dense.
        steps: K, 0 or more, at most the rows of the position embedding.
        rows: which slots of which prefix each row sees; default: row r sees all of prefix r.
        return_tokens: whether K and V of the new tokens are returned too, to be a part of a later call's prefix.

    Returns:
        [R, K + 1, d]: h_0 .. h_K. With `return_tokens` a pair of it and [layers, 2, R, K, heads, d / heads], K and V of
        every layer.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value.
        RuntimeError: gradients are enabled and something here requires them.
        NotImplementedError: something here has a tangent, of forward-mode AD.

    Examples:
        >>> linear, norm = (torch.zeros(2, 2), torch.zeros(2)), (torch.ones(2), torch.zeros(2))
        >>> layer = LayerWeights(*linear * 4, *norm, *linear * 2, *norm)  # adds nothing, and normalises
        >>> layers = prepare_layers([layer], heads=1, input_norm=norm)
        >>> hidden, keys, values = torch.tensor([[1.0, 3.0]]), [torch.zeros(1, 4, 1, 2)], [torch.zeros(1, 4, 1, 2)]
        >>> with torch.no_grad():
        ...     reasoning_rollout(hidden, layers, keys, values, steps=2)
        tensor([[[ 1.,  3.],
                 [-1.,  1.],
                 [-1.,  1.]]])
    """
    if not isinstance(layers, PreparedLayers):
        raise TypeError(f"{_NAME}: layers must come from prepare_layers, got {type(layers).__name__}")
    check_floating(_NAME, "hidden", hidden, "[R, d]")
    steps = as_int(_NAME, "steps", steps, least=0)
    position = layers.position_embedding
    if position is not None and steps > position.shape[0]:
        raise ValueError(f"{_NAME}: steps is {steps}, the position embedding has {position.shape[0]} rows")
    width = layers.dim // layers.heads
    prefix = _check_prefixes(keys, values, layers, width)
    if hidden.shape[1] != layers.dim:
        raise ValueError(f"{_NAME}: hidden must have shape [R, {layers.dim}] as the layers, got {list(hidden.shape)}")
    for name, x in (("hidden", hidden), ("keys[0]", prefix)):
        if x.dtype != layers.dtype or x.device != layers.device:
            raise ValueError(
                f"{_NAME}: {name} is {x.dtype} on {x.device}, the layers are {layers.dtype} on {layers.device}"
            )
    index = index_of(_NAME, rows, prefix)
    if index.start.shape[0] != hidden.shape[0]:
        raise ValueError(f"{_NAME}: hidden has {hidden.shape[0]} rows, the prefix is seen by {index.start.shape[0]}")
    tensors = [hidden, *keys, *values, *layers.tensors()]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        raise RuntimeError(f"{_NAME}: has no derivative; call it under torch.no_grad() or torch.inference_mode()")
    refuse_tangents(_NAME, tensors)
    backend = resolve_backend(_NAME, hidden.device, hidden.dtype, head_dim=width)
    states, tokens = torch.ops.rearec.rollout.default(
        hidden.contiguous(), *layers.packed(backend), keys, values, layers.heads, layers.ffn, steps,
        layers.norm_eps, bool(return_tokens), index.start, index.end, index.row_prefix, index.order, backend,
    )  # fmt: skip
    return (states, tokens) if return_tokens else states


def _check_prefixes(keys: Sequence[Tensor], values: Sequence[Tensor], layers: PreparedLayers, width: int) -> Tensor:
    """K of the first layer, after whose shape all others are."""
    count = len(layers.layers)
    for name, x in (("keys", keys), ("values", values)):
        if not isinstance(x, list | tuple):
            raise TypeError(f"{_NAME}: {name} must be a list of tensors, one per layer, got {describe(x)}")
    if len(keys) != count or len(values) != count:
        raise ValueError(
            f"{_NAME}: keys and values must be one tensor per layer, {count}, got {len(keys)} and {len(values)}"
        )
    expected: tuple[object, ...] | None = None
    for k, v in zip(keys, values, strict=True):
        check_prefix(_NAME, k, v)
        got = k.shape, k.dtype, k.device
        if expected is None and got[0][2:] == (layers.heads, width):
            expected = got
        if got != expected:
            raise ValueError(
                f"{_NAME}: keys and values must be [S, C, {layers.heads}, {width}] of one shape, dtype and device, "
                f"got {describe(keys[0])} on {keys[0].device} and {describe(k)} on {k.device}"
            )
    return keys[0]
