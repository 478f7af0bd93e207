"""The RUN folder: what a training writes, where, and when it counts as finished.

``options.json``        what was asked for: dataset, model, training options, versions; written at the start
``catalog.json``        the items' own ids and their training counts: what raw histories need; written at the start
``metrics.csv``         one row per epoch; ``tensorboard/`` the same for TensorBoard, other folders for other loggers
``checkpoints/``        ``last.ckpt`` (everything ``--resume`` needs) and ``best.ckpt`` (weights of the best epoch)
``model.safetensors``   with ``config.json`` (and ``text_encoder.json``): the best model, once training is over;
                        a large one is ``model-*-of-*.safetensors`` with ``model.safetensors.index.json``
``prior.safetensors``   what the item graph adds to its scores, where it has a graph prior
``result.json``         best epoch, validation and test metrics; written last, a folder without it is not finished
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rearec.errors import UserError
from rearec.files import OutputFolder, partial_name, read_json, write_aside, write_json

__all__ = ["Catalog", "RunFolder"]

FORMAT_NAME = "rearec-run"
# What a training writes; a folder that holds anything else is not deleted.
FILES = (
    *("options.json", "catalog.json", "metrics.csv", "result.json"),
    *("model.safetensors", "model.safetensors.index.json", "prior.safetensors"),
    *("config.json", "text_encoder.json", "README.md"),
)
FOLDERS = ("checkpoints", "tensorboard", "csv", "wandb")
SAVING_PREFIX = ".saving-"
# Of weights that one file would be too large for (`rearec.models.weight_files`).
PARTS = "model-*-of-*.safetensors"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class Catalog:
    """The items of a model: ``item_ids[n]`` is the source's token of item n, ``popularity[n]`` its training count.

    titles: of each item, None where it has none; None without titles.
    """

    item_ids: list[str]
    popularity: list[int]
    titles: list[str | None] | None = None


class RunFolder:
    """Paths and states of one RUN folder; making the object touches nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.options_file = self.path / "options.json"
        self.catalog_file = self.path / "catalog.json"
        self.metrics_file = self.path / "metrics.csv"
        self.result_file = self.path / "result.json"
        self.checkpoints = self.path / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.best_checkpoint = self.checkpoints / "best.ckpt"

    @property
    def finished(self) -> bool:
        """Whether a training ended here."""
        return self.result_file.is_file()

    def check_finished(self) -> None:
        """UserError unless this is the folder of a finished training."""
        if not self.path.is_dir():
            raise UserError(f"{self.path}: no such folder; expected the RUN folder of a training (see 'rearec train')")
        if self.finished:
            return
        if self.options_file.is_file():
            raise UserError(f"{self.path}: the training did not finish; continue it with 'rearec train ... --resume'")
        raise UserError(f"{self.path}: not a RUN folder: it has no {self.result_file.name} (see 'rearec train')")

    def check_writable(self, *, force: bool, resumable: bool = True) -> None:
        """UserError where a new training may not be written.

        That is a path that is no folder, a folder that is neither empty nor a RUN folder, a RUN folder in which
        something else is kept, and, without ``force``, any RUN folder.
        resumable: whether the error says that a training goes on with --resume.
        """
        (OUTPUT if resumable else COPY).check(self.path, replace=force)

    def start(self, options: Mapping[str, Any], catalog: Catalog) -> None:
        """Make the folder anew (call `check_writable` first) and write what is known at the start."""
        try:
            if self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        # first: it makes the folder a RUN folder
        write_json(self.options_file, {"format": FORMAT_NAME, **options})
        self.checkpoints.mkdir()
        write_aside(
            self.catalog_file,
            json.dumps(vars(catalog), ensure_ascii=False) + "\n",
        )

    def go_on(self, training: Mapping[str, Any]) -> None:
        """Train again in a folder that `start` made: not finished any more, with these training options."""
        options = self.options()
        self.result_file.unlink(missing_ok=True)
        if options["training"] != training:
            write_json(self.options_file, {**options, "training": dict(training)})

    def check_held_out(self) -> None:
        """UserError where the model was trained on every row, so that none is left to measure it by (a refit)."""
        if self.options().get("refit_of") is not None:
            raise UserError(
                f"{self.path}: a refit, trained on every interaction: its metrics would say nothing of new ones; "
                "measure the run that it was made from"
            )

    def options(self) -> dict[str, Any]:
        """What `start` was given."""
        options = read_json(self.options_file)
        if not isinstance(options, dict) or options.get("format") != FORMAT_NAME:
            raise UserError(f"{self.options_file}: damaged, or not written by 'rearec train'")
        for part in ("dataset", "model", "training"):
            if not isinstance(options.get(part), dict):
                raise UserError(f"{self.options_file}: damaged: {part} is missing")
        if not isinstance(options["dataset"].get("path"), str | None):
            raise UserError(f"{self.options_file}: damaged: the path of the dataset is no text")
        return options

    def dataset_path(self, option: str) -> Path:
        """Where the dataset was when the model was trained on it.

        option: by which the user says where it is now. UserError where it was never on disk, or is gone.
        """
        recorded = self.options()["dataset"].get("path")
        if recorded is None:
            raise UserError(
                f"{self.path}: was trained on data in memory, it does not say which; "
                f"give the prepared dataset with {option}"
            )
        path = Path(recorded)
        if not path.is_dir():
            raise UserError(f"{path}: the dataset {self.path} was trained on is gone; say where it is with {option}")
        return path

    def excludes_seen(self) -> bool | None:
        """Whether the training chose its best epoch with seen items left out.

        None where the run does not say: those before there was a choice kept them.
        """
        value = self.options()["training"].get("exclude_seen")
        if not isinstance(value, bool | None):
            raise UserError(f"{self.options_file}: damaged: exclude_seen is {value!r}, expected true or false")
        return value

    def check_fingerprint(self, fingerprint: str, dataset: str | Path) -> None:
        """UserError where ``dataset``, which has this fingerprint, is not the one that the model is trained on."""
        if self.options()["dataset"].get("fingerprint") != fingerprint:
            raise UserError(
                f"{dataset}: not the dataset of {self.path}, which was trained on other data or on another split of it"
            )

    def catalog(self) -> Catalog:
        """The items of the model trained here."""
        value = read_json(self.catalog_file)
        fields = value if isinstance(value, dict) else {}
        item_ids, popularity = fields.get("item_ids"), fields.get("popularity")
        if not isinstance(item_ids, list) or not isinstance(popularity, list) or len(item_ids) != len(popularity):
            raise UserError(f"{self.catalog_file}: damaged: item_ids and popularity of equal length were expected")
        if not all(isinstance(item, str) for item in item_ids) or not all(map(_is_count, popularity)):
            raise UserError(f"{self.catalog_file}: damaged: item_ids must be texts, popularity counts")
        titles = fields.get("titles")
        if titles is not None and (
            not isinstance(titles, list)
            or len(titles) != len(item_ids)
            or not all(isinstance(title, str | None) for title in titles)
        ):
            raise UserError(f"{self.catalog_file}: damaged: titles must be a text or null for each item")
        return Catalog(item_ids, popularity, titles)

    def weights_digest(self) -> str:
        """What tells the weights of a finished training, with its graph prior's, from any others."""
        digest = hashlib.blake2b(digest_size=16)
        parts = sorted(path.name for path in self.path.glob(PARTS))
        for name in ("config.json", "model.safetensors", *parts, "prior.safetensors"):
            if (path := self.path / name).is_file():
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
        return digest.hexdigest()

    def keeps_titles(self) -> bool:
        """Whether the items' titles would be in the catalogue; runs from before there were titles in it have none."""
        value = read_json(self.catalog_file)
        return isinstance(value, dict) and "titles" in value

    def metrics(self) -> list[dict[str, str]]:
        """The rows of metrics.csv, one for each epoch that has ended."""
        if not self.metrics_file.is_file():
            return []
        with self.metrics_file.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def result(self) -> dict[str, Any]:
        """Best epoch, validation and test metrics of a finished training, and whether seen items were kept in them."""
        self.check_finished()
        result = read_json(self.result_file)
        counts = ("best_epoch", "epochs", "parameters")
        # Runs from before there was a choice kept seen items.
        if isinstance(result, dict):
            result.setdefault("seen", "kept")
        if (
            not isinstance(result, dict)
            or not all(_is_count(result.get(name)) for name in counts)
            or not isinstance(result.get("stopped_early"), bool)
            or result["seen"] not in ("kept", "excluded")
            or not isinstance(result.get("valid"), dict if result.get("refit_of") is None else dict | None)
            or not isinstance(result.get("test", ""), dict | None)
        ):
            raise UserError(f"{self.result_file}: damaged: not the result of a training")
        return result


def _is_run(path: Path) -> bool:
    """Whether options.json is one that `RunFolder.start` wrote."""
    try:
        RunFolder(path).options()
    except UserError:
        return False
    return True


def _is_written(entry: Path) -> bool:
    """Whether an entry of a RUN folder is one that a training writes."""
    if entry.is_dir():
        return entry.name in FOLDERS or entry.name.startswith(SAVING_PREFIX)
    return entry.name in (*FILES, *map(partial_name, FILES)) or entry.match(PARTS)


OUTPUT = OutputFolder(
    _is_run,
    other="is not a RUN folder; choose another one",
    taken="a training; --resume continues it, --force replaces it",
    is_part=_is_written,
    stranger="which no training writes",
)
COPY = replace(OUTPUT, taken="a training; --force replaces it")
