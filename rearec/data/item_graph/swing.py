"""Swing counts: items that many pairs of users have in common who have little else in common.

Two users who both have items a and b bind these by w_u w_v / (1 + number of items that both have), w_u being
1 / sqrt(number of items of u); the count of a and b is the sum over all pairs of users who have both (Yang et al.,
"Large Scale Product Graph Construction for Recommendation in E-commerce", arXiv 2010.05525, with its alpha 1).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import ranges

__all__ = ["swing_counts"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Of an item that more users have, so many are looked at, evenly spaced: what it costs grows with their square.
USERS = 200


def swing_counts(user: IntArray, item: IntArray, num_items: int) -> Iterator[tuple[int, IntArray, FloatArray]]:
    """Each item that shares users with others: the item, int64 [E] the others, rising, and float64 [E] their counts.

    Args:
        user, item: int64 [n], who has which item, by user, each pair once.
        num_items: N.

    Examples:
        Two users have items 0 and 1, and nothing else: 1 / sqrt(2) each, two items in common.

        >>> import numpy as np
        >>> from rearec.data.item_graph.swing import swing_counts
        >>> user, item = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1])
        >>> [(a, others.tolist(), counts.round(4).tolist()) for a, others, counts in swing_counts(user, item, 3)]
        [(0, [1], [0.1667]), (1, [0], [0.1667])]
    """
    degree = np.bincount(user)
    first, share = np.cumsum(degree) - degree, 1 / np.sqrt(np.maximum(degree, 1))
    by_item = user[np.argsort(item, kind="stable")]
    bounds = np.concatenate(([0], np.cumsum(np.bincount(item, minlength=num_items))))
    for a in np.flatnonzero(np.diff(bounds) > 1).tolist():
        users = by_item[bounds[a] : bounds[a + 1]]
        if len(users) > USERS:
            users = users[np.arange(USERS) * len(users) // USERS]
        others, column = np.unique(item[ranges(first[users], degree[users])], return_inverse=True)
        has = np.zeros((len(users), len(others)))
        has[np.repeat(np.arange(len(users)), degree[users]), column] = 1
        shared = has.sum(axis=0) > 1
        has, others = has[:, shared], others[shared]
        binding = np.outer(share[users], share[users]) / (1 + has @ has.T)
        np.fill_diagonal(binding, 0)
        counts = 0.5 * (has * (binding @ has)).sum(axis=0)
        yield a, others[others != a], counts[others != a]
