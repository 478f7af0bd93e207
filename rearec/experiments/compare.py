"""Finished runs on the same rows: differences with paired intervals, in all and for groups of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.data import load_dataset
from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.errors import UserError
from rearec.evaluation import rank_rows, seen_items
from rearec.evaluation.bootstrap import RESAMPLES, paired_interval
from rearec.evaluation.floors import FLOORS, baseline_lists, baseline_ranks
from rearec.evaluation.measured import RowGroups
from rearec.evaluation.metrics import METRICS, Metric, parse_metrics, row_metrics, summary
from rearec.evaluation.ranking import check_split
from rearec.evaluation.seen import SeenItems, seen_name
from rearec.evaluation.top_lists import TopLists
from rearec.experiments.comparison_result import CHANCE, Comparison
from rearec.inference import Recommender
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder
from rearec.training.presets import KNOWN, relevant

__all__ = ["compare"]

FloatArray = NDArray[np.float64]
# The metric of the groups, where it is among those that are asked for.
METRIC = "ndcg@20"
# Fewer resamples where there are many users: so many draws for each interval, and so many resamples at least.
MOST_DRAWS, FEWEST_RESAMPLES = 200_000_000, 1000


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
    candidates = _named(runs)
    dataset = _dataset(candidates, data)
    check_split(dataset, split)
    for name, run in candidates.items():
        _check_dataset(name, run, dataset)
    chosen = parse_metrics(METRICS) if metrics is None else parse_metrics(metrics, dataset.num_items)
    baseline = _baseline(candidates, against)
    seen = _seen(candidates, dataset, exclude_seen)
    groups = RowGroups(dataset, split, users_by, items_by)

    measured: dict[str, _Measured] = {}
    settings: dict[str, dict[str, Any]] = {}
    for name, run in candidates.items():
        if isinstance(run, Recommender):
            model = run.model
        else:
            model = ReaRec.from_pretrained(run.path, map_location=device, trust_code=trust_code)
        measured[name] = _Measured(chosen, dataset, groups)
        ranked = rank_rows(
            model,
            dataset,
            split,
            exclude_seen=seen.exclude,
            batch_rows=batch_rows,
            lists=measured[name].lists,
            progress=progress,
        )
        measured[name].ranks = ranked.final
        settings[name] = _settings(model, run)
    _add_floors(measured, chosen, dataset, split, groups, seen.exclude)

    users = np.asarray(dataset.sequence_user)[np.asarray(dataset.rows(split))[:, 0]]
    number = len(np.unique(users))
    resamples = int(np.clip(MOST_DRAWS // number, FEWEST_RESAMPLES, RESAMPLES))
    lines = _Lines(measured, baseline, groups, users, resamples)
    main = next((metric for metric in chosen if metric.name == METRIC), chosen[0])
    return Comparison(
        names=tuple(candidates),
        baseline=baseline,
        split=split,
        seen=seen,
        rows=len(users),
        users=number,
        resamples=resamples,
        dataset={"fingerprint": dataset.fingerprint, **dataset.statistics},
        main=main.name,
        table=[line for metric in chosen for line in lines.of(metric, 0)],
        groups=[
            {"grouping": key, "group": words, **line}
            for group, (key, words) in enumerate(groups.names)
            if key
            for line in lines.of(main, group)
        ],
        settings=_differing(settings),
        folders={name: _folder(run) for name, run in candidates.items()},
        asked={"metrics": metrics and [metric.name for metric in chosen], "exclude_seen": exclude_seen},
    )


class _Measured:
    """The ranks and lists of one run or floor on all rows."""

    def __init__(self, metrics: Sequence[Metric], dataset: SequenceDataset, groups: RowGroups) -> None:
        of_lists = [metric for metric in metrics if metric.is_of_lists]
        self.lists = TopLists(of_lists, dataset, groups.masks, states=1) if of_lists else None
        self.ranks: FloatArray = np.empty(0)

    def values(self, metric: Metric, group: int, member: NDArray[np.bool_]) -> FloatArray | float:
        """What each row of a group adds to a metric, or one number for all of them together."""
        if metric.is_of_lists:
            assert self.lists is not None
            return self.lists.values(0, group)[metric.name]
        return row_metrics(self.ranks[member], [metric.name])[metric.name]


@dataclass(frozen=True)
class _Lines:
    """Makes the lines of the tables."""

    measured: Mapping[str, _Measured]
    baseline: str
    groups: RowGroups
    users: NDArray[np.int32]
    resamples: int

    def of(self, metric: Metric, group: int) -> list[dict[str, Any]]:
        """A line for each run and floor."""
        member = self.groups.masks[group]
        base = self.measured[self.baseline].values(metric, group, member)
        return [
            self._line(name, metric, measured.values(metric, group, member), base, member)
            for name, measured in self.measured.items()
        ]

    def _line(
        self, name: str, metric: Metric, own: FloatArray | float, base: FloatArray | float, member: NDArray[np.bool_]
    ) -> dict[str, Any]:
        rows = int(member.sum())
        measured = summary({metric.name: own}, rows)
        line = {"run": name, "metric": metric.name, "value": measured[metric.name], "value_se": None, "rows": rows}
        line["value_se"] = measured[f"{metric.name}_se"]
        line |= dict.fromkeys(("difference", "low", "high", "rows_higher", "rows_same", "rows_lower", "verdict"))
        if name == self.baseline:
            return line
        # One number for all rows has no interval, nor have lists of which some are empty.
        if np.shape(own) != (rows,) or np.shape(base) != (rows,):
            if line["value"] is not None and np.size(base):
                line["difference"] = line["value"] - float(np.mean(base))
            return line
        interval = paired_interval(own, base, users=self.users[member], resamples=self.resamples)
        word = "higher" if interval.difference > 0 else "lower"
        return line | {
            "difference": interval.difference,
            "low": interval.low,
            "high": interval.high,
            "rows_higher": float(np.mean(own > base)),
            "rows_same": float(np.mean(own == base)),
            "rows_lower": float(np.mean(own < base)),
            "verdict": word if interval.excludes_zero else CHANCE,
        }


def _add_floors(
    measured: dict[str, _Measured],
    metrics: Sequence[Metric],
    dataset: SequenceDataset,
    split: SplitName,
    groups: RowGroups,
    exclude_seen: bool,
) -> None:
    for name, ranks in baseline_ranks(dataset, split, exclude_seen=exclude_seen).items():
        measured[name] = _Measured(metrics, dataset, groups)
        measured[name].ranks = ranks
    longest = max((metric.k or 0 for metric in metrics if metric.is_of_lists), default=0)
    for name, rows, items in baseline_lists(dataset, split, longest, exclude_seen=exclude_seen) if longest else ():
        lists = measured[name].lists
        assert lists is not None
        lists.add(0, rows, items)


def _named(runs: Sequence[Any] | Mapping[str, Any]) -> dict[str, RunFolder | Recommender]:
    """The runs by names, no two alike and none a floor's."""
    if isinstance(runs, str | Path):
        raise UserError(f"runs: got {str(runs)!r}, expected several runs in a list")
    if not isinstance(runs, Iterable):
        raise TypeError(f"runs: got a {type(runs).__name__}, expected several runs in a list")
    given = list(runs.items()) if isinstance(runs, Mapping) else [(None, run) for run in runs]
    for _, run in given:
        if not isinstance(run, Recommender | str | Path):
            raise TypeError(f"runs: got a {type(run).__name__}, expected RUN folders, or what fit or load returned")
    if not given:
        raise UserError("runs: got none, expected one or more")
    opened = [(name, run if isinstance(run, Recommender) else RunFolder(run)) for name, run in given]
    for _, run in opened:
        if isinstance(run, RunFolder):
            run.check_finished()
        if (folder := _folder(run)) is not None:
            RunFolder(folder).check_held_out()
    short = [name or _short(run, place) for place, (name, run) in enumerate(opened, 1)]
    # Folders of one name, as seeds/1/run and seeds/2/run, are told by their paths.
    full = [name or str(_folder(run) or wanted) for (name, run), wanted in zip(opened, short, strict=True)]
    names: dict[str, RunFolder | Recommender] = {}
    for (_, run), wanted, path in zip(opened, short, full, strict=True):
        name = path if short.count(wanted) > 1 or wanted in FLOORS else wanted
        number, unique = 2, name
        while unique in names or unique in FLOORS:
            unique, number = f"{name} ({number})", number + 1
        names[unique] = run
    return names


