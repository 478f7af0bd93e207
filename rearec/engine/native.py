"""Inference of the reasoning steps as one native call, where that computes what the model's modules would."""

from __future__ import annotations

from functools import cached_property, partial
from typing import cast

import torch
from torch import Tensor, nn

from rearec.data.batch import Batch
from rearec.models.encoder import LAYER_NORM_EPS, EncodedPrefix, TransformerEncoder, TransformerLayer
from rearec.models.transformer import TransformerBackbone
from rearec.reasoning import ReaRec
from rearec_kernels import LayerWeights, PrefixRows, PreparedLayers, prepare_layers, reasoning_rollout, resolve_backend

__all__ = ["NativeRollout", "native_rollout"]

_KNOWN_MODULES = frozenset(
    {TransformerEncoder, TransformerLayer, nn.ModuleList, nn.Linear, nn.LayerNorm, nn.Dropout, nn.Embedding}
)
# What a backbone reasons by.
_METHODS = ("reason", "reason_batch", "step")


def native_rollout(model: ReaRec) -> NativeRollout | None:
    """The model's reasoning steps as one call, or None where its modules compute something else or elsewhere.

    That is off the CPU, in another dtype than float32, with another backend asked for, and where a module was
    subclassed, replaced by one of another kind, or given a hook.
    """
    backbone, position = model.backbone, model.reasoning_position_embedding
    if type(model).forward is not ReaRec.forward or not isinstance(backbone, TransformerBackbone):
        return None
    modules = [backbone.input_norm, backbone.input_dropout, *backbone.encoder.modules()]
    modules += [] if position is None else [position]
    as_known = all(map(_is_known, modules)) and not any(map(_is_altered, [model, backbone, *modules]))
    if not as_known or any(
        getattr(type(backbone), name) is not getattr(TransformerBackbone, name) for name in _METHODS
    ):
        return None
    norm = backbone.input_norm.weight
    if norm.device.type != "cpu" or norm.dtype != torch.float32:
        return None
    head_dim = model.config.dim // model.config.heads
    if resolve_backend("reasoning_rollout", norm.device, norm.dtype, head_dim=head_dim) != "cpu":
        return None
    return NativeRollout(backbone, position, model.config.heads)


class NativeRollout:
    """Calls `reasoning_rollout` with the layers' weights prepared once."""

    def __init__(self, backbone: TransformerBackbone, position: nn.Embedding | None, heads: int) -> None:
        self._prepared = partial(
            prepare_layers,
            [_layer_weights(cast(TransformerLayer, layer)) for layer in backbone.encoder.layers],
            heads=heads,
            input_norm=(backbone.input_norm.weight, backbone.input_norm.bias),
            norm_eps=LAYER_NORM_EPS,
        )
        self._layers = self._prepared(position_embedding=None if position is None else position.weight)
        # of requests for one history there are few different ones, one per length
        self._single_rows: dict[tuple[int, int], PrefixRows] = {}

    def __call__(self, prefix: EncodedPrefix, batch: Batch, steps: int) -> Tensor:
        """h_0 .. h_K of the batch's rows, [R, K + 1, d]."""
        rows = self._single_row(batch) if batch.num_rows == 1 else batch.rows
        return reasoning_rollout(prefix.states, self._layers, prefix.keys, prefix.values, steps=steps, rows=rows)

    @cached_property
    def _layers_of_items(self) -> PreparedLayers:
        """The layers without the embedding of reasoning positions."""
        return self._prepared()

    def append(self, item: Tensor, prefix: EncodedPrefix, slot: int) -> EncodedPrefix:
        """As `TransformerEncoder.append`, of an item [1, d] that is not yet normalised.

        Like a reasoning token, it sees what is before it and itself; its place among reasoning steps is nobody's.
        """
        if (rows := self._single_rows.get((0, slot))) is None:
            rows = self._single_rows[0, slot] = PrefixRows(end=torch.tensor([slot], dtype=torch.int32))
        states, tokens = reasoning_rollout(
            item, self._layers_of_items, prefix.keys, prefix.values, steps=1, rows=rows, return_tokens=True
        )
        for key, value, (own_key, own_value) in zip(prefix.keys, prefix.values, tokens, strict=True):
            key[:, slot], value[:, slot] = own_key[:, 0], own_value[:, 0]
        return EncodedPrefix(states[:, 1], prefix.keys, prefix.values)

    def _single_row(self, batch: Batch) -> PrefixRows:
        key = int(batch.row_prefix), int(batch.end)
        rows = self._single_rows.get(key)
        if rows is None:
            rows = self._single_rows[key] = batch.rows
        return rows


def _layer_weights(layer: TransformerLayer) -> LayerWeights:
    attention = layer.query, layer.key, layer.value, layer.output, layer.attention_norm
    feed_forward = layer.inner, layer.outer, layer.feed_forward_norm
    return LayerWeights(*(x for module in (*attention, *feed_forward) for x in (module.weight, module.bias)))


def _is_known(module: nn.Module) -> bool:
    """Whether the module computes what the native call does."""
    has_all = all(parameter is not None for parameter in module._parameters.values())
    same_eps = not isinstance(module, nn.LayerNorm) or module.eps == LAYER_NORM_EPS
    return type(module) in _KNOWN_MODULES and has_all and same_eps


def _is_altered(module: nn.Module) -> bool:
    """Whether something was hung on this very module."""
    replaced = vars(module).keys() & {"forward", *_METHODS}
    return bool(module._forward_hooks or module._forward_pre_hooks or replaced)
