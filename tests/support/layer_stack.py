"""Random Transformer layers with a cached prefix: what `reasoning_rollout` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rearec_kernels import LayerWeights, PrefixRows, prepare_layers, reasoning_rollout
from rearec_kernels.layer_weights import PreparedLayers


@dataclass
class LayerStack:
    """Everything float64; row r sees a random part, perhaps none, of one of fewer prefixes than rows."""

    layers: list[LayerWeights]
    input_norm: tuple[Tensor, Tensor]
    position_embedding: Tensor | None
    hidden: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    rows: PrefixRows | None  # None: every row its own prefix
    heads: int

    @classmethod
    def random(
        cls, rows: int, slots: int = 9, *, layers: int = 2, heads: int = 2, dim: int = 16, ffn: int = 12, steps: int = 2
    ) -> LayerStack:
        def linear(inputs: int, outputs: int) -> list[Tensor]:
            return [torch.randn(outputs, inputs).double() / inputs**0.5, torch.randn(outputs).double() / 5]

        def norm() -> list[Tensor]:
            return [1 + torch.randn(dim).double() / 5, torch.randn(dim).double() / 5]

        def layer() -> LayerWeights:
            attention = [x for _ in range(4) for x in linear(dim, dim)]
            return LayerWeights(*attention, *norm(), *linear(dim, ffn), *linear(ffn, dim), *norm())

        prefixes = max(1, rows // 2)
        bounds = torch.randint(0, slots + 1, (2, rows)).sort(0).values
        prefix = [torch.randn(2, prefixes, slots, heads, dim // heads).double() for _ in range(layers)]
        return cls(
            layers=[layer() for _ in range(layers)],
            input_norm=(norm()[0], norm()[1]),
            position_embedding=torch.randn(steps, dim).double(),
            hidden=torch.randn(rows, dim).double(),
            keys=[k for k, _ in prefix],
            values=[v for _, v in prefix],
            rows=PrefixRows(bounds[0], bounds[1], torch.randint(0, prefixes, (rows,))),
            heads=heads,
        )

    def to(self, dtype: torch.dtype) -> LayerStack:
        position = self.position_embedding
        return LayerStack(
            layers=[LayerWeights(*(x.to(dtype) for x in layer)) for layer in self.layers],
            input_norm=(self.input_norm[0].to(dtype), self.input_norm[1].to(dtype)),
            position_embedding=None if position is None else position.to(dtype),
            hidden=self.hidden.to(dtype),
            keys=[k.to(dtype) for k in self.keys],
            values=[v.to(dtype) for v in self.values],
            rows=self.rows,
            heads=self.heads,
        )

    def prepared(self) -> PreparedLayers:
        return prepare_layers(
            self.layers, heads=self.heads, input_norm=self.input_norm, position_embedding=self.position_embedding
        )

    def states(self, steps: int, layers: PreparedLayers | None = None, **options: Any) -> Any:
        return reasoning_rollout(
            self.hidden, layers or self.prepared(), self.keys, self.values, steps=steps, rows=self.rows, **options
        )
