"""How good each reasoning state is taken alone (paper, Figure 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from rearec.analysis.metric import METRIC, rank_metric, with_usual
from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.evaluation import RankedRows, rank_rows, seen_items
from rearec.evaluation.bootstrap import paired_interval
from rearec.evaluation.measured import floor_metrics
from rearec.evaluation.metrics import METRICS, heading, parse_metrics, rank_metrics, row_metrics
from rearec.evaluation.seen import seen_words
from rearec.reasoning import ReaRec
from rearec.report.floors import floor_levels, floors_of
from rearec.report.lines import Point
from rearec.report.page import Page
from rearec.report.plots import draw_lines, panels

__all__ = ["metrics_by_step", "of_ranks", "page"]


def metrics_by_step(
    model: ReaRec,
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    exclude_seen: bool | None = None,
    metric: str = METRIC,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Metrics of the model's answer, and as ``by_step`` those of each state h_0..h_K alone, with standard errors.

    Args:
        metric: what the steps are compared by; one that the targets' ranks tell.
        seed: of the bootstrap intervals.
        exclude_seen, progress: as in `rearec.evaluation.evaluate`.

    Returns:
        as `of_ranks`.

    Raises:
        UserError: as `rearec.evaluation.evaluate`, and a metric that ranks do not tell.
    """
    metric = rank_metric(metric, dataset.num_items)
    exclude = seen_items(dataset, exclude_seen).exclude
    ranked = rank_rows(model, dataset, split, exclude_seen=exclude, prior=False, per_step=True, progress=progress)
    return of_ranks(ranked, dataset, split, exclude_seen=exclude, metric=metric, seed=seed)


def of_ranks(
    ranked: RankedRows,
    dataset: SequenceDataset,
    split: SplitName,
    *,
    exclude_seen: bool,
    metric: str = METRIC,
    seed: int = 0,
) -> dict[str, Any]:
    """The same of rows that are ranked already, by each step too.

    Returns:
        what `rearec.evaluation.evaluate` does by step, with the floors; besides ``metric``, and for the answer and each
        step but 0 ``over_step_0``: the metric minus that of step 0 (``difference``) with the ends (``low``, ``high``)
        of its paired bootstrap interval over rows (``level``, ``rows``).
    """
    assert ranked.by_step is not None
    shown = with_usual(metric)
    of_rows = row_metrics(ranked.by_step, [metric])[metric]
    answer = row_metrics(ranked.final, [metric])[metric]

    def over_first(values: Any) -> dict[str, Any]:
        return asdict(paired_interval(values, of_rows[:, 0], seed=seed))

    steps: list[dict[str, Any]] = [
        {"step": step, **rank_metrics(ranks, shown)} for step, ranks in enumerate(ranked.by_step.T)
    ]
    for entry in steps[1:]:
        entry["over_step_0"] = over_first(of_rows[:, entry["step"]])
    return {
        **rank_metrics(ranked.final, shown),
        "split": split,
        "steps": len(steps) - 1,
        "seen": "excluded" if exclude_seen else "kept",
        "empty_history_rows": ranked.empty_history_rows,
        **floor_metrics(dataset, split, exclude_seen=exclude_seen, metrics=parse_metrics(shown)),
        "by_step": steps,
        "metric": metric,
        "over_step_0": over_first(answer),
    }


def page(into: Page, results: Mapping[str, Mapping[str, Any]], *, name: str = "steps") -> None:
    """Add a table, and a figure of the metric by step with what each step changes, a line per model.

    Args:
        results: by model what `metrics_by_step` returns, by the same metric and with seen items kept or excluded in
            all of them.
    """
    first = next(iter(results.values()))
    seen, metric = first["seen"], first["metric"]
    shown = heading(metric)
    into.text(
        "Metrics of each reasoning state taken alone; step 0 is the state of the last item, before any reasoning. "
        "The answer is ranked by the last state, by method erl by the mean of all. Full catalogue, "
        f"{seen_words(seen)}; ± is the standard error over rows. The rows of two steps are the same, so what a step "
        f"changes is told by the paired difference: {shown} minus that of step 0, with its 95 % bootstrap interval."
    )
    lines = [
        (model, state, entry)
        for model, result in results.items()
        for state, entry in (*((f"step {entry['step']}", entry) for entry in result["by_step"]), ("answer", result))
    ]
    lines += [("", floor, metrics) for floor, metrics in floors_of(first).items()]
    metrics = with_usual(metric)
    into.table([_line(model, state, entry, metrics, shown) for model, state, entry in lines])
    columns = [column for each in metrics for column in (each, f"{each}_se")]
    into.data(
        [
            {
                "model": model,
                "state": state,
                **{column: entry[column] for column in columns},
                **{
                    f"{metric} over step 0, {part}": (entry.get("over_step_0") or {}).get(part)
                    for part in ("difference", "low", "high")
                },
            }
            for model, state, entry in lines
        ],
        name,
        shared={"seen": seen},
    )
    alone: dict[str, Sequence[Point]] = {}
    change: dict[str, Sequence[Point]] = {}
    levels: dict[str, float] = {}
    changes: dict[str, float] = {}
    for model, result in results.items():
        alone[model] = [(entry["step"], entry[metric], None) for entry in result["by_step"]]
        change[model] = [(0.0, 0.0, None), *(_change(entry["step"], entry) for entry in result["by_step"][1:])]
        if result[metric] != result["by_step"][-1][metric]:
            words = f"{model}, answer (mean of its steps)"
            levels[words], changes[words] = result[metric], result["over_step_0"]["difference"]
    levels |= floor_levels(first, metric)
    draw = partial(draw_lines, xlabel="reasoning step")
    drawings = [
        partial(
            draw,
            series=alone,
            levels=levels,
            ylabel=shown,
            from_zero=True,
            title=f"Does thinking longer help? {shown} after each reasoning step",
        ),
        partial(
            draw,
            series=change,
            levels=changes,
            ylabel=f"{shown} minus step 0",
            title="What the steps change, with 95 % intervals",
        ),
    ]
    caption = (
        f"Above: {shown} of each state taken alone. Below: its difference to step 0 on the same rows, with paired "
        "bootstrap intervals; an interval that holds 0 cannot be told from no change."
    )
    into.figure(panels(drawings), name, caption)


def _change(step: int, entry: Mapping[str, Any]) -> Point:
    over = entry["over_step_0"]
    return step, over["difference"], (over["difference"] - over["low"], over["high"] - over["difference"])


def _line(model: str, state: str, entry: Mapping[str, Any], metrics: Sequence[str], shown: str) -> dict[str, Any]:
    """A row of the page's table: the metrics under their headings, the difference in words."""
    line: dict[str, Any] = {"model": model, "state": state}
    for metric in metrics:
        line[heading(metric)] = entry[metric]
        if metric not in METRICS or heading(metric) == shown:
            line[f"{heading(metric)}_se"] = entry[f"{metric}_se"]
    over = entry.get("over_step_0")
    line["over step 0"] = over and f"{over['difference']:+.4f} ({over['low']:+.4f} to {over['high']:+.4f})"
    return line
