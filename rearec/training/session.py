"""One training in its RUN folder, from the new model to the saved one: what `train` and `refit` have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError

from rearec.data.dataset import SequenceDataset
from rearec.distributed import agreed, lost_processes, processes
from rearec.errors import UserError, in_one_line
from rearec.files import write_json
from rearec.models.backbone import Backbone
from rearec.models.card import model_card
from rearec.models.config import ReaRecConfig
from rearec.models.item_table import split_embedding
from rearec.objectives import Objective, load_objective
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog, RunFolder
from rearec.training.fitting import texts_of
from rearec.training.loggers import Loggers, RunLoggers, service_errors
from rearec.training.module import TrainingModule
from rearec.training.options import TrainingOptions
from rearec.training.own_code import note_changed_code, own_code, own_encoder
from rearec.training.recorder import RunRecorder, load_best_weights
from rearec.training.split_table import rows_to_hold
from rearec.training.trainer import interruptible, make_trainer, quiet
from rearec.training.warm_start import warm_start

__all__ = ["Session", "card_of_run", "same_everywhere"]

MONITOR = "valid_ndcg@20"


@dataclass
class Session:
    """Where a training writes, what it trains on and how, and who listens.

    dataset: without validation rows every epoch is trained and the last one is the result.
    callbacks, logger, on_epoch, on_batch, backbone: as `rearec.training.train` takes them.
    objective: of one's own; None: the one that the method names.
    """

    folder: RunFolder
    dataset: SequenceDataset
    options: TrainingOptions
    device: torch.device
    callbacks: Sequence[Callback] = ()
    logger: Loggers = "none"
    on_epoch: Callable[[dict[str, Any]], None] | None = None
    on_batch: Callable[[int, int, int], None] | None = None
    backbone: Callable[[], Backbone] | None = None
    objective: Objective | None = None

    def __post_init__(self) -> None:
        self._loggers = RunLoggers(self.logger, self.folder)

    def fit(
        self,
        config: ReaRecConfig,
        record: dict[str, Any],
        *,
        init: str | Path | ReaRec | None = None,
        continues: bool = False,
    ) -> tuple[ReaRec, RunRecorder]:
        """Train; returns the model of the best epoch, in evaluation mode, and the record of the epochs.

        record: what options.json is to hold. continues: from the folder's last checkpoint; what ``record`` says of the
        training replaces what options.json said of it.
        """
        folder, device = self.folder, self.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), quiet(), service_errors():
            torch.manual_seed(self.options.seed)
            rows = rows_to_hold(config, self.options)
            model = _build(config, self.dataset, own_encoder(config, self.backbone), rows)
            if init is not None and not continues:
                record = {**record, "init": warm_start(model, self.dataset.item_ids, init)}
            objective = self.objective or load_objective(config)
            record = {**record, "code": own_code(config, self.backbone, objective)}
            module = TrainingModule(model, self.dataset, self.options, objective)
            monitor = MONITOR if len(self.dataset.rows("valid")) else None
            recorder = RunRecorder(folder, monitor, self.on_epoch, self.on_batch)
            unused = config.has_own_backbone or config.text_encoder is not None
            trainer = make_trainer(
                recorder, self.options, device, self.callbacks, self._loggers.members, unused, split=rows is not None
            )
            with agreed():
                if processes().is_first:
                    self._begin(record, continues)
            self._loggers.log_settings(record)
            with interruptible(trainer), lost_processes("continue with --resume"):
                trainer.fit(module, ckpt_path=folder.last_checkpoint if continues else None)
                trainer.optimizers = []  # what it keeps is larger than the model
                best = load_best_weights(folder, module.model)
            return best.to(device), recorder

    def _begin(self, record: dict[str, Any], continues: bool) -> None:
        """Make the folder ready."""
        if continues:
            note_changed_code(self.folder, record["code"])
            self.folder.go_on(record["training"])
        else:
            # Only now, when all that can be wrong with the options is known, the run that may stand there is deleted.
            self.folder.start(record, _catalog(self.dataset))

    def finish(self, model: ReaRec, record: dict[str, Any], result: dict[str, Any]) -> None:
        """Write the model with its card, and last of all the result."""
        with agreed():  # nobody goes on before it is there
            self._write(model, record, result)

    def _write(self, model: ReaRec, record: dict[str, Any], result: dict[str, Any]) -> None:
        is_first = processes().is_first
        try:
            if is_first or split_embedding(model) is not None:
                model.save_pretrained(self.folder.path, card=card_of_run(model, self.dataset, record, result))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.folder.path}: the model cannot be written: {in_one_line(error)}") from error
        if is_first:
            self._loggers.log_result(result)
            write_json(self.folder.result_file, result)


def same_everywhere(folder: RunFolder, record: Mapping[str, Any]) -> dict[str, Any]:
    """What several processes have to agree on before they train; where each finds its copy of the data is its affair.

    record: what options.json is to hold.
    """
    return {
        "RUN folder": str(folder.path.resolve()),
        "dataset": {name: value for name, value in record["dataset"].items() if name != "path"},
        "model": record["model"],
        "training": record["training"],
        "rearec": record["rearec"],
        "torch": torch.__version__,
    }


def card_of_run(model: ReaRec, dataset: SequenceDataset, record: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The README.md of a run. record: what its options.json holds."""
    split = dataset.source.get("findings", {}).get("split") or dataset.options.get("split")
    data = {**record["dataset"], "split": split}
    return model_card(model.config, data=data, training=record["training"], result=result, prior=model.prior)


def _catalog(dataset: SequenceDataset) -> Catalog:
    """What recommendations need to know of the items."""
    return Catalog(dataset.item_ids, dataset.train_item_counts().tolist(), dataset.item_titles)


def _build(config: ReaRecConfig, dataset: SequenceDataset, backbone: Backbone | None, rows: range | None) -> ReaRec:
    """A new model; UserError where the memory does not hold it."""
    try:
        return ReaRec(config, texts_of(config, dataset), backbone=backbone, rows=rows)
    except (RuntimeError, MemoryError) as error:
        raise UserError(
            f"no memory for a model of {config.num_items:,} items, dim {config.dim}, ffn {config.ffn}, "
            f"layers {config.layers}, max_len {config.max_len}, steps {config.steps}"
        ) from error
