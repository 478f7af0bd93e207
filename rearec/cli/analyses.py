"""What ``rearec analyze`` does for each analysis: compute, and put the result on the page.

Imported by the command when its arguments are known to be good: unlike it, this module imports torch and matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rearec.analysis import case, ceiling, latency, ranks, similarity, steps, subgroups
from rearec.cli.common import progress_bar
from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.errors import UserError
from rearec.evaluation import rank_rows
from rearec.evaluation.seen import SeenName, seen_name
from rearec.reasoning import ReaRec
from rearec.report.page import Page
from rearec.run_folder import RunFolder

__all__ = ["ANALYSES", "Subject"]


@dataclass(frozen=True)
class Subject:
    """What an analysis looks at: RUN first, then those of --against; options: those of its own.

    exclude_seen: whether seen items are left out where targets or items are ranked.
    """

    folders: list[RunFolder]
    models: list[ReaRec]
    dataset: SequenceDataset
    split: SplitName
    options: dict[str, int]
    seed: int
    exclude_seen: bool

    @property
    def seen(self) -> SeenName:
        return seen_name(self.exclude_seen)

    @property
    def model(self) -> ReaRec:
        return self.models[0]

    @property
    def names(self) -> list[str]:
        """A name for each model, no two alike; the method comes first, it decides the colour."""
        methods = [model.config.method for model in self.models]
        paths = [folder.path for folder in self.folders]
        names = [f"{method}: {path.resolve().name}" for method, path in zip(methods, paths, strict=True)]
        if len(set(names)) < len(names):
            names = [f"{method}: {path}" for method, path in zip(methods, paths, strict=True)]
        if len(set(names)) < len(names):
            raise UserError("--against: names a run twice")
        return names


def _steps(subject: Subject, page: Page) -> Any:
    with progress_bar(f"ranking {subject.split} rows") as progress:
        result = steps.metrics_by_step(
            subject.model, subject.dataset, subject.split, exclude_seen=subject.exclude_seen, progress=progress
        )
    steps.page(page, {subject.names[0]: result})
    return result


def _ceiling(subject: Subject, page: Page) -> Any:
    states = subject.model.config.steps + 1
    control = subject.models[1:]
    _check_control(subject, states)
    rank = partial(rank_rows, dataset=subject.dataset, split=subject.split, exclude_seen=subject.exclude_seen)
    with progress_bar(f"ranking {subject.split} rows") as progress:
        by_step = rank(subject.model, per_step=True, progress=progress).by_step
    assert by_step is not None
    of_base = [rank(model).final for model in control]
    result = ceiling.ceiling(by_step, np.stack(of_base, axis=1) if of_base else None, seed=subject.seed)
    ceiling.page(page, {subject.names[0]: result}, seen=subject.seen)
    return asdict(result)


def _check_control(subject: Subject, states: int) -> None:
    """UserError unless the runs of --against are a control for a model of so many states, or there are none."""
    control = list(zip(subject.folders, subject.models, strict=True))[1:]
    if not control:
        return
    if len(control) != states:
        raise UserError(f"--against: got {len(control)} runs, expected {states} base runs: one for each state of RUN")
    seeds: dict[Any, Path] = {}
    for folder, model in control:
        if model.config.method != "base":
            raise UserError(f"--against: {folder.path} is of method {model.config.method}; the control is of base runs")
        seed = folder.options()["training"].get("seed")
        if seed in seeds:
            raise UserError(
                f"--against: {seeds[seed]} and {folder.path} have the same seed {seed}: no independent runs"
            )
        seeds[seed] = folder.path


def _subgroups(subject: Subject, page: Page) -> Any:
    models = dict(zip(subject.names, subject.models, strict=True))
    with progress_bar(f"ranking {subject.split} rows"):
        result = subgroups.subgroups(models, subject.dataset, subject.split, exclude_seen=subject.exclude_seen)
    subgroups.page(page, result)
    return result


def _latency(subject: Subject, page: Page) -> Any:
    with progress_bar("measuring"):
        result = latency.latency(
            subject.model,
            subject.dataset,
            subject.split,
            rows=subject.options["--rows"],
            repeats=subject.options["--repeats"],
            seed=subject.seed,
        )
    device = subject.model.device
    words = torch.cuda.get_device_name(device) if device.type == "cuda" else f"a CPU, {torch.get_num_threads()} threads"
    latency.page(page, {subject.names[0]: result}, device=words)
    return result


def _similarity(subject: Subject, page: Page) -> Any:
    with progress_bar("encoding rows"):
        result = similarity.similarity(
            subject.model, subject.dataset, subject.split, max_rows=subject.options["--rows"], seed=subject.seed
        )
    similarity.page(page, {subject.names[0]: result})
    return result.tolist()


def _ranks(subject: Subject, page: Page) -> Any:
    with progress_bar(f"ranking {subject.split} rows") as progress:
        result = ranks.rank_by_step(
            subject.model, subject.dataset, subject.split, exclude_seen=subject.exclude_seen, progress=progress
        )
    ranks.page(page, {subject.names[0]: result}, seen=subject.seen)
    return result


def _case(subject: Subject, page: Page) -> Any:
    with progress_bar(f"ranking {subject.split} rows"):
        result = case.cases(
            subject.model,
            subject.dataset,
            subject.split,
            exclude_seen=subject.exclude_seen,
            count=subject.options["--cases"],
            k=subject.options["-k"],
        )
    case.page(page, result, seen=subject.seen)
    return [asdict(each) for each in result]


ANALYSES: dict[str, Callable[[Subject, Page], Any]] = {
    "steps": _steps,
    "ceiling": _ceiling,
    "subgroups": _subgroups,
    "latency": _latency,
    "similarity": _similarity,
    "ranks": _ranks,
    "case": _case,
}
