"""The weights of a stack of Transformer layers, and what backends derive from them once for many rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rearec_kernels.arguments import as_int, as_number, check_floating, describe
from rearec_kernels.ops.registry import implementation

_NAME = "prepare_layers"


class LayerWeights(NamedTuple):
    """A post-LN Transformer layer: multi-head attention and a GELU feed-forward layer, each followed by the residual
    and LayerNorm. Weights of linear layers are [outputs, inputs], as in torch.nn.Linear.

    Examples:
        >>> d, ffn = 2, 3
        >>> linear, norm = (torch.zeros(d, d), torch.zeros(d)), (torch.ones(d), torch.zeros(d))
        >>> feed_forward = torch.zeros(ffn, d), torch.zeros(ffn), torch.zeros(d, ffn), torch.zeros(d)
        >>> LayerWeights(*linear * 4, *norm, *feed_forward, *norm).outer_weight.shape
        torch.Size([2, 3])
    """

    query_weight: Tensor  # [d, d]
    query_bias: Tensor
    key_weight: Tensor
    key_bias: Tensor
    value_weight: Tensor
    value_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor
    attention_norm_weight: Tensor  # [d]
    attention_norm_bias: Tensor
    inner_weight: Tensor  # [ffn, d]
    inner_bias: Tensor
    outer_weight: Tensor  # [d, ffn]
    outer_bias: Tensor
    feed_forward_norm_weight: Tensor
    feed_forward_norm_bias: Tensor


class _Packed(NamedTuple):
    weights: list[Tensor]
    position_embedding: Tensor | None


class PreparedLayers:
    """Weights by reference, and what backends derive from them (packed copies); made by `prepare_layers`.

    They are frozen by contract: whoever writes to the weights, or gives them other memory, calls `refresh` before the
    next rollout. Until then no rollout mixes old and new weights: an eager one computes with the copy that its backend
    packed in its first rollout, or with the weights as they are where the backend packs none ("reference"). Code that
    torch.compile made reads the weights as they are, and packs them in every call; what it leaves to Python is eager.

    A copy (copy, deepcopy, pickle) packs its own.

    Attributes:
        layers, input_norm, position_embedding, heads, norm_eps: as given.
        dim, ffn: the widths d of the model and of the feed-forward layers, when they were prepared or refreshed.
        dtype, device: of all weights then.

    Examples:
        >>> d, ffn = 2, 3
        >>> linear, norm = (torch.zeros(d, d), torch.zeros(d)), (torch.ones(d), torch.zeros(d))
        >>> feed_forward = torch.zeros(ffn, d), torch.zeros(ffn), torch.zeros(d, ffn), torch.zeros(d)
        >>> layer = LayerWeights(*linear * 4, *norm, *feed_forward, *norm)
        >>> layers = prepare_layers([layer], heads=1, input_norm=(torch.ones(d), torch.zeros(d)))
        >>> layers.dim, layers.ffn, layers.dtype
        (2, 3, torch.float32)
        >>> _ = layer.inner_bias.fill_(1.0)
        >>> layers.refresh()  # the next rollout computes with the new bias
    """

    def __init__(
        self,
        layers: tuple[LayerWeights, ...],
        input_norm: tuple[Tensor, Tensor],
        position_embedding: Tensor | None,
        heads: int,
        norm_eps: float,
    ) -> None:
        self.layers = layers
        self.input_norm = input_norm
        self.position_embedding = position_embedding
        self.heads = heads
        self.norm_eps = norm_eps
        self._weights = [*input_norm, *(x for layer in layers for x in layer)]
        self.refresh()

    def refresh(self) -> None:
        """Forgets what was derived from the weights: the next rollout derives it from the weights as they are then.

        Raises:
            TypeError, ValueError: a weight has another shape, dtype or device than it has to.
        """
        first = self.input_norm[0]
        self.dim, self.ffn = first.shape[0], self.layers[0].inner_weight.shape[0]
        self.dtype, self.device = first.dtype, first.device
        self._check()
        self._kept: dict[str, _Packed] = {}  # by backend

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def packed(self, backend: str) -> tuple[list[Tensor], bool, Tensor | None]:
        """What the op takes: weights, whether they are as the backend's rollout reads them (under torch.compile they
        are not, and the op packs them), and the position embedding."""
        position = self.position_embedding
        if torch.compiler.is_compiling():
            self._check()
            return [x.detach() for x in self._weights], False, position
        kept = self._kept  # looked at once: `refresh` in another thread replaces it
        if backend not in kept:
            self._check()
            weights = [x.detach() for x in self._weights]
            packed = implementation(backend, "rollout", "pack_layers")(weights)
            if packed is weights:  # nothing is copied, so nothing is kept
                return weights, True, position
            kept[backend] = _Packed(packed, None if position is None else position.detach().clone())
        return kept[backend].weights, True, kept[backend].position_embedding

    def tensors(self) -> list[Tensor]:
        """All weights, the position embedding included."""
        return self._weights if self.position_embedding is None else [*self._weights, self.position_embedding]

    def _check(self) -> None:
        """Raises unless all are tensors of fitting shapes, of one dtype and on one device."""
        named: dict[str, tuple[Tensor, tuple[int, ...]]] = {}
        for i, x in enumerate(self.input_norm):
            named[f"input_norm[{i}]"] = x, (self.dim,)
        for number, layer in enumerate(self.layers):
            for name, x in layer._asdict().items():
                named[f"{name} of layer {number}"] = x, _shape(name, self.dim, self.ffn)
        if self.position_embedding is not None:
            named["position_embedding"] = self.position_embedding, (*self.position_embedding.shape[:1], self.dim)
        for name, (x, shape) in named.items():
            if not isinstance(x, Tensor) or not x.is_floating_point():
                raise TypeError(f"{_NAME}: {name} must be a floating-point tensor, got {describe(x)}")
            if x.shape != shape:
                raise ValueError(f"{_NAME}: {name} must have shape {list(shape)}, got {list(x.shape)}")
            if x.dtype != self.dtype or x.device != self.device:
                raise ValueError(
                    f"{_NAME}: {name} is {x.dtype} on {x.device}, expected {self.dtype} on {self.device} as input_norm"
                )


def _shape(name: str, dim: int, ffn: int) -> tuple[int, ...]:
    """Of the tensor `name` of LayerWeights."""
    different = {"inner_weight": (ffn, dim), "inner_bias": (ffn,), "outer_weight": (dim, ffn)}
    matrix = name.endswith("_weight") and "norm" not in name
    return different.get(name, (dim, dim) if matrix else (dim,))


def prepare_layers(
    layers: Sequence[LayerWeights],
    *,
    heads: int,
    input_norm: tuple[Tensor, Tensor],
    position_embedding: Tensor | None = None,
    norm_eps: float = 1e-12,
) -> PreparedLayers:
    """Prepares the weights of a model for `reasoning_rollout`; make it once and keep it.

    Nothing is copied here; a backend that reads a layout of its own packs a copy in the first rollout. After the
    weights were written, call the result's `refresh`.

    Args:
        layers: at least one, all of the same widths d and ffn, floating point of one dtype.
        heads: attention heads, a divisor of d.
        input_norm: weight and bias [d] of the LayerNorm that every reasoning token passes first.
        position_embedding: [K or more, d], row k - 1 added to the state before step k; None adds nothing.
        norm_eps: of all LayerNorms.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value.

    Examples:
        >>> linear, norm = (torch.zeros(2, 2), torch.zeros(2)), (torch.ones(2), torch.zeros(2))
        >>> layer = LayerWeights(*linear * 4, *norm, *linear * 2, *norm)
        >>> layers = prepare_layers([layer, layer], heads=2, input_norm=norm)
        >>> len(layers.layers), layers.dim
        (2, 2)
    """
    layers = tuple(layers)
    if not layers or not all(isinstance(layer, LayerWeights) for layer in layers):
        got = ", ".join(sorted({type(layer).__name__ for layer in layers})) or "none"
        raise TypeError(f"{_NAME}: layers must be one or more LayerWeights, got {got}")
    if not isinstance(input_norm, tuple) or len(input_norm) != 2:
        raise TypeError(f"{_NAME}: input_norm must be a pair (weight [d], bias [d]), got {describe(input_norm)}")
    check_floating(_NAME, "input_norm[0]", input_norm[0], "[d]")
    check_floating(_NAME, "inner_weight of layer 0", layers[0].inner_weight, "[ffn, d]")
    if position_embedding is not None:
        check_floating(_NAME, "position_embedding", position_embedding, "[K, d]")
    heads = as_int(_NAME, "heads", heads, least=1)
    dim = input_norm[0].shape[0]
    if dim == 0 or dim % heads:
        raise ValueError(f"{_NAME}: heads must divide d = {dim}, got {heads}")
    norm_eps = float(as_number(_NAME, "norm_eps", norm_eps))
    return PreparedLayers(layers, input_norm, position_embedding, heads, norm_eps)
