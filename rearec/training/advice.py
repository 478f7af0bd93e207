"""What to say of a training that could be better, and only then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rearec.models.config import ReaRecConfig
from rearec.objectives import OBJECTIVES
from rearec.report.floors import floors_of
from rearec.training.options import TrainingOptions

__all__ = ["advice", "contrastive_start", "thread_advice"]

DIGITS = 4
# The share of the processors that other work has to keep busy.
BUSY = 0.9


def advice(result: Mapping[str, Any], history: Sequence[Mapping[str, Any]], options: TrainingOptions) -> list[str]:
    """At most two lines on a training that has ended: below a floor, still rising in its last epoch.

    result: what `rearec.training.train` returned. history: the rows of metrics.csv (`RunFolder.metrics`).

    Examples:
        >>> from rearec.training import TrainingOptions, advice
        >>> result = {"best_epoch": 3, "epochs": 3, "stopped_early": False, "test": None}
        >>> rows = [{"valid_ndcg@20": value} for value in (0.01, 0.02, 0.03)]
        >>> print(*advice(result, rows, TrainingOptions(epochs=3)))
        validation NDCG@20 still rose in the last epoch (.0200 to .0300): --resume --epochs 6 goes on
        >>> advice(result | {"best_epoch": 2}, rows, TrainingOptions(epochs=3))
        []
    """
    if result.get("refit_of") is not None:
        return []
    lines = []
    test = result["test"]
    if test is not None:
        # as they are shown: nothing is below what it looks equal to
        own = round(test["ndcg@20"], DIGITS)
        floors = {name: round(floor["ndcg@20"], DIGITS) for name, floor in floors_of(test).items()}
        above = [f"{name} ({_short(value)})" for name, value in floors.items() if value > own]
        if above:
            words = " and ".join(filter(None, [", ".join(above[:-1]), above[-1]]))
            lines.append(
                f"below {words} in test NDCG@20 ({_short(test['ndcg@20'])}): more --epochs, another --lr or the "
                "items' texts (rearec embed, --backbone unisrec) may help"
            )
    if result["best_epoch"] == result["epochs"] > 1 and not result["stopped_early"]:
        before, last = (float(row["valid_ndcg@20"]) for row in history[-2:])
        more = 2 * options.epochs
        how = f"--resume --epochs {more} goes on"
        if options.schedule != "constant":
            how = f"train anew with more --epochs, as a {options.schedule} schedule cannot go on"
        lines.append(f"validation NDCG@20 still rose in the last epoch ({_short(before)} to {_short(last)}): {how}")
    return lines


def thread_advice(load: float, processors: int, threads: int) -> str | None:
    """What to say at the start where other work takes the processors, so that threads would wait for each other.

    load: processes that want to run, as ``os.getloadavg`` says; this one's threads may be among them. threads: that it
    is to use. What was measured: benchmarks/results/2026-11-30-busy-machine.json.
    """
    if threads > 1 and load - threads >= BUSY * processors:
        return "--threads 1 may be faster: other work keeps the processors busy"
    return None


def contrastive_start(config: ReaRecConfig) -> int | None:
    """The epoch (from 1) in which the contrastive term comes in, None where it is there from the first on, or never."""
    objective = OBJECTIVES.get(config.method)
    comes_in = objective is not None and objective.noised(config, config.warmup) and not objective.noised(config, 0)
    return config.warmup + 1 if comes_in else None


def _short(value: float) -> str:
    return f"{value:.{DIGITS}f}".removeprefix("0")
