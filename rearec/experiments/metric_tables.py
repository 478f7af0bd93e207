"""Tables of test metrics that several pages share: settings one below the other, and gains over one of them.

Their metrics are those of `Results.metrics`; METRIC is the one that figures show and models are chosen by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rearec.analysis.metric import METRIC
from rearec.evaluation.metrics import heading
from rearec.evaluation.seen import seen_words
from rearec.experiments.results import Results
from rearec.experiments.runs import Run
from rearec.report.page import Page

__all__ = ["METRIC", "Setting", "add_gains", "add_metrics", "error_words", "gain_caption"]


@dataclass(frozen=True)
class Setting:
    """One line of a table.

    labels: its first columns. runs: those of the setting, by seed. over: the runs that it is compared with, if any.
    """

    labels: Mapping[str, Any]
    runs: Sequence[Run]
    over: Sequence[Run] = ()


def error_words(seeds: int) -> str:
    """What ± is (`rearec.experiments.results.Summary.error`), in words."""
    return f"the standard deviation over {seeds} seeds" if seeds > 1 else "the standard error over rows (one seed)"


def add_metrics(page: Page, results: Results, settings: Sequence[Setting], name: str) -> None:
    """Add a table of the settings of which a run is finished, and NAME.csv with their numbers.

    The csv has ``_std`` columns where a setting has several seeds, ``_se`` columns where it has one.
    """
    settings = [setting for setting in settings if results.finished(setting.runs)]
    if not settings:
        return
    shown, data = [], []
    for setting in settings:
        line, numbers = dict(setting.labels), {**setting.labels, "seeds": len(results.finished(setting.runs))}
        for metric in results.metrics:
            summary = results.summary(setting.runs, metric)
            assert summary is not None
            line[heading(metric)] = str(summary)
            numbers |= {metric: summary.mean, f"{metric}_{'std' if len(setting.runs) > 1 else 'se'}": summary.error}
        if any(each.over for each in settings):
            gain = results.gain(setting.runs, setting.over, METRIC)
            line["NDCG@20 over base"] = gain and f"{gain.difference:+.1f} %"
        shown.append(line)
        data.append(numbers)
    seeds = max(len(setting.runs) for setting in settings)
    seen = seen_words(results.seen)
    page.table(shown, caption=f"Test split, full catalogue, {seen}; ± is {error_words(seeds)}.")
    page.data(data, name, shared={"seen": results.seen})


def add_gains(page: Page, results: Results, settings: Sequence[Setting], name: str, caption: str) -> None:
    """Add a table of gains in per cent over each setting's ``over`` in every metric, with intervals, and NAME.csv."""
    shown, data = [], []
    for setting in settings:
        gains = {metric: results.gain(setting.runs, setting.over, metric) for metric in results.metrics}
        if not any(gains.values()):
            continue
        shown.append({**setting.labels, **{heading(metric): gain and str(gain) for metric, gain in gains.items()}})
        data += [
            {**setting.labels, "metric": metric, "gain_%": gain.difference, "low_%": gain.low, "high_%": gain.high}
            for metric, gain in gains.items()
            if gain is not None
        ]
    if data:
        page.table(shown, caption=gain_caption(caption, results))
        page.data(data, name, shared={"seen": results.seen})


def gain_caption(gain: str, results: Results) -> str:
    """What stands above a table of gains."""
    seen = seen_words(results.seen)
    return f"{gain}, in per cent with 95 % paired bootstrap intervals over rows, seeds pooled; {seen}."
