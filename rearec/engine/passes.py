"""One pass of a model: the states of a batch, or what comes behind an encoding that is there already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rearec.data.batch import Batch
from rearec.engine.native import NativeRollout
from rearec.models.encoder import EncodedPrefix
from rearec.models.item_table import ItemTable
from rearec.models.transformer import TransformerBackbone
from rearec.reasoning import ReaRec, Rollout

__all__ = ["Pass"]


@dataclass(frozen=True)
class Pass:
    """The states [R, T, d] of a batch on the model's device.

    tables: the items as histories show them, and as they are scored. native: the reasoning steps, where they run as one
    call.
    """

    model: ReaRec
    tables: tuple[ItemTable, ItemTable]
    native: NativeRollout | None

    def __call__(self, batch: Batch, steps: int) -> Tensor:
        if self._is_native(steps):
            batch = self.model.backbone.arrange(batch)
            return self.reasoned(batch, self.model.backbone.encode_batch(batch, self.tables[0]), steps)
        # a subclass's own forward takes no tables
        is_ours = getattr(self.model.forward, "__func__", None) is ReaRec.forward
        rollout: Rollout = self.model(batch, steps=steps, **({"tables": self.tables} if is_ours else {}))
        return rollout.states

    def reasoned(self, batch: Batch, prefix: Any, steps: int) -> Tensor:
        """The same of a batch that the backbone has encoded."""
        if self._is_native(steps):
            assert self.native is not None
            return self.model.backbone.scored(self.native(prefix, batch, steps))
        rollout: Rollout = self.model(batch, steps=steps, tables=self.tables, prefix=prefix)
        return rollout.states

    def append(self, number: int, prefix: EncodedPrefix, slot: int) -> EncodedPrefix:
        """What the backbone, a `TransformerBackbone`, encodes of one history with one more item at its slot."""
        backbone = self.model.backbone
        assert isinstance(backbone, TransformerBackbone)
        item = backbone.placed(torch.tensor([number], device=prefix.states.device), slot, self.tables[0])
        if self.native is not None and not torch.is_autocast_enabled("cpu"):
            return self.native.append(item, prefix, slot)
        return backbone.append(item, prefix, slot)

    def _is_native(self, steps: int) -> bool:
        return self.native is not None and steps > 0 and not torch.is_autocast_enabled("cpu")
