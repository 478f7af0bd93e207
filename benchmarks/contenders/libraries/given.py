"""A run of rearec that was trained before: lists as of any other contender."""

from __future__ import annotations

from typing import Any

from contenders.libraries.clock import StepClock
from contenders.libraries.contender import Contender, Epochs
from contenders.libraries.ours import Ours, dataset_of
from contenders.libraries.task import Sequences, Task
from rearec import ReaRec, Recommender
from rearec.run_folder import Catalog, RunFolder


class Given(Ours):
    """Its catalog has the items in the order of the sequences, which whoever gives the run has seen to."""

    def __init__(self, task: Task, sequences: Sequences) -> None:
        self.task, self.sequences = task, sequences
        self.dataset = dataset_of(sequences)
        self.folder = RunFolder(task.options["run"])
        self.run = self.folder.path
        self.catalog = Catalog(self.dataset.item_ids, self.dataset.train_item_counts().tolist())
        self.recommender = Recommender(ReaRec.from_pretrained(self.run, prior=False), self.catalog)

    def train(self, epochs: int, clock: StepClock, watch: Epochs | None = None) -> dict[str, Any]:
        """Nothing to train, and no processor seconds to tell: the run has those of the clock on the wall."""
        result, rows = self.folder.result(), self.folder.metrics()
        return {
            "epochs": result["epochs"],
            "best_epoch": result["best_epoch"],
            "valid_ndcg@20": float(rows[result["best_epoch"] - 1]["valid_ndcg@20"]),
            "valid_seen": result["seen"],
            "cpu_s": None,
            "ended_by": "patience" if result["stopped_early"] else "epochs",
            "given": self.run.name,
        }


def make(task: Task, sequences: Sequences) -> Contender:
    return Given(task, sequences)
