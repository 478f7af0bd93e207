"""A benchmark under audit: floors and finished runs on the same rows, and what these rows ask for."""

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
from rearec.evaluation.floors import FLOORS, baseline_ranks, floor_settings
from rearec.evaluation.measured import RowGroups
from rearec.evaluation.metrics import METRICS, parse_metrics, rank_metrics
from rearec.evaluation.ranking import check_split
from rearec.experiments.audit_result import EXPLAINED, RULE, Audit
from rearec.experiments.audit_rows import followed_last, row_shares
from rearec.experiments.contenders import (
    Lines,
    check_dataset,
    folder_of,
    measure,
    named_runs,
    seen_of_runs,
    users_of_rows,
)
from rearec.inference import Recommender

__all__ = ["audit"]

METRIC = "ndcg@20"
GROUP_WORDS = {True: "followed the last item", False: "never did"}


def audit(
    data: str | Path | SequenceDataset,
    runs: Sequence[str | Path | Recommender] | Mapping[str, str | Path | Recommender] = (),
    *,
    split: SplitName = "test",
    exclude_seen: bool | None = None,
    batch_rows: int = 512,
    trust_code: bool = False,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """What a benchmark asks for, and who answers it: all floors and any runs on the same rows.

    Every contender is compared with the floor that is best on the validation rows (by NDCG@20), so that the rows that
    are reported do not choose their own measure. Without validation rows it is the weighted pairwise rules.

    Args:
        data: the prepared dataset.
        runs: RUN folders or models that were trained on it, by name or with the names of their folders; none will do.
        split: "test" or "valid".
        exclude_seen: whether targets are ranked among the items that are not in their row's history; None: as the runs
            were trained, without runs as the data says.
        batch_rows: rows per batch.
        trust_code: whether the code may be run that a folder names for its encoder (``module:factory``).
        device: where the models of RUN folders compute.
        progress: called with (rows done, rows in all) of each run.

    Returns:
        a `rearec.experiments.audit_result.Audit`: ``.table``, ``.shares``, ``.save(dir)``.

    Raises:
        UserError: a run of other data, an unfinished run, a refit, runs that treat seen items differently while
            ``exclude_seen`` does not decide it, a split without rows.

    Examples:
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.experiments.audit import audit
        >>> found = audit(generate(0, planted=Planted(users=30, themes=2, items_per_theme=3)))
        >>> [line["run"] for line in found.table if line["metric"] == "ndcg@20"]
        ['popularity', 'markov', 'itemknn', 'rules']
        >>> found.shares["in_history"].of
        30
    """
    dataset = data if isinstance(data, SequenceDataset) else load_dataset(data)
    if split == "train":
        raise UserError("split: got 'train', expected valid or test: an audit is of rows that were held out")
    check_split(dataset, split)
    candidates = named_runs(runs) if runs else {}
    for name, run in candidates.items():
        check_dataset(name, run, dataset)
    seen = seen_of_runs(candidates, dataset, exclude_seen)
    metrics = parse_metrics(METRICS)
    (main,) = parse_metrics([METRIC])
    groups = RowGroups(dataset, split, "length", "popularity")
    followed = followed_last(dataset, split)
    explained = [word for word in (True, False) if np.any(followed == word)]
    masks = np.concatenate([groups.masks, [followed == word for word in explained]])

    measured, models = measure(
        candidates,
        dataset,
        split,
        metrics,
        masks,
        exclude_seen=seen.exclude,
        batch_rows=batch_rows,
        trust_code=trust_code,
        device=device,
        progress=progress,
    )
    best, by_floor = _best_floor(dataset, seen.exclude)
    users = users_of_rows(dataset, split)
    lines = Lines(measured, best, masks, users)
    # Where the last item explains a row, the rule that looks at it alone is what a model has to be ahead of.
    rule = Lines(measured, RULE, masks, users)
    by_group: list[dict[str, Any]] = [
        {"grouping": key, "group": words, "against": best, **line}
        for group, (key, words) in enumerate(groups.names)
        if key
        for line in lines.of(main, group)
    ]
    by_group += [
        {"grouping": EXPLAINED, "group": GROUP_WORDS[word], "against": RULE, **line}
        for group, word in enumerate(explained, len(groups.names))
        for line in rule.of(main, group)
    ]
    return Audit(
        names=tuple(candidates),
        baseline=best,
        floors_on_valid=by_floor,
        floor_settings=floor_settings(dataset, exclude_seen=seen.exclude),
        split=split,
        seen=seen,
        rows=len(users),
        users=len(np.unique(users)),
        resamples=lines.resamples,
        dataset={"fingerprint": dataset.fingerprint, **dataset.statistics},
        main=main.name,
        table=[line for metric in metrics for line in lines.of(metric, 0)],
        groups=by_group,
        shares=row_shares(dataset, split, measured[RULE].ranks, followed),
        priors=tuple(name for name, of_model in models.items() if of_model["prior"] == "graph"),
        data=None if isinstance(data, SequenceDataset) else str(data),
        folders={name: folder_of(run) for name, run in candidates.items()},
        exclude_seen=exclude_seen,
    )


def _best_floor(dataset: SequenceDataset, exclude_seen: bool) -> tuple[str, dict[str, float]]:
    """The floor that is best on the validation rows, the simpler of equals, and the metric of each of them there."""
    if not len(dataset.rows("valid")):
        return FLOORS[-1], {}
    ranks = baseline_ranks(dataset, "valid", exclude_seen=exclude_seen)
    values = {name: rank_metrics(ranks[name], [METRIC])[METRIC] for name in FLOORS}
    return max(values, key=lambda name: values[name]), values
