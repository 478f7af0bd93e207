"""The teacher: what the item graph of the training data knows to follow the last item of a row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rearec.data.batch import Batch
from rearec.data.dataset import SequenceDataset
from rearec.data.item_graph import GraphOptions, ItemGraph

__all__ = ["GraphTeacher"]


class GraphTeacher(nn.Module):
    """Looks up the neighbours of the rows' last items; no part of it is saved, the dataset has it.

    Args:
        dataset: whose training part is counted.
        neighbors: m, how many of each item, the likeliest first.

    Examples:
        >>> from rearec.data.batches import PairBatches
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.training.teacher import GraphTeacher
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> batch = next(iter(PairBatches(dataset, "train", batch_rows=32, max_len=20, pairing="shared")))
        >>> GraphTeacher(dataset, neighbors=5)(batch).shape
        torch.Size([32, 5])
    """

    table: Tensor

    def __init__(self, dataset: SequenceDataset, neighbors: int) -> None:
        super().__init__()
        self.options = GraphOptions(
            window=4, decay=0.6, reverse=0.5, shrinkage=0.0, popularity=0.3, neighbors=neighbors
        )
        graph = ItemGraph.of(dataset, self.options)
        self.register_buffer("table", torch.from_numpy(graph.top(neighbors)[0]), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """int64 [R, m], -1 where there are fewer."""
        last = batch.items[batch.row_prefix.long(), batch.end.long() - 1]
        return self.table[last.long()]
