"""What is measured on the same rows: finished runs and the floors, by name, and the differences between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.errors import UserError
from rearec.evaluation import rank_rows, seen_items
from rearec.evaluation.bootstrap import RESAMPLES, paired_interval
from rearec.evaluation.floors import FLOORS, baseline_lists, baseline_ranks
from rearec.evaluation.metrics import Metric, row_metrics, summary
from rearec.evaluation.seen import SeenItems, seen_name
from rearec.evaluation.top_lists import TopLists
from rearec.experiments.comparison_result import CHANCE
from rearec.inference import Recommender
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder

__all__ = ["Contender", "Lines", "check_dataset", "folder_of", "measure", "named_runs", "seen_of_runs", "users_of_rows"]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Run = RunFolder | Recommender
# Fewer resamples where there are many users: so many draws for each interval, and so many resamples at least.
MOST_DRAWS, FEWEST_RESAMPLES = 200_000_000, 1000


def named_runs(runs: Sequence[Any] | Mapping[str, Any]) -> dict[str, Run]:
    """Finished runs by names, no two alike and none a floor's.

    runs: RUN folders, or models; by name, or with the names of their folders. UserError and TypeError for what is none.
    """
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
        if (folder := folder_of(run)) is not None:
            RunFolder(folder).check_held_out()
    short = [name or _short(run, place) for place, (name, run) in enumerate(opened, 1)]
    # Folders of one name, as seeds/1/run and seeds/2/run, are told by their paths.
    full = [name or str(folder_of(run) or wanted) for (name, run), wanted in zip(opened, short, strict=True)]
    names: dict[str, Run] = {}
    for (_, run), wanted, path in zip(opened, short, full, strict=True):
        name = path if short.count(wanted) > 1 or wanted in FLOORS else wanted
        number, unique = 2, name
        while unique in names or unique in FLOORS:
            unique, number = f"{name} ({number})", number + 1
        names[unique] = run
    return names


def folder_of(run: Run) -> str | None:
    """The RUN folder; None where the model has none."""
    path = run.path if isinstance(run, RunFolder) else getattr(run, "run", None)
    return None if path is None else str(getattr(path, "path", path))


def _short(run: Run, place: int) -> str:
    folder = folder_of(run)
    return f"model {place}" if folder is None else Path(folder).resolve().name


def check_dataset(name: str, run: Run, dataset: SequenceDataset) -> None:
    """UserError where the run is of other data, or of another split of it."""
    folder = folder_of(run)
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


def seen_of_runs(candidates: Mapping[str, Run], dataset: SequenceDataset, exclude: bool | None) -> SeenItems:
    """How seen items are treated: as asked for, or as all runs were trained, without runs as the data says.

    UserError where the runs differ.
    """
    folders = {name: folder for name, run in candidates.items() if (folder := folder_of(run)) is not None}
    # Runs from before there was a choice kept seen items.
    trained = {name: bool(RunFolder(folder).excludes_seen()) for name, folder in folders.items()}
    if exclude is None and len(set(trained.values())) > 1:
        words = ", ".join(f"{seen_name(value)} by {name}" for name, value in trained.items())
        raise UserError(f"the runs treat seen items differently ({words}): decide with --exclude-seen or --keep-seen")
    return seen_items(dataset, exclude, of_run=next(iter(trained.values()), None))


def users_of_rows(dataset: SequenceDataset, split: SplitName) -> NDArray[np.int32]:
    """int32 [R], the user of each row."""
    return np.asarray(dataset.sequence_user)[np.asarray(dataset.rows(split))[:, 0]]


class Contender:
    """The ranks and lists of one run or floor on all rows; masks: bool [G, R], the groups of rows."""

    def __init__(self, metrics: Sequence[Metric], dataset: SequenceDataset, masks: BoolArray) -> None:
        of_lists = [metric for metric in metrics if metric.is_of_lists]
        self.lists = TopLists(of_lists, dataset, masks, states=1) if of_lists else None
        self.ranks: FloatArray = np.empty(0)

    def values(self, metric: Metric, group: int, member: BoolArray) -> FloatArray | float:
        """What each row of a group adds to a metric, or one number for all of them together."""
        if metric.is_of_lists:
            assert self.lists is not None
            return self.lists.values(0, group)[metric.name]
        return row_metrics(self.ranks[member], [metric.name])[metric.name]


@dataclass(frozen=True)
class Lines:
    """Makes the lines of the tables: each contender's metric, and its difference to the baseline.

    masks: bool [G, R], the groups of rows. users: int32 [R].
    """

    measured: Mapping[str, Contender]
    baseline: str
    masks: BoolArray
    users: NDArray[np.int32]

    @property
    def resamples(self) -> int:
        """Of each interval."""
        return int(np.clip(MOST_DRAWS // len(np.unique(self.users)), FEWEST_RESAMPLES, RESAMPLES))

    def of(self, metric: Metric, group: int) -> list[dict[str, Any]]:
        """A line for each run and floor: see `rearec.experiments.comparison_result.Comparison`."""
        member = self.masks[group]
        base = self.measured[self.baseline].values(metric, group, member)
        return [
            self._line(name, metric, measured.values(metric, group, member), base, member)
            for name, measured in self.measured.items()
        ]

    def _line(
        self, name: str, metric: Metric, own: FloatArray | float, base: FloatArray | float, member: BoolArray
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


def measure(
    candidates: Mapping[str, Run],
    dataset: SequenceDataset,
    split: SplitName,
    metrics: Sequence[Metric],
    masks: BoolArray,
    *,
    exclude_seen: bool,
    batch_rows: int,
    trust_code: bool,
    device: torch.device | str,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Contender], dict[str, dict[str, Any]]]:
    """Rank every row by each run and after them by each floor; the settings of the runs' models, and their prior."""
    found: dict[str, Contender] = {}
    models: dict[str, dict[str, Any]] = {}
    for name, run in candidates.items():
        if isinstance(run, Recommender):
            model = run.model
        else:
            model = ReaRec.from_pretrained(run.path, map_location=device, trust_code=trust_code)
        own = found[name] = Contender(metrics, dataset, masks)
        own.ranks = rank_rows(
            model,
            dataset,
            split,
            exclude_seen=exclude_seen,
            batch_rows=batch_rows,
            lists=own.lists,
            progress=progress,
        ).final
        models[name] = {**asdict(model.config), "prior": "none" if model.prior is None else "graph"}
    _add_floors(found, metrics, dataset, split, masks, exclude_seen)
    return found, models


def _add_floors(
    measured: dict[str, Contender],
    metrics: Sequence[Metric],
    dataset: SequenceDataset,
    split: SplitName,
    masks: BoolArray,
    exclude_seen: bool,
) -> None:
    for name, ranks in baseline_ranks(dataset, split, exclude_seen=exclude_seen).items():
        measured[name] = Contender(metrics, dataset, masks)
        measured[name].ranks = ranks
    longest = max((metric.k or 0 for metric in metrics if metric.is_of_lists), default=0)
    for name, rows, items in baseline_lists(dataset, split, longest, exclude_seen=exclude_seen) if longest else ():
        lists = measured[name].lists
        assert lists is not None
        lists.add(0, rows, items)
