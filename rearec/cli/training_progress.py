"""Shows how a training goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from rearec.cli.output import is_terminal, note
from rearec.models.config import ReaRecConfig

__all__ = ["TrainingProgress"]


class TrainingProgress:
    """Shows a training on stderr: a line per epoch and, on a terminal, a bar within it.

    opening: makes the lines that come first, when the training has begun.
    """

    def __init__(self, config: ReaRecConfig, opening: Callable[[], Sequence[str]]) -> None:
        self._config = config
        self._opening: Callable[[], Sequence[str]] | None = opening
        self._stack = ExitStack()
        self._bar: Any = None
        self._jump: int | None = None

    def __enter__(self) -> TrainingProgress:
        if is_terminal():
            from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

            from rearec.cli.terminal import progress

            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = self._stack.enter_context(progress(*columns))
            self._task = self._bar.add_task(self._config.method, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        # What is printed after it stands on a line of its own: the bar is gone, and with it the terminal's ^C.
        self._stack.close()

    def on_batch(self, epoch: int, done: int, total: int) -> None:
        """Move the bar."""
        self._open()
        if self._bar is not None:
            words = f"{self._config.method}, epoch {epoch}"
            self._bar.update(self._task, description=words, completed=done, total=total)

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch's line."""
        self._open()
        if row["epoch"] == self._jump:
            self._say("the loss jumps here: the contrastive term starts")
        seconds = row["train_seconds"] + row["valid_seconds"]
        line = f"epoch {row['epoch']:>3}  loss {row['train_loss']:.4f}"
        if "valid_ndcg@20" in row:
            line += f"  valid NDCG@20 {row['valid_ndcg@20']:.4f}  best so far: epoch {row['best_epoch']}"
        self._say(f"{line}  {seconds:.1f} s")

    def _open(self) -> None:
        if self._opening is not None:
            # imports torch, which is there by now
            from rearec.training.advice import contrastive_start

            self._jump = contrastive_start(self._config)
            for line in self._opening():
                self._say(line)
            self._opening = None

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line)
        else:
            note(line)
