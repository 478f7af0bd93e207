"""What the rows of a split ask for: what the last item alone explains, repeats, unseen items, twins, later training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.evaluation.markov import last_items
from rearec.evaluation.seen import repeated_targets

__all__ = ["Share", "followed_last", "later_words", "row_shares"]

BoolArray = NDArray[np.bool_]
# Followers of the last item that are shown, as many as the main metric looks at.
SHOWN = 20
NOT_KNOWN = "not known: no timestamps, or prepared before these were counted"


@dataclass(frozen=True)
class Share:
    """So many (count) of so many (of), and of what, in words."""

    count: int
    of: int
    words: str

    @property
    def share(self) -> float:
        """count / of."""
        return self.count / self.of

    @property
    def percent(self) -> str:
        """As it is read: "12.3 %"."""
        return f"{100 * self.share:.1f} %"


def followed_last(dataset: SequenceDataset, split: SplitName) -> BoolArray:
    """bool [R]: in a training row the row's target came right after the row's last item.

    Examples:
        Training knows that b comes after a, and c after b; the test asks for b after c.

        >>> from pathlib import Path
        >>> from rearec.data import prepare
        >>> from rearec.experiments.audit_rows import followed_last
        >>> _ = Path("lines.txt").write_text("ann a b c a b c b\\n")
        >>> followed_last(prepare("lines", ["lines.txt"], "followed"), "test").tolist()
        [False]
    """

    def pairs(of: SplitName) -> NDArray[np.int64]:
        last = last_items(dataset, of)
        return np.where(last < 0, -1, last * dataset.num_items + dataset.targets(of))

    return np.isin(pairs(split), pairs("train"))


def row_shares(
    dataset: SequenceDataset, split: SplitName, markov_ranks: NDArray[np.float64], followed: BoolArray
) -> dict[str, Share]:
    """What kinds of rows a split has, by name.

    markov_ranks: [R], of the floor "markov". followed: [R], what `followed_last` returns.
    """
    rows, target, last = np.asarray(dataset.rows(split)), dataset.targets(split), last_items(dataset, split)
    kinds: Mapping[str, tuple[BoolArray, str]] = {
        "followed_last": (followed, "the target followed the last item at least once in training"),
        "top_followers": (
            followed & (markov_ranks < SHOWN),
            f"and it is among the {SHOWN} that the Markov chain lists first",
        ),
        "in_history": (repeated_targets(dataset, split), "the target is in the row's own history"),
        "same_as_last": (target == last, "the target is the last item again"),
        "unseen_target": (
            dataset.train_item_counts()[target] == 0,
            "the target has no training interaction: nothing learnt from ids can know it",
        ),
        "empty_history": (rows[:, 1] == 0, "there is no history: popularity answers"),
    }
    shares = {name: Share(int(mask.sum()), len(rows), words) for name, (mask, words) in kinds.items()}
    return shares | {"twin_sequences": _twins(dataset, rows)}


def _twins(dataset: SequenceDataset, rows: NDArray[np.int32]) -> Share:
    """Users of the rows whose whole sequence is, item by item, that of another user."""
    first = np.flatnonzero(dataset.first_of_user)
    sequences = [dataset.sequence(sequence).tobytes() for sequence in first.tolist()]
    alike = Counter(sequences)
    users = np.unique(np.asarray(dataset.sequence_user)[rows[:, 0]])
    # Every user has one first sequence, in the order of the users.
    of_user = dict(zip(np.asarray(dataset.sequence_user)[first].tolist(), sequences, strict=True))
    count = sum(alike[of_user[user]] > 1 for user in users.tolist())
    return Share(count, len(users), "users whose whole sequence is, item by item, that of another user")


def later_words(statistics: Mapping[str, Any]) -> list[str]:
    """How much of the training part is later than the test rows, in sentences, by the statistics of a dataset.

    Examples:
        >>> from rearec.experiments.audit_rows import later_words
        >>> later_words({"test_rows": 10})
        ['not known: no timestamps, or prepared before these were counted']
    """
    before, own = statistics.get("test_rows_before_training"), statistics.get("test_rows_before_own_item")
    share, rows = statistics.get("later_training_share"), statistics.get("test_rows")
    if before is None or own is None or share is None or not rows:
        return [NOT_KNOWN]
    return [
        f"{100 * before / rows:.1f} % of the test rows ({before:,} of {rows:,}) are earlier than some of the training "
        "interactions",
        f"{100 * own / rows:.1f} % ({own:,}) are earlier than a training interaction of the very item they ask for",
        f"on average {100 * share:.1f} % of the training interactions are later than the row they help to predict",
    ]
