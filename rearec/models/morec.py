"""MoRec: item vectors from texts, frozen features or trained end to end, and a perceptron (arXiv 2303.13835)."""

from __future__ import annotations

from torch import Tensor, nn

from rearec.models.config import ReaRecConfig
from rearec.models.text import TextBackbone
from rearec.models.title_encoder import TitleEncoder

__all__ = ["MoRec"]


class MoRec(TextBackbone):
    """Texts -> Linear -> GELU -> adaptor_layers times (dropout, Linear, GELU).

    Over frozen features it is the two-stage form of MoRec, over a `TitleEncoder` its end-to-end form.
    """

    def __init__(self, config: ReaRecConfig, texts: Tensor | TitleEncoder) -> None:
        super().__init__(config, texts)
        self.adaptor = feature_perceptron(config)

    def item_table(self) -> Tensor:
        """[N, d]."""
        vectors: Tensor = self.adaptor(self.text_vectors())
        return vectors


def feature_perceptron(config: ReaRecConfig) -> nn.Sequential:
    """[..., feature_dim] -> [..., d]; torch's own initialisation, which keeps the scale of features through layers."""
    layers: list[nn.Module] = [nn.Linear(config.feature_dim, config.dim), nn.GELU()]
    for _ in range(config.adaptor_layers):
        layers += [nn.Dropout(config.adaptor_dropout), nn.Linear(config.dim, config.dim), nn.GELU()]
    return nn.Sequential(*layers)