def _folder(run: RunFolder | Recommender) -> str | None:
    """The RUN folder; None where the model has none."""
    path = run.path if isinstance(run, RunFolder) else getattr(run, "run", None)
    return None if path is None else str(getattr(path, "path", path))


def _short(run: RunFolder | Recommender, place: int) -> str:
    folder = _folder(run)
    return f"model {place}" if folder is None else Path(folder).resolve().name


def _dataset(candidates: Mapping[str, RunFolder | Recommender], data: str | Path | SequenceDataset | None) -> Any:
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


def _check_dataset(name: str, run: RunFolder | Recommender, dataset: SequenceDataset) -> None:
    """UserError where the run is of other data, or of another split of it."""
    folder = _folder(run)
    if folder is not None:
        of_run = RunFolder(folder).options()["dataset"].get("fingerprint")
    else:
        own = getattr(run, "dataset", None)
        of_run = dataset.fingerprint if own is None else own.fingerprint
    if of_run != dataset.fingerprint:
        raise UserError(
            f"{name}: was trained on other data, or on another split of it, than is compared on "
            f"(fingerprint {of_run}, not {dataset.fingerprint}): runs can be compared on the same rows only"
        )


def _baseline(candidates: Mapping[str, RunFolder | Recommender], against: str | Path | None) -> str:
    if against is None:
        return next(iter(candidates))
    if str(against) in (*FLOORS, *candidates):
        return str(against)
    wanted = Path(against).resolve()
    for name, run in candidates.items():
        folder = _folder(run)
        if folder is not None and Path(folder).resolve() == wanted:
            return name
    known = ", ".join([*FLOORS, *candidates])
    raise UserError(f"against: {str(against)!r} is none of what is compared; known are {known}")


