"""Histories with some of their items left out, anew in every epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rearec.data.batch import Batch
from rearec.data.window_batches import gather_windows

__all__ = ["without_items"]


def without_items(batch: Batch, share: float, generator: np.random.Generator) -> Batch:
    """The same rows and targets, every item of a window left out with probability ``share``; the others close up.

    Where a row would see nothing, its window keeps its first item.

    Args:
        batch: on the CPU, S windows of at most C items.
        share: in [0, 1).
        generator: draws S * C numbers.

    Examples:
        >>> import numpy as np, torch
        >>> from rearec.data.batches import collate_histories
        >>> from rearec.data.item_dropout import without_items
        >>> batch = collate_histories([[3, 1, 4, 1, 5, 9], [2]], max_len=6)
        >>> fewer = without_items(batch, 0.5, np.random.default_rng(0))
        >>> fewer.items.tolist(), fewer.end.tolist()
        ([[3, 5, 9], [2, 0, 0]], [3, 1])
    """
    items, lengths = batch.items.numpy(), batch.lengths.numpy()
    window, end = batch.row_prefix.numpy(), batch.end.numpy()
    kept = (np.arange(items.shape[1]) < lengths[:, None]) & (generator.random(items.shape) >= share)
    seen = kept.cumsum(1)[window, end - 1]
    kept[window[seen == 0], 0] = True
    left = kept.cumsum(1)
    counts = left[:, -1]
    return replace(
        batch,
        items=torch.from_numpy(gather_windows(items[kept], counts.cumsum() - counts, counts)),
        lengths=torch.from_numpy(counts.astype(np.int32)),
        end=torch.from_numpy(left[window, end - 1].astype(np.int32)),
    )
