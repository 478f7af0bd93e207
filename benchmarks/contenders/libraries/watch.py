"""The epochs of one training: processor time, validation by the evaluator of all, its end, its best weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contenders.libraries.clock import processor_seconds
from contenders.libraries.contender import Contender, best_lists
from contenders.libraries.ranks import mean_gain
from contenders.libraries.task import Sequences, Task

STOP = "stop"
Say = Callable[[dict[str, Any]], None]


class Watch:
    """Ends a training by the same rule whatever the library: patience, and a budget of processor seconds.

    Seconds of training are those from the watch's making, validations left out. Each epoch is told to `say` at once, so
    that the curve is there whatever comes next. A file STOP in the task's folder ends the training after its current
    epoch; signals are Lightning's to handle.
    """

    def __init__(self, contender: Contender, sequences: Sequences, task: Task, say: Say) -> None:
        self.contender, self.sequences, self.task, self.say = contender, sequences, task, say
        self.epoch = self.best_epoch = 0
        self.best = -1.0
        self.cpu_s = 0.0
        self.ended_by = "epochs"
        self._weights: dict[str, Any] | None = None
        self._since: float | None = processor_seconds()
        (task.folder / STOP).unlink(missing_ok=True)

    def trained(self) -> None:
        if self._since is not None:
            self.cpu_s += processor_seconds() - self._since
            self._since = None

    def ended(self, valid: float | None = None) -> bool:
        self.trained()
        if valid is None:
            lists = best_lists(self.contender, self.sequences, "valid", self.task.top)
            valid = mean_gain(lists, self.sequences, "valid", self.task.gains)
        self.epoch += 1
        if valid > self.best:
            self.best, self.best_epoch = valid, self.epoch
            module = self.contender.module()
            if module is not None:
                self._weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.say({"epoch": {"epoch": self.epoch, "cpu_s": round(self.cpu_s, 2), "valid_ndcg@20": valid}})
        reasons = {
            "patience": self.epoch - self.best_epoch >= self.task.patience,
            "budget": self.task.cpu_seconds is not None and self.cpu_s >= self.task.cpu_seconds,
            "a stop file": (self.task.folder / STOP).exists(),
        }
        reached = [reason for reason, holds in reasons.items() if holds]
        if reached and self.epoch < self.task.epochs:
            self.ended_by = reached[0]
        self._since = processor_seconds()
        return bool(reached)

    def finish(self) -> dict[str, Any]:
        """Puts the best weights back; what there is to say of the training."""
        self.trained()
        if self._weights is not None:
            self.contender.module().load_state_dict(self._weights)
        return {
            "epochs": self.epoch,
            "best_epoch": self.best_epoch,
            "valid_ndcg@20": self.best,
            "cpu_s": round(self.cpu_s, 2),
            "ended_by": self.ended_by,
        }
