"""The RUN folder: what a training writes, where, and when it counts as finished.

``options.json``        what was asked for: dataset, model, training options, versions; written at the start
``catalog.json``        the items' own ids and their training counts: what raw histories need; written at the start
``metrics.csv``         one row per epoch; ``tensorboard/`` the same for TensorBoard
``checkpoints/``        ``last.ckpt`` (everything ``--resume`` needs) and ``best.ckpt`` (weights of the best epoch)
``model.safetensors``   with ``config.json``: the best model, once training is over
``result.json``         best epoch, validation and test metrics; written last, a folder without it is not finished
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rearec.errors import UserError

__all__ = ["Catalog", "RunFolder", "write_aside", "write_json"]


def write_aside(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it: there is the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write a json file aside, then rename it."""
    write_aside(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


@dataclass(frozen=True)
class Catalog:
    """The items of a model: ``item_ids[n]`` is the source's token of item n, ``popularity[n]`` its training count."""

    item_ids: list[str]
    popularity: list[int]


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

    def check_writable(self, *, force: bool) -> None:
        """UserError where a new training may not be written.

        That is a path that is no folder, a folder that is neither empty nor a RUN folder, and, without ``force``, any
        RUN folder.
        """
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise UserError(f"{self.path}: exists and is not a folder; choose another one")
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        if not self.options_file.is_file():
            raise UserError(f"{self.path}: exists and is not a RUN folder; choose another one")
        if not force:
            raise UserError(f"{self.path}: already holds a training; --resume continues it, --force replaces it")

    def start(self, options: Mapping[str, Any], catalog: Catalog) -> None:
        """Make the folder anew (call `check_writable` first) and write what is known at the start."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self.checkpoints.mkdir(parents=True)
        write_json(self.options_file, options)
        write_aside(
            self.catalog_file,
            json.dumps({"item_ids": catalog.item_ids, "popularity": catalog.popularity}, ensure_ascii=False) + "\n",
        )

    def options(self) -> dict[str, Any]:
        """What `start` was given."""
        options = _read_json(self.options_file)
        if not isinstance(options, dict) or not all(key in options for key in ("dataset", "model", "training")):
            raise UserError(f"{self.options_file}: damaged: dataset, model or training is missing")
        return options

    def catalog(self) -> Catalog:
        """The items of the model trained here."""
        value = _read_json(self.catalog_file)
        if not isinstance(value, dict) or not len(value.get("item_ids", ())) == len(value.get("popularity", (None,))):
            raise UserError(f"{self.catalog_file}: damaged: item_ids and popularity of equal length were expected")
        return Catalog(value["item_ids"], value["popularity"])

    def result(self) -> dict[str, Any]:
        """Best epoch, validation and test metrics of a finished training."""
        self.check_finished()
        result: dict[str, Any] = _read_json(self.result_file)
        return result
