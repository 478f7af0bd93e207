"""Finished runs on the same rows: differences with paired intervals, in all and for groups of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rearec.data import load_dataset
from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.errors import UserError
from rearec.evaluation.floors import FLOORS
from rearec.evaluation.measured import RowGroups
from rearec.evaluation.metrics import METRICS, parse_metrics
from rearec.evaluation.ranking import check_split
from rearec.experiments.comparison_result import Comparison
from rearec.experiments.contenders import (
    Lines,
    Run,
    check_dataset,
    folder_of,
    measure,
    named_runs,
    seen_of_runs,
    users_of_rows,
)
from rearec.inference import Recommender
from rearec.run_folder import RunFolder
from rearec.training.presets import KNOWN, relevant

__all__ = ["compare"]

# The metric of the groups, where it is among those that are asked for.
METRIC = "ndcg@20"


def compare(
    runs: Sequence[str | Path | Recommender] | Mapping[str, str | Path | Recommender],
    *,
    data: str | Path | SequenceDataset | None = None,
    split: SplitName = "test",
    metrics: Sequence[str] | None = None,
    against: str | Path | None = None,
    exclude_seen: bool | None = None,
    users_by: str | None = "length",
    items_by: str | None = "popularity",
    batch_rows: int = 512,
    trust_code: bool = False,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Whether one run is better than another: every metric with its paired difference to a baseline.

    Each run is one training: the intervals are about other users of the same kind, not about other seeds.

    Args:
        runs: RUN folders, or models that know their dataset (what `rearec.fit` and `rearec.load` return), by name or
            with the names of their folders; one or more. The first is the baseline.
        data: the prepared dataset; None for the one that the first run was trained on.
        split: "train", "valid" or "test".
        metrics: as `rearec.evaluation.evaluate` takes them; None for NDCG and Recall at 10 and 20 and MRR.
        against: another baseline: "popularity", "markov", "itemknn", "rules", or one of ``runs`` by its name or folder.
        exclude_seen: whether targets are ranked among the items that are not in their row's history; None: as the runs
            were trained.
        users_by, items_by: "length" and "popularity" compare four groups of rows each, None does not.
        batch_rows: rows per batch.
        trust_code: whether the code may be run that a folder names for its encoder (``module:factory``).
        device: where the models of RUN folders compute.
        progress: called with (rows done, rows in all) of each run.

    Returns:
        a `rearec.experiments.comparison_result.Comparison`: ``.table``, ``.to_frame()``, ``.save(dir)``.

    Raises:
        UserError: runs of other data than the others or than ``data``, runs that treat seen items differently while
            ``exclude_seen`` does not decide it, an unfinished run, a refit, an unknown baseline, metric, split or
            grouping.

    Examples:
        >>> import tempfile
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.experiments.compare import compare
        >>> from rearec.training import TrainingOptions, fitting_config, train
        >>> dataset, folder = generate(0, planted=Planted(users=30, themes=2, items_per_theme=3)), tempfile.mkdtemp()
        >>> for method in ("base", "prl"):
        ...     config = fitting_config(dataset, method=method, dim=8, ffn=8, layers=1, max_len=8)
        ...     result = train(dataset, f"{folder}/{method}", config, TrainingOptions(epochs=1))
        >>> comparison = compare([f"{folder}/base", f"{folder}/prl"], data=dataset, metrics=["ndcg@5"])
        >>> [(line["run"], line["verdict"] is None) for line in comparison.table]
        [('base', True), ('prl', False), ('popularity', False), ('markov', False), ('itemknn', False), ('rules', False)]
    """
    candidates = named_runs(runs)
    dataset = _dataset(candidates, data)
    check_split(dataset, split)
    for name, run in candidates.items():
        check_dataset(name, run, dataset)
    chosen = parse_metrics(METRICS) if metrics is None else parse_metrics(metrics, dataset.num_items)
    baseline = _baseline(candidates, against)
    seen = seen_of_runs(candidates, dataset, exclude_seen)
    groups = RowGroups(dataset, split, users_by, items_by)

    measured, models = measure(
        candidates,
        dataset,
        split,
        chosen,
        groups.masks,
        exclude_seen=seen.exclude,
        batch_rows=batch_rows,
        trust_code=trust_code,
        device=device,
        progress=progress,
    )
    users = users_of_rows(dataset, split)
    lines = Lines(measured, baseline, groups.masks, users)
    main = next((metric for metric in chosen if metric.name == METRIC), chosen[0])
    return Comparison(
        names=tuple(candidates),
        baseline=baseline,
        split=split,
        seen=seen,
        rows=len(users),
        users=len(np.unique(users)),
        resamples=lines.resamples,
        dataset={"fingerprint": dataset.fingerprint, **dataset.statistics},
        main=main.name,
        table=[line for metric in chosen for line in lines.of(metric, 0)],
        groups=[
            {"grouping": key, "group": words, **line}
            for group, (key, words) in enumerate(groups.names)
            if key
            for line in lines.of(main, group)
        ],
        settings=_differing({name: _settings(of_model, candidates[name]) for name, of_model in models.items()}),
        folders={name: folder_of(run) for name, run in candidates.items()},
        asked={"metrics": metrics and [metric.name for metric in chosen], "exclude_seen": exclude_seen},
    )


def _dataset(candidates: Mapping[str, Run], data: str | Path | SequenceDataset | None) -> Any:
    """The dataset of the first run, unless one is given."""
    if data is not None:
        if not isinstance(data, SequenceDataset | str | Path):
            raise TypeError(f"data: got a {type(data).__name__}, expected a dataset or the path of one")
        return data if isinstance(data, SequenceDataset) else load_dataset(data)
    first = next(iter(candidates.values()))
    if isinstance(first, Recommender):
        dataset = getattr(first, "dataset", None)
        if dataset is None:
            raise UserError("data: missing, the first model does not know its dataset")
        return dataset
    return load_dataset(first.dataset_path("--data"))


def _baseline(candidates: Mapping[str, Run], against: str | Path | None) -> str:
    if against is None:
        return next(iter(candidates))
    if str(against) in (*FLOORS, *candidates):
        return str(against)
    wanted = Path(against).resolve()
    for name, run in candidates.items():
        folder = folder_of(run)
        if folder is not None and Path(folder).resolve() == wanted:
            return name
    known = ", ".join([*FLOORS, *candidates])
    raise UserError(f"against: {str(against)!r} is none of what is compared; known are {known}")


def _settings(of_model: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Those of the model and its training that its backbone and method read."""
    folder = folder_of(run)
    training = {} if folder is None else RunFolder(folder).options()["training"]
    values = {**of_model, **training, "prior": of_model["prior"]}
    backbone, method = of_model["backbone"], of_model["method"]
    return {name: value for name, value in values.items() if name in KNOWN and relevant(name, backbone, method)}


def _differing(settings: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each setting in which runs differ."""
    names = dict.fromkeys(name for each in settings.values() for name in each)
    cells = {name: {run: each.get(name) for run, each in settings.items()} for name in names}
    return [{"setting": name, **row} for name, row in cells.items() if len({str(value) for value in row.values()}) > 1]
