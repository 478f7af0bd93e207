"""The backbones of the paper by name."""

from __future__ import annotations

from torch import Tensor

from rearec.models.backbone import Backbone
from rearec.models.bert4rec import BERT4Rec
from rearec.models.config import OWN_BACKBONE, ReaRecConfig
from rearec.models.morec import MoRec
from rearec.models.sasrec import SASRec
from rearec.models.text import TextBackbone
from rearec.models.transformer import TransformerBackbone
from rearec.models.unisrec import UniSRec

__all__ = ["build_backbone"]

_BY_ITEM_IDS: dict[str, type[TransformerBackbone]] = {"sasrec": SASRec, "bert4rec": BERT4Rec}
_BY_FEATURES: dict[str, type[TextBackbone]] = {"unisrec": UniSRec, "morec": MoRec}


def build_backbone(config: ReaRecConfig, features: Tensor | None = None) -> Backbone:
    """The backbone that ``config`` names, with fresh weights.

    features: [num_items, feature_dim], for the backbones that read them; others take no notice.
    Raises ValueError where they are missing or of another shape, and for a backbone of the user's own.
    """
    if config.backbone == OWN_BACKBONE:
        raise ValueError(f"backbone: got {OWN_BACKBONE!r}, expected the backbone itself in the argument of that name")
    if not config.reads_features:
        return _BY_ITEM_IDS[config.backbone](config)
    if features is None:
        raise ValueError(f"features: missing; {config.backbone} needs the items' features, [num_items, feature_dim]")
    return _BY_FEATURES[config.backbone](config, features)
