"""The backbones of the paper by name."""

from __future__ import annotations

from torch import Tensor

from rearec.models.backbone import Backbone
from rearec.models.bert4rec import BERT4Rec
from rearec.models.config import ReaRecConfig
from rearec.models.morec import MoRec
from rearec.models.sasrec import SASRec
from rearec.models.text import TextBackbone
from rearec.models.title_encoder import TitleEncoder
from rearec.models.unisrec import UniSRec

__all__ = ["build_backbone"]

_BY_ITEM_IDS: dict[str, type[SASRec | BERT4Rec]] = {"sasrec": SASRec, "bert4rec": BERT4Rec}
_BY_FEATURES: dict[str, type[TextBackbone]] = {"unisrec": UniSRec, "morec": MoRec}


def build_backbone(
    config: ReaRecConfig, texts: Tensor | TitleEncoder | None = None, rows: range | None = None
) -> Backbone:
    """The backbone that ``config`` names, with fresh weights.

    texts: features [num_items, feature_dim] or, where config names a text encoder, what makes them, for the backbones
        that read them; others take no notice.
    rows: the items that this process is to hold of a table of embeddings; None: all.
    Raises ValueError where they are missing, where a backbone has no such table to hold rows of, and for a backbone of
    the user's own; otherwise as `TextBackbone`.
    """
    if config.has_own_backbone:
        raise ValueError(
            f"backbone: got {config.backbone!r}, expected the backbone itself in the argument of that name"
        )
    if not config.reads_texts:
        return _BY_ITEM_IDS[config.backbone](config, rows)
    if rows is not None:
        raise ValueError(f"rows: got some for {config.backbone}, expected none: it has no table of item embeddings")
    if isinstance(texts, TitleEncoder) == config.reads_features or texts is None:
        needed = "the items' features, [num_items, feature_dim]" if config.reads_features else "a TitleEncoder"
        raise ValueError(
            f"features: {'missing' if texts is None else 'of another kind'}; {config.backbone} needs {needed}"
        )
    return _BY_FEATURES[config.backbone](config, texts)
