"""Finished runs as numbers: what the pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.evaluation import RankedRows, rank_rows
from rearec.evaluation.bootstrap import Interval, paired_interval
from rearec.evaluation.measured import floor_metrics
from rearec.evaluation.metrics import rank_metrics, row_metrics
from rearec.evaluation.seen import SeenName
from rearec.experiments.pool import Outcome
from rearec.experiments.runs import Run
from rearec.reasoning import ReaRec
from rearec.report.floors import floor_levels

__all__ = ["TABLE_METRICS", "Gain", "Results", "Summary"]

# The metrics of the paper's tables.
TABLE_METRICS = ("ndcg@10", "ndcg@20", "recall@10", "recall@20")


@dataclass(frozen=True)
class Summary:
    """A metric of one setting over its finished seeds.

    error: the standard deviation over seeds where there are to be several, the standard error over rows where there is
    to be one; None where it cannot be told.
    """

    mean: float
    error: float | None
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.error is None else f"{self.mean:.4f} ± {self.error:.4f}"


@dataclass(frozen=True)
class Gain(Interval):
    """How far one setting is above another in a metric: difference, low and high are in per cent of the other."""

    @classmethod
    def of(cls, interval: Interval, reference: float) -> Gain | None:
        """Of a difference; None where the reference is 0."""
        if reference <= 0:
            return None
        difference, low, high = (100 * part / reference for part in (interval.difference, interval.low, interval.high))
        return cls(difference, low, high, interval.level, interval.rows)

    def __str__(self) -> str:
        return f"{self.difference:+.1f} % ({self.low:+.1f} to {self.high:+.1f})"


class Results:
    """The finished runs of an OUT folder; every number is of the test split unless it says otherwise.

    seen: whether seen items are among those ranked, in the choice of the best epochs as in all numbers.
    metrics: those of the tables, which the targets' ranks have to tell.
    """

    def __init__(
        self,
        dataset: SequenceDataset,
        data: Path,
        runs_folder: Path,
        outcome: Outcome,
        device: torch.device,
        seen: SeenName,
        metrics: Sequence[str] = TABLE_METRICS,
    ) -> None:
        self.dataset = dataset
        self.data = data
        self.device = device
        self.seen = seen
        self.metrics = tuple(metrics)
        self._folder = runs_folder
        self._outcome = outcome
        self._ranks: dict[tuple[Run, bool], RankedRows] = {}

    @property
    def exclude_seen(self) -> bool:
        """Whether seen items are left out of the rankings."""
        return self.seen == "excluded"

    def finished(self, runs: Iterable[Run]) -> list[Run]:
        """Those that have ended, each once."""
        return [run for run in dict.fromkeys(runs) if run.folder(self._folder).finished]

    def missing(self, runs: Iterable[Run]) -> dict[Run, str]:
        """Those that have not, and why."""
        lost = [run for run in dict.fromkeys(runs) if not run.folder(self._folder).finished]
        return {run: self._outcome.failed.get(run, "not trained yet: the budget was over") for run in lost}

    def result(self, run: Run) -> dict[str, Any]:
        """What the training of a finished run has left: best epoch, ``valid`` and ``test``."""
        return run.folder(self._folder).result()

    def folder(self, run: Run) -> Path:
        """The RUN folder."""
        return run.folder(self._folder).path

    def model(self, run: Run) -> ReaRec:
        """The model of a finished run, in evaluation mode."""
        return ReaRec.from_pretrained(self.folder(run), map_location=self.device).eval()

    def models(self, runs: Mapping[str, Run]) -> dict[str, ReaRec]:
        """The models of those that are finished."""
        return {name: self.model(run) for name, run in runs.items() if self.finished([run])}

    def ranks(self, run: Run, *, per_step: bool = False) -> RankedRows:
        """The rank of every row's target; computed once."""
        key = (run, per_step)
        if key not in self._ranks:
            self._ranks[key] = rank_rows(
                self.model(run), self.dataset, "test", exclude_seen=self.exclude_seen, per_step=per_step
            )
        return self._ranks[key]

    @cached_property
    def floors(self) -> dict[str, dict[str, Any]]:
        """Metrics of the floors on the test rows, by name."""
        return floor_metrics(self.dataset, "test", exclude_seen=self.exclude_seen)

    def floor_levels(self, metric: str) -> dict[str, float]:
        """A metric of the floors by the names that figures give them."""
        return floor_levels(self.floors, metric)

    def summary(self, runs: Sequence[Run], metric: str, split: str = "test") -> Summary | None:
        """A metric over the runs of one setting, which differ in their seed alone; None where none is finished.

        split: "valid" has the metrics that a training leaves alone.
        """
        metrics = [self._measured(run, metric, split) for run in self.finished(runs)]
        if not metrics:
            return None
        values = [entry[metric] for entry in metrics]
        if len(runs) == 1:
            return Summary(values[0], metrics[0][f"{metric}_se"], 1)
        return Summary(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values))

    def _measured(self, run: Run, metric: str, split: str) -> dict[str, Any]:
        """A metric and its error, as the training has left it or, where it did not, of the test rows' ranks."""
        left: dict[str, Any] = self.result(run)[split]
        return left if metric in left or split != "test" else rank_metrics(self.ranks(run).final, [metric])

    def gain(self, runs: Sequence[Run], over: Sequence[Run], metric: str) -> Gain | None:
        """Of the seeds of one setting over those of another, with a paired bootstrap interval over rows."""
        runs, over = self.finished(runs), self.finished(over)
        if not runs or not over:
            return None
        reference = self._rows(over, metric)
        return Gain.of(paired_interval(self._rows(runs, metric), reference), float(reference.mean()))

    def _rows(self, runs: Sequence[Run], metric: str) -> NDArray[np.float64]:
        """[seeds, R]"""
        return np.stack([row_metrics(self.ranks(run).final, [metric])[metric] for run in runs])
