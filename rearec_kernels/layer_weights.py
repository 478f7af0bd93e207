"""The weights of a stack of Transformer layers, and what backends derive from them once for many rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rearec_kernels.arguments import as_int, as_number, check_floating, describe
from rearec_kernels.ops.registry import implementation
from rearec_kernels.writes import WriteMark

_NAME = "prepare_layers"


class LayerWeights(NamedTuple):
    """A post-LN Transformer layer: multi-head attention and a GELU feed-forward layer, each followed by the residual
    and LayerNorm. Weights of linear layers are [outputs, inputs], as in torch.nn.Linear."""

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


class PreparedLayers:
    """Weights by reference, and what backends derive from them (packed copies); made by `prepare_layers`.

    Weights that were written or got other memory since are noticed as far as `writes.WriteMark` says, and what was
    derived from them is derived again; `refresh` does so whatever was noticed. Under torch.compile every call derives
    it anew. A copy derives its own.

    Attributes:
        layers, input_norm, position_embedding, heads, norm_eps: as given.
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
        self._tensors = [*input_norm, *(x for layer in layers for x in layer)]
        self._check()
        self.refresh()

    def refresh(self) -> None:
        """Forgets what was derived from the weights: the next rollout derives it again."""
        self._operands: dict[str, tuple[WriteMark, list[Tensor]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_operands": {}}

    @property
    def dim(self) -> int:
        """Model width d."""
        return self.input_norm[0].shape[0]

    @property
    def ffn(self) -> int:
        """Inner width of the feed-forward layers."""
        return self.layers[0].inner_weight.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.input_norm[0].dtype

    @property
    def device(self) -> torch.device:
        return self.input_norm[0].device

    def operands(self, backend: str) -> tuple[list[Tensor], bool]:
        """What the op takes: the weights as the backend's rollout reads them, and whether they are; under torch.compile
        the weights as they are, which the op itself makes into that."""
        if torch.compiler.is_compiling():
            return [x.detach() for x in self._tensors], False
        derived = self._operands.get(backend)
        if derived is None or not derived[0].is_current():
            self._check()
            packed = implementation(backend, "rollout", "pack_layers")([x.detach() for x in self._tensors])
            derived = WriteMark(self._tensors), packed
            self._operands[backend] = derived
        return derived[1], True

    def tensors(self) -> list[Tensor]:
        """All weights, the position embedding included."""
        return self._tensors if self.position_embedding is None else [*self._tensors, self.position_embedding]

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

    Nothing is copied here; a backend that reads a layout of its own derives it in the first rollout, and again after
    the weights were written.

    Args:
        layers: at least one, all of the same widths d and ffn, floating point of one dtype.
        heads: attention heads, a divisor of d.
        input_norm: weight and bias [d] of the LayerNorm that every reasoning token passes first.
        position_embedding: [K or more, d], row k - 1 added to the state before step k; None adds nothing.
        norm_eps: of all LayerNorms.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value.
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
