"""What the backbones have in common whose items are known by the features of their texts (paper, section 4.1)."""

from __future__ import annotations

from torch import Tensor

from rearec.models.config import ReaRecConfig
from rearec.models.derived import Derived
from rearec.models.transformer import TransformerBackbone

__all__ = ["TextBackbone"]


class TextBackbone(TransformerBackbone):
    """A Transformer over items whose vectors are computed from frozen features.

    Args:
        config: feature_dim is the width F of the features.
        features: float [N, F]; they become part of the model, which needs no other file.

    Raises ValueError for features of another shape than [num_items, feature_dim].
    """

    def __init__(self, config: ReaRecConfig, features: Tensor) -> None:
        super().__init__(config)
        expected = (config.num_items, config.feature_dim)
        if features.shape != expected:
            raise ValueError(
                f"features: got shape {tuple(features.shape)}, expected {expected}: [num_items, feature_dim]"
            )
        self.item_features: Tensor
        self.register_buffer("item_features", features.detach().clone())
        self._tables = Derived[tuple[Tensor, Tensor]]()

    def item_tables(self) -> tuple[Tensor, Tensor]:
        """As `Backbone.item_tables`; inference computes them once for given weights."""
        return self._tables.get(self, super().item_tables)

    def frozen_state(self) -> dict[str, Tensor]:
        """The features."""
        return {"item_features": self.item_features}
