"""Who else gets a training's settings and metrics: TensorBoard, csv files, Weights & Biases, MLflow, or one's own.

metrics.csv of the RUN folder is written in any case. Settings are logged at the start, so that runs can be filtered by
them, and the metrics of the best epoch's model at the end.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from rearec.distributed import processes
from rearec.errors import UserError, in_one_line
from rearec.run_folder import RunFolder

__all__ = ["LOGGERS", "Loggers", "RunLoggers", "service_errors"]

LOGGERS = ("tensorboard", "csv", "wandb", "mlflow", "none")
# One of these words, a Lightning logger, or several of them.
Loggers: TypeAlias = str | Logger | Sequence[str | Logger]

# Packages that are not rearec's to bring.
SERVICES = ("wandb", "mlflow")
# What project and experiment are called, unless the environment says otherwise.
PROJECT = "rearec"
RESULTS = ("ndcg@10", "ndcg@20", "recall@10", "recall@20", "mrr")


class RunLoggers:
    """The loggers of one run.

    wanted: as `rearec.training.train` takes them. UserError for an unknown name and for one that is not installed.
    """

    def __init__(self, wanted: Loggers, folder: RunFolder) -> None:
        if not isinstance(wanted, str | Logger | Sequence):
            raise TypeError(
                f"logger: got a {type(wanted).__name__}, expected {', '.join(LOGGERS)} or a Lightning logger"
            )
        several = [wanted] if isinstance(wanted, str | Logger) else [*wanted]
        with service_errors():
            self.members = [_logger(each, folder.path) for each in dict.fromkeys(several) if each != "none"]
        if not processes().is_first:
            self.members = []
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


@contextmanager
def service_errors() -> Iterator[None]:
    """What Weights & Biases and MLflow have against their set-up is for the user to mend: a UserError."""
    try:
        yield
    except Exception as error:
        service = type(error).__module__.partition(".")[0]
        if service not in SERVICES:
            raise
        raise UserError(f"logger {service}: {in_one_line(error)}") from error


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
    if "MLFLOW_TRACKING_URI" not in os.environ:
        raise UserError("logger mlflow: set MLFLOW_TRACKING_URI to where runs are kept, such as sqlite:///mlflow.db")
    from lightning.pytorch.loggers import MLFlowLogger

    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    return MLFlowLogger(experiment, run_name=run.name, tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
