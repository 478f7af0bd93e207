"""Metrics of a model on one split, of groups of its rows, and of the floors on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.distributed import from_first
from rearec.engine.words import StatePrecision
from rearec.evaluation.measured import Measured, RowGroups, floor_metrics
from rearec.evaluation.metrics import METRICS, parse_metrics
from rearec.evaluation.ranking import check_split, rank_rows, ranks_with_prior
from rearec.evaluation.seen import seen_items
from rearec.reasoning import ReaRec

__all__ = ["evaluate"]


def evaluate(
    model: ReaRec,
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    exclude_seen: bool | None = None,
    metrics: Sequence[str] | None = None,
    steps: int | None = None,
    prior: bool | None = None,
    batch_rows: int = 512,
    per_step: bool = False,
    users_by: str | None = None,
    items_by: str | None = None,
    floors: bool = True,
    precision: StatePrecision = "fp32",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Metrics of a model on one split, beside those of the floors on the same rows (`rearec.evaluation.floors`).

    Several processes (`rearec.distributed.joined`) have to call it together; each gets the result of all rows.

    Args:
        model: a trained model, on the device to compute on.
        dataset: the prepared dataset it was trained on.
        split: "train", "valid" or "test".
        exclude_seen: whether targets are ranked among the items that are not in their row's history; None: as the
            validation rows say (`seen_items`). It holds for groups, steps and floors alike.
        metrics: by name, those of `rearec.evaluation.metrics` (such as "ndcg@5") and of `rearec.evaluation.top_lists`
            (such as "coverage@20"); None for NDCG and Recall at 10 and 20 and MRR.
        steps: reasoning steps, at most the trained number; None for the trained number.
        prior: whether the model's graph prior takes part; None: where it has one that was fitted for so many steps.
            Groups are measured with it, states taken alone without it.
        batch_rows: rows per batch; the result does not depend on it beyond rounding.
        per_step: also the metrics of each state h_0..h_K taken alone.
        users_by: "length" adds the metrics of four groups of rows by the length of their history.
        items_by: "popularity" adds those of four groups by the training count of their target.
        floors: whether to rank by the floors too: popularity, a Markov chain, ItemKNN, weighted pairwise rules.
        precision: of the states, "fp32" or "bf16", as `rearec.engine.Engine` takes it; scores are float32 with either.
        progress: called with (rows done, rows in all) after each batch.

    Returns:
        The metrics with their standard errors and ``rows`` (as `rearec.evaluation.metrics.summary`), ``split``,
        ``steps``, ``seen`` ("kept" or "excluded"), ``prior`` ("graph" or "none"), ``precision``, ``empty_history_rows``
        (ranked by popularity), with a prior ``without_prior`` (metrics of the same rows without it), and where asked
        for ``popularity``, ``markov``, ``itemknn`` and ``rules`` (as `floor_metrics`), ``by_step`` (list of metrics
        with ``step``), ``users_by_length`` and ``items_by_popularity`` (list of metrics with ``group``, a range like
        "5–7").

    Raises:
        UserError: an unknown split, grouping, precision or metric, a k below 1 or above the number of items, a split
            without rows, scores that are no numbers, a prior asked for that is not there or counted in another dataset.
        ValueError: more steps than trained.

    Examples:
        >>> import rearec
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.models import ReaRecConfig
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> model = rearec.ReaRec(ReaRecConfig(dataset.num_items, method="prl", dim=8, max_len=20))
        >>> result = rearec.evaluation.evaluate(model, dataset, exclude_seen=True, metrics=["hit@5", "coverage@20"])
        >>> result["rows"], result["seen"], 0 <= result["hit@5"] <= 1
        (50, 'excluded', True)
        >>> sorted(result["popularity"])  # the same metrics of a floor
        ['coverage@20', 'coverage@20_se', 'hit@5', 'hit@5_se', 'rows']
    """
    steps = model.config.steps if steps is None else steps
    chosen = parse_metrics(METRICS) if metrics is None else parse_metrics(metrics, dataset.num_items)
    check_split(dataset, split)
    seen = seen_items(dataset, exclude_seen)
    groups = RowGroups(dataset, split, users_by, items_by)

    with_prior = ranks_with_prior(model, dataset, steps, prior)
    states = (steps + 2 if per_step else 1) + with_prior
    answers = Measured(chosen, dataset, groups, states=states)
    ranked = rank_rows(
        model,
        dataset,
        split,
        exclude_seen=seen.exclude,
        steps=steps,
        prior=with_prior,
        batch_rows=batch_rows,
        per_step=per_step,
        lists=answers.lists,
        precision=precision,
        progress=progress,
    )
    result = answers.metrics(ranked.final)
    result |= {"split": split, "steps": steps, "seen": seen.name, "prior": "graph" if with_prior else "none"}
    result["precision"] = precision
    result["empty_history_rows"] = ranked.empty_history_rows
    if ranked.without_prior is not None:
        result["without_prior"] = answers.metrics(ranked.without_prior, state=states - 1)
    if floors:
        result |= from_first(lambda: floor_metrics(dataset, split, exclude_seen=seen.exclude, metrics=chosen))
    if ranked.by_step is not None:
        result["by_step"] = [
            {"step": step, **answers.metrics(ranks, state=step + 1)} for step, ranks in enumerate(ranked.by_step.T)
        ]
    for group, (key, words) in enumerate(groups.names):
        if key:
            result.setdefault(key, []).append({"group": words, **answers.metrics(ranked.final, group=group)})
    return result