def _seen(
    candidates: Mapping[str, RunFolder | Recommender], dataset: SequenceDataset, exclude: bool | None
) -> SeenItems:
    """How seen items are treated: as asked for, or as all runs were trained; UserError where these differ."""
    folders = {name: folder for name, run in candidates.items() if (folder := _folder(run)) is not None}
    # Runs from before there was a choice kept seen items.
    trained = {name: bool(RunFolder(folder).excludes_seen()) for name, folder in folders.items()}
    if exclude is None and len(set(trained.values())) > 1:
        words = ", ".join(f"{seen_name(value)} by {name}" for name, value in trained.items())
        raise UserError(f"the runs treat seen items differently ({words}): decide with --exclude-seen or --keep-seen")
    return seen_items(dataset, exclude, of_run=next(iter(trained.values()), None))


def _settings(model: ReaRec, run: RunFolder | Recommender) -> dict[str, Any]:
    """Those of the model and its training that its backbone and method read."""
    folder = _folder(run)
    training = {} if folder is None else RunFolder(folder).options()["training"]
    values = {**asdict(model.config), **training, "prior": "none" if model.prior is None else "graph"}
    backbone, method = model.config.backbone, model.config.method
    return {name: value for name, value in values.items() if name in KNOWN and relevant(name, backbone, method)}


def _differing(settings: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each setting in which runs differ."""
    names = dict.fromkeys(name for each in settings.values() for name in each)
    cells = {name: {run: each.get(name) for run, each in settings.items()} for name in names}
    return [{"setting": name, **row} for name, row in cells.items() if len({str(value) for value in row.values()}) > 1]
