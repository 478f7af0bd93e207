"""What to say of a training that could be better, and only then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rearec.evaluation.floors import FLOORS
from rearec.models.config import ReaRecConfig
from rearec.objectives import OBJECTIVES
from rearec.training.options import TrainingOptions

__all__ = ["advice", "contrastive_start"]

DIGITS = 4


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
        above = [name for name in FLOORS if round(test[name]["ndcg@20"], DIGITS) > round(test["ndcg@20"], DIGITS)]
        if above:
            floors = " and ".join(f"{name} ({_short(test[name]['ndcg@20'])})" for name in above)
            lines.append(
                f"below {floors} in test NDCG@20 ({_short(test['ndcg@20'])}): more --epochs, another --lr or the "
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


def contrastive_start(config: ReaRecConfig) -> int | None:
    """The epoch (from 1) in which the contrastive term comes in, None where it is there from the first on, or never."""
    objective = OBJECTIVES.get(config.method)
    comes_in = objective is not None and objective.noised(config, config.warmup) and not objective.noised(config, 0)
    return config.warmup + 1 if comes_in else None


def _short(value: float) -> str:
    return f"{value:.{DIGITS}f}".removeprefix("0")
