"""How a training goes on, as a bar in a notebook or on a terminal; where there is neither, nothing is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from rearec.facade.words import say

__all__ = ["TrainingBars"]


class TrainingBars:
    """A bar of the epochs, the loss and the validation NDCG@20 beside it, and within each epoch one of its batches.

    epochs: at most so many. shown: without it, nothing is shown. opening: makes the lines that are said first, when the
    training has begun, whoever looks.
    """

    def __init__(self, description: str, epochs: int, shown: bool, opening: Callable[[], Sequence[str]]) -> None:
        self._opening: Callable[[], Sequence[str]] | None = opening if shown else None
        self._options = {"unit": "epoch", "desc": description, "total": epochs}
        self._shown = shown
        self._epochs: Any = None
        self._batches: Any = None

    def __enter__(self) -> TrainingBars:
        if self._shown and _is_watched():
            from tqdm.auto import tqdm

            self._epochs = tqdm(**self._options)
        return self

    def __exit__(self, *_: object) -> None:
        for bar in (self._batches, self._epochs):
            if bar is not None:
                bar.close()

    def on_batch(self, epoch: int, done: int, total: int) -> None:
        """Move the bar of the batches."""
        self._open()
        if self._epochs is None:
            return
        if self._batches is None:
            from tqdm.auto import tqdm

            self._batches = tqdm(total=total, unit="batch", desc=f"epoch {epoch}", leave=False)
        self._batches.update(done - self._batches.n)

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Move the bar of the epochs."""
        self._open()
        if self._epochs is None:
            return
        if self._batches is not None:
            self._batches.close()
            self._batches = None
        beside: dict[str, Any] = {"loss": f"{row['train_loss']:.4f}"}
        if "valid_ndcg@20" in row:
            beside |= {"valid NDCG@20": f"{row['valid_ndcg@20']:.4f}", "best epoch": row["best_epoch"]}
        self._epochs.set_postfix(beside, refresh=False)
        # an epoch that a resumed training has behind it counts too
        self._epochs.update(row["epoch"] - self._epochs.n)

    def _open(self) -> None:
        opening, self._opening = self._opening, None
        for line in () if opening is None else opening():
            say(line)


def _is_watched() -> bool:
    """Whether somebody looks at the bars as they move: in a notebook, or on a terminal."""
    from tqdm.auto import tqdm

    return any("notebook" in kind.__module__ for kind in tqdm.__mro__) or sys.stderr.isatty()
