"""What ReaRec needs of an encoder of histories; subclass `Backbone` to bring one of your own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from rearec.data.batch import Batch
    from rearec.models.item_table import ItemTable

__all__ = ["Backbone"]


class Backbone(nn.Module, ABC):
    """Encodes item histories once and continues them by reasoning tokens.

    docs/own-backbone.md makes one of a Hugging Face decoder.

    Attributes:
        shares_windows: whether an item's state depends on nothing behind it, so that all rows of a user can read one
            encoding of the longest of their histories. If not, every row gets a window of its own.
    """

    shares_windows: bool = True

    @abstractmethod
    def item_table(self) -> ItemTable:
        """[N, d]: the items as histories show them; of one's own, a tensor."""

    def item_tables(self) -> tuple[ItemTable, ItemTable]:
        """[N, d] each: the items as histories show them, and as they are scored. Called once per pass of the model."""
        table = self.item_table()
        # where other processes have the rest of the table, items are scored as they are
        return table, self.scored(table) if isinstance(table, Tensor) else table

    @abstractmethod
    def encode(self, items: Tensor, row_prefix: Tensor, end: Tensor, table: Tensor) -> Any:
        """Encode right padded windows of item ids, int64 [S, C].

        Args:
            items: the windows; what stands behind a row's last item must not reach it.
            row_prefix, end: int [R]; row r sees the slots [0, end[r]) of window row_prefix[r], end[r] >= 1. Without
                `shares_windows`, no two rows have a window in common.
            table: [N, d], the items as histories show them.

        Returns:
            an object whose ``states`` [R, d] are the states h_0 at every row's last item; `reason` gets it.
        """

    @abstractmethod
    def reason(self, prefix: Any, row_prefix: Tensor, end: Tensor, steps: int) -> Callable[[Tensor], Tensor]:
        """Begin to reason over an encoding.

        Args:
            prefix: what `encode` returned, in the same pass of the model; no other call gets it.
            row_prefix, end: int [R], which slots of which window each row sees, as in `encode`. PRL's noised branch
                repeats the rows: there may be twice as many of them as there.
            steps: how many tokens will come, at least 1.

        Returns:
            a function that is called once per step with one token per row, not yet normalised, [R, d], and returns the
            token's state [R, d]. A token sees its row's items, the row's earlier tokens and itself; items never see
            tokens.
        """

    def arrange(self, batch: Batch) -> Batch:
        """The same rows as `encode_batch` gets them: each with a window of its own unless they share windows."""
        return batch if self.shares_windows else batch.one_window_per_row()

    def encode_batch(self, batch: Batch, table: Any) -> Any:
        """`encode` of what `arrange` returned.

        Raises ValueError for a batch with masked items, which the Cloze objective alone teaches a backbone to read.
        """
        if batch.slot is not None:
            raise ValueError("slot: got a batch with masked items, expected one without: this model was not trained so")
        return self.encode(batch.items, batch.row_prefix, batch.end, table)

    def reason_batch(self, prefix: Any, batch: Batch, steps: int) -> Callable[[Tensor], Tensor]:
        """`reason` for the rows of a batch, over what `encode_batch` returned."""
        return self.reason(prefix, batch.row_prefix, batch.end, steps)

    def scored(self, vectors: Tensor) -> Tensor:
        """[..., d] -> [..., d]: what states, and the items of the table, are scored as; by default they themselves.

        A row's score for an item is the dot product of both. Reasoning goes on with the state as it was before.
        """
        return vectors

    @property
    def weight(self) -> ItemTable:
        """[N, d]: the table that states are scored with, computed at every access; a pass asks `item_tables` once."""
        return self.item_tables()[1]

    def frozen_state(self) -> dict[str, Tensor]:
        """The part of the state dict that training does not change; checkpoints of a training leave it out."""
        return {}

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Parameters that come trained already: they get a learning rate of their own."""
        return []
