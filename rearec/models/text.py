"""What the backbones have in common whose items are known by the features of their texts (paper, section 4.1)."""

from __future__ import annotations

from torch import Tensor, nn

from rearec.item_features import check_features
from rearec.models.config import ReaRecConfig
from rearec.models.derived import Derived
from rearec.models.transformer import TransformerBackbone

__all__ = ["TextBackbone"]


class TextBackbone(TransformerBackbone):
    """A Transformer over items whose vectors are computed from frozen features by its `adaptor`.

    Args:
        config: feature_dim is the width F of the features.
        features: float [N, F]; they become part of the model, which needs no other file.

    Raises:
        UserError: there is not one row per item, or one holds a value that is no finite number.
        ValueError: the width is not feature_dim.
    """

    adaptor: nn.Module

    def __init__(self, config: ReaRecConfig, features: Tensor) -> None:
        super().__init__(config)
        check_features(features.detach().cpu().float().numpy(), config.num_items, "features")
        if features.shape[1] != config.feature_dim:
            raise ValueError(f"feature_dim: got {config.feature_dim}, expected the features' {features.shape[1]}")
        self.item_features: Tensor
        self.register_buffer("item_features", features.detach().clone())
        self._tables = Derived[tuple[Tensor, Tensor]]()

    def item_tables(self) -> tuple[Tensor, Tensor]:
        """As `Backbone.item_tables`; inference computes them once for given weights."""
        return self._tables.get(self, self.item_weights(), super().item_tables)

    def item_weights(self) -> list[Tensor]:
        """What `item_table` is computed from."""
        return [self.item_features, *self.adaptor.parameters()]

    def frozen_state(self) -> dict[str, Tensor]:
        """The features."""
        return {"item_features": self.item_features}
