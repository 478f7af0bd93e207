"""What the backbones have in common whose items are known by their texts (paper, section 4.1)."""

from __future__ import annotations

from torch import Tensor, nn

from rearec.data.features.check import check_features
from rearec.models.config import ReaRecConfig
from rearec.models.encoder import init_weights
from rearec.models.title_encoder import TitleEncoder
from rearec.models.transformer import TransformerBackbone

__all__ = ["TextBackbone"]


class TextBackbone(TransformerBackbone):
    """A Transformer over items whose vectors its `adaptor` makes of vectors of their texts.

    Args:
        config: feature_dim is the width F of the texts' vectors.
        texts: float [N, F], frozen features, or what makes vectors of titles and is trained too. They become part of
            the model, which needs no other file.

    Raises:
        UserError: there is not one row per item, or one holds a value that is no finite number.
        ValueError: the width is not feature_dim.
    """

    adaptor: nn.Module

    def __init__(self, config: ReaRecConfig, texts: Tensor | TitleEncoder) -> None:
        super().__init__(config)
        self.apply(init_weights)
        self.item_features: Tensor | None
        if isinstance(texts, TitleEncoder):
            self.register_buffer("item_features", None)
            self.text_encoder: TitleEncoder | None = texts
        else:
            check_features(texts.detach().cpu().float().numpy(), config.num_items, "features")
            if texts.shape[1] != config.feature_dim:
                raise ValueError(f"feature_dim: got {config.feature_dim}, expected the features' {texts.shape[1]}")
            self.register_buffer("item_features", texts.detach().clone())
            self.text_encoder = None

    def text_vectors(self) -> Tensor:
        """[N, F]: the features, or what the encoder now makes of the titles."""
        if self.item_features is not None:
            return self.item_features
        assert self.text_encoder is not None
        vectors: Tensor = self.text_encoder()
        return vectors

    def frozen_state(self) -> dict[str, Tensor]:
        """The features, or the tokens of the titles."""
        if self.item_features is not None:
            return {"item_features": self.item_features}
        assert self.text_encoder is not None
        return {"text_encoder.tokens": self.text_encoder.tokens, "text_encoder.lengths": self.text_encoder.lengths}

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Those of the encoder of the titles."""
        return [] if self.text_encoder is None else list(self.text_encoder.parameters())
