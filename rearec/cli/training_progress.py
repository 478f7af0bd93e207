"""Shows how a training goes on."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from rearec.cli.output import note

__all__ = ["TrainingProgress"]


class TrainingProgress:
    """Shows a training on stderr: a line per epoch and, on a terminal, a bar within it.

    opening: a line that comes first, when the training has begun.
    """

    def __init__(self, description: str, opening: str) -> None:
        self._description = description
        self._opening = opening
        self._stack = ExitStack()
        self._bar: Any = None

    def __enter__(self) -> TrainingProgress:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

            from rearec.cli.terminal import progress

            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = self._stack.enter_context(progress(*columns))
            self._task = self._bar.add_task(self._description, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def on_batch(self, epoch: int, done: int, total: int) -> None:
        """Move the bar."""
        self._open()
        if self._bar is not None:
            self._bar.update(self._task, description=f"{self._description}, epoch {epoch}", completed=done, total=total)

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch's line."""
        self._open()
        seconds = row["train_seconds"] + row["valid_seconds"]
        line = f"epoch {row['epoch']:>3}  loss {row['train_loss']:.4f}  valid NDCG@20 {row['valid_ndcg@20']:.4f}"
        line += f"  best so far: epoch {row['best_epoch']}  {seconds:.1f} s"
        self._say(line)

    def _open(self) -> None:
        if self._opening:
            self._say(self._opening)
            self._opening = ""

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line)
        else:
            note(line)
