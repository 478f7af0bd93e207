"""MoRec: item vectors from frozen text features through a multilayer perceptron (arXiv 2303.13835)."""

from __future__ import annotations

from torch import Tensor, nn

from rearec.models.config import ReaRecConfig
from rearec.models.encoder import init_weights
from rearec.models.text import TextBackbone

__all__ = ["MoRec"]


class MoRec(TextBackbone):
    """Features -> Linear -> GELU -> adaptor_layers times (dropout, Linear, GELU): the two-stage form of MoRec."""

    def __init__(self, config: ReaRecConfig, features: Tensor) -> None:
        super().__init__(config, features)
        self.apply(init_weights)
        self.adaptor = feature_perceptron(config)

    def item_table(self) -> Tensor:
        """[N, d]."""
        vectors: Tensor = self.adaptor(self.item_features)
        return vectors


def feature_perceptron(config: ReaRecConfig) -> nn.Sequential:
    """[..., feature_dim] -> [..., d]; torch's own initialisation, which keeps the scale of features through layers."""
    layers: list[nn.Module] = [nn.Linear(config.feature_dim, config.dim), nn.GELU()]
    for _ in range(config.adaptor_layers):
        layers += [nn.Dropout(config.adaptor_dropout), nn.Linear(config.dim, config.dim), nn.GELU()]
    return nn.Sequential(*layers)
