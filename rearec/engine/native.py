"""Inference of the reasoning steps as one native call, where that computes what the model's modules would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from rearec.models.encoder import LAYER_NORM_EPS, EncodedPrefix, TransformerEncoder, TransformerLayer
from rearec.models.transformer import TransformerBackbone
from rearec.models.weight_sample import WeightSample
from rearec_kernels import LayerWeights, PrefixRows, prepare_layers, reasoning_rollout, resolve_backend

if TYPE_CHECKING:
    from rearec.reasoning import ReaRec
    from rearec_kernels.layer_weights import PreparedLayers

__all__ = ["FusedRollout"]

_KNOWN_MODULES = frozenset(
    {TransformerEncoder, TransformerLayer, nn.ModuleList, nn.Linear, nn.LayerNorm, nn.Dropout, nn.Embedding}
)


class FusedRollout:
    """Runs a model's reasoning steps through `reasoning_rollout`, with the weights prepared once.

    Weights that are written in place, replaced, moved or trained are noticed. Other writes through ``parameter.data``
    leave no trace: they count from the next ``model.train()`` or pass with gradients on.

    It stands aside wherever the modules may compute something else or another backend is to: with gradients, in
    training mode, under autocast, in a trace, off the CPU, in other dtypes than float32, with weights made in inference
    mode, and where a module was subclassed, replaced by another kind or given a hook. Threads may share one.
    """

    def __init__(self) -> None:
        self.forget()

    def __reduce__(self) -> tuple[type[FusedRollout], tuple[()]]:
        """A copy prepares the weights of its own model."""
        return FusedRollout, ()

    def forget(self) -> None:
        """Prepares the weights anew in the next call."""
        self._prepared: _Prepared | None = None
        self._single_rows: dict[tuple[int, int], PrefixRows] = {}

    def states(
        self, model: ReaRec, prefix: EncodedPrefix, row_prefix: Tensor, end: Tensor, steps: int
    ) -> Tensor | None:
        """h_0 .. h_K [R, K + 1, d], or None where the modules have to compute them.

        row_prefix, end: int [R], which slots of which window each row sees.
        """
        state = prefix.states
        if torch.is_grad_enabled() or model.training:
            if self._prepared is not None and not torch.compiler.is_compiling():
                self.forget()
            return None
        backbone = model.backbone
        if not isinstance(backbone, TransformerBackbone) or type(backbone).step is not TransformerBackbone.step:
            return None
        if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
            return None
        if state.device.type != "cpu" or state.dtype != torch.float32:
            return None
        head_dim = model.config.dim // model.config.heads
        if resolve_backend("reasoning_rollout", state.device, state.dtype, head_dim=head_dim) != "cpu":
            return None
        prepared = self._prepared  # looked at once: other threads may replace it
        if prepared is None or not prepared.is_current():
            prepared = self._prepared = _Prepared(model, backbone)
        if prepared.weights is None or prepared.acts_differently():
            return None
        rows = self._rows(row_prefix, end)
        return reasoning_rollout(state, prepared.weights, prefix.keys, prefix.values, steps=steps, rows=rows)

    def _rows(self, row_prefix: Tensor, end: Tensor) -> PrefixRows:
        """The rows, validated; those of requests for one history are kept, of which there is one per length."""
        if len(end) != 1:
            return PrefixRows(end=end, row_prefix=row_prefix)
        key = int(row_prefix), int(end)
        rows = self._single_rows.get(key)
        if rows is None:
            # of tensors of their own: nobody else can write to them
            rows = self._single_rows[key] = PrefixRows(end=end.clone(), row_prefix=row_prefix.clone())
        return rows


class _Prepared:
    """The weights as they were, None where a module is of an unknown kind, and what tells whether they still are."""

    def __init__(self, model: ReaRec, backbone: TransformerBackbone) -> None:
        position = model.reasoning_position_embedding
        modules = [backbone.input_norm, backbone.input_dropout, *backbone.encoder.modules()]
        if position is not None:
            modules.append(position)
        self.weights: PreparedLayers | None = None
        self._modules: list[nn.Module] = [model, backbone, *modules]
        self._norms = [module for module in modules if isinstance(module, nn.LayerNorm)]
        # Where modules and parameters may be replaced by others, and what was there when they were prepared.
        self._places: list[dict[str, Any]] = [part for x in self._modules for part in (x._modules, x._parameters)]
        self._were = self._identities()
        self._sample = WeightSample(*(norm.bias for norm in self._norms if norm.bias is not None))
        if all(map(_is_known, modules)):
            self.weights = prepare_layers(
                [_layer_weights(cast(TransformerLayer, layer)) for layer in backbone.encoder.layers],
                heads=model.config.heads,
                input_norm=(backbone.input_norm.weight, backbone.input_norm.bias),
                position_embedding=None if position is None else position.weight,
                norm_eps=LAYER_NORM_EPS,
            )

    def is_current(self) -> bool:
        """Whether the same modules and parameters are there, untrained."""
        return self._were == self._identities() and self._sample.is_current()

    def acts_differently(self) -> bool:
        """Whether a module computes something else than the native call."""
        return any(x.training or x._forward_hooks or x._forward_pre_hooks for x in self._modules) or any(
            norm.eps != LAYER_NORM_EPS for norm in self._norms
        )

    def _identities(self) -> list[int]:
        return [id(x) for place in self._places for x in place.values()]


def _layer_weights(layer: TransformerLayer) -> LayerWeights:
    attention = layer.query, layer.key, layer.value, layer.output, layer.attention_norm
    feed_forward = layer.inner, layer.outer, layer.feed_forward_norm
    return LayerWeights(*(x for module in (*attention, *feed_forward) for x in (module.weight, module.bias)))


def _is_known(module: nn.Module) -> bool:
    """Whether the module computes what the native call does, and its weights count how often they are written."""
    return type(module) in _KNOWN_MODULES and all(
        x is not None and not x.is_inference() for x in module._parameters.values()
    )
