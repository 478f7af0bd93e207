"""Who else gets a training's settings and metrics: TensorBoard, csv files, Weights & Biases, MLflow, or one's own.

metrics.csv of the RUN folder is written in any case. Settings are logged at the start, so that runs can be filtered by
them, and the metrics of the best epoch's model at the end.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from rearec.errors import UserError
from rearec.run_folder import RunFolder

__all__ = ["LOGGERS", "Loggers", "RunLoggers"]

LOGGERS = ("tensorboard", "csv", "wandb", "mlflow", "none")
# One of these words, a Lightning logger, or several of them.
Loggers: TypeAlias = str | Logger | Sequence[str | Logger]

# What project and experiment are called, unless the environment says otherwise.
PROJECT = "rearec"
RESULTS = ("ndcg@10", "ndcg@20", "recall@10", "recall@20", "mrr")


class RunLoggers:
    """The loggers of one run.

    wanted: as `rearec.training.train` takes them. UserError for an unknown name and for one that is not installed.
    """

    def __init__(self, wanted: Loggers, folder: RunFolder) -> None:
        several = [wanted] if isinstance(wanted, str | Logger) else [*wanted]
        self.members = [_logger(each, folder.path) for each in dict.fromkeys(several) if each != "none"]
        self._settings: dict[str, Any] = {}

    def log_settings(self, record: Mapping[str, Any]) -> None:
        """The settings of the model and the training, and the preset's name."""
        preset = record.get("preset") or {}
        self._settings = {**record["model"], **record["training"], "preset": preset.get("name")}
        for logger in self.members:
            logger.log_hyperparams(self._settings)

    def log_result(self, result: Mapping[str, Any]) -> None:
        """The best epoch and its metrics, as ``best/valid_ndcg@20``; TensorBoard lists them beside the settings."""
        metrics = {"best/epoch": float(result["best_epoch"])}
        for split in ("valid", "test"):
            if result[split] is not None:
                metrics |= {f"best/{split}_{name}": float(result[split][name]) for name in RESULTS}
        for logger in self.members:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self._settings, metrics)
            else:
                logger.log_metrics(metrics, step=result["epochs"])
            logger.save()
            logger.finalize("success")


def _logger(wanted: str | Logger, run: Path) -> Logger:
    if isinstance(wanted, Logger):
        return wanted
    if wanted == "tensorboard":
        return TensorBoardLogger(run, name="tensorboard", version="", default_hp_metric=False, flush_secs=5)
    if wanted == "csv":
        # a version for each part of a training that was resumed: Lightning would delete the earlier ones
        return CSVLogger(run, name="csv")
    if wanted not in LOGGERS:
        raise UserError(f"unknown logger {wanted!r}; known are {', '.join(LOGGERS)}")
    if importlib.util.find_spec(wanted) is None:
        raise UserError(f"logger {wanted}: the package {wanted} is not installed; pip install {wanted}")
    if wanted == "wandb":
        from lightning.pytorch.loggers import WandbLogger

        return WandbLogger(name=run.name, save_dir=run, project=os.environ.get("WANDB_PROJECT", PROJECT))
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        run_name=run.name,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", (run / "mlruns").resolve().as_uri()),
    )
