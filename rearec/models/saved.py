"""Saved models: config.json and model.safetensors in a folder or on the Hugging Face Hub; no code is executed.

Beyond a size the weights are several files with an index (`rearec.models.weight_files`).

Beside them stand text_encoder.json, of a model that reads titles, and prior.safetensors, of one with a graph prior.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import HfApi, PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
)
from torch import Tensor, nn

from rearec.distributed import rows_of_all
from rearec.errors import UserError, in_one_line
from rearec.fields import is_code
from rearec.files import read_json, write_aside
from rearec.models.backbone import Backbone
from rearec.models.card import PAPER, TAGS, model_card
from rearec.models.code import load_backbone
from rearec.models.config import ReaRecConfig
from rearec.models.item_table import split_embedding
from rearec.models.official import load_official_state_dict
from rearec.models.prior import GraphPrior
from rearec.models.text import TextBackbone
from rearec.models.title_encoder import TitleEncoder
from rearec.models.weight_files import (
    INDEX_FILE,
    WEIGHTS_FILE,
    Rows,
    given_together,
    parts_of,
    read_weights,
    write_weights,
)
from rearec.run_folder import PARTS

__all__ = [
    "PRIOR_FILE",
    "SavedModel",
    "load_prior",
    "load_weights",
    "locate_model",
    "publish",
    "read_config",
    "read_weights",
]

CONFIG_FILE = "config.json"
# The architecture of a text encoder that was trained too.
ENCODER_FILE = "text_encoder.json"
# What the item graph adds to the scores (`rearec.models.prior`).
PRIOR_FILE = "prior.safetensors"
EXPECTED = f"expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, as save_pretrained or `rearec train` writes it"
# What of a folder is published: with the catalogue and the metrics of a run, where it is one.
WEIGHTS = (WEIGHTS_FILE, PARTS, INDEX_FILE)
PUBLISHED = ("README.md", CONFIG_FILE, *WEIGHTS, ENCODER_FILE, PRIOR_FILE, "catalog.json", "result.json")

M = TypeVar("M", bound="SavedModel")


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    commit_message: str = "A model of rearec",
) -> str:
    """Publish the model of a folder on the Hugging Face Hub as ``owner/name``; returns the address of the commit.

    Of a RUN folder the catalogue and the metrics go with it, so that the published model serves recommendations by
    itself; checkpoints, logs and paths of this machine do not. The graph prior of a model that was there before is
    deleted where this one has none. The other options are those of `huggingface_hub.HfApi`.

    Raises UserError where the folder holds no model.
    """
    locate_model(Path(folder).resolve())
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        allow_patterns=list(PUBLISHED),
        delete_patterns=[PRIOR_FILE, *WEIGHTS],  # what is uploaded is not deleted
        commit_message=commit_message,
        revision=branch,
        create_pr=create_pr,
    )
    return str(commit)


def locate_model(
    name: str | Path, files: Sequence[str] = (CONFIG_FILE, WEIGHTS_FILE), **hub_options: Any
) -> list[Path]:
    """The files of the folder `name` or, if there is none, of the Hub model ``owner/name``.

    Of weights in several files it is the index, beside which they are.

    hub_options: keyword arguments of `huggingface_hub.hf_hub_download` (revision, cache_dir, local_files_only, ...).
    Raises UserError if neither exists or a file is missing.
    """
    folder = Path(name)
    if folder.is_dir():
        return [_of_folder(folder, file) for file in files]
    if folder.exists():
        raise UserError(f"{folder}: is a file; {EXPECTED}")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
        raise UserError(f"{folder}: no such folder; {EXPECTED}")
    try:
        return [_of_hub(str(name), file, hub_options) for file in files]
    except (HfHubHTTPError, HFValidationError, EntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: no such folder, nor a Hugging Face Hub model ({reason}); {EXPECTED}") from error


def _of_folder(folder: Path, file: str) -> Path:
    """The file, or the index in its place."""
    index = folder / INDEX_FILE
    if file == WEIGHTS_FILE and index.is_file() and not (folder / file).is_file():
        return index
    if not (folder / file).is_file():
        raise UserError(f"{folder}: no {file} in this folder; {EXPECTED}")
    return folder / file


def _of_hub(name: str, file: str, options: Mapping[str, Any]) -> Path:
    """The same of a model on the Hub, with the files that the index names."""
    try:
        return Path(hf_hub_download(name, file, **options))
    except EntryNotFoundError:
        if file != WEIGHTS_FILE:
            raise
        try:
            index = Path(hf_hub_download(name, INDEX_FILE, **options))
        except EntryNotFoundError:
            index = None
        if index is None:
            raise
    for part in parts_of(index):
        hf_hub_download(name, part, **options)
    return index


def load_prior(name: str | Path, config: ReaRecConfig, **hub_options: Any) -> GraphPrior | None:
    """The graph prior of a model that `locate_model` has found; None where it has none.

    Raises UserError where the prior is damaged or fitted for another model than config says.
    """
    file = Path(name, PRIOR_FILE)
    if not Path(name).is_dir():
        try:
            file = Path(hf_hub_download(str(name), PRIOR_FILE, **hub_options))
        except EntryNotFoundError:  # offline: what is not in the cache either
            return None
        except (HfHubHTTPError, OfflineModeIsEnabled) as error:
            raise UserError(f"{name}: cannot tell whether it has a {PRIOR_FILE} ({in_one_line(error)})") from error
    if not file.is_file():
        return None
    prior = GraphPrior.load(file)
    prior.check(config, file)
    return prior


def _own_encoder(
    config: ReaRecConfig, config_file: Path, backbone: Backbone | str | None, trust_code: bool
) -> Backbone | None:
    """The encoder of a stored model that has one of its user's own; UserError where nobody says which."""
    has = f"{config_file}: its backbone is {config.backbone!r}"
    if not config.has_own_backbone:
        if backbone is not None:
            raise UserError(f"{has}, expected no backbone=")
        return None
    if isinstance(backbone, Backbone):
        return backbone
    if backbone is not None:
        return load_backbone(replace(config, backbone=backbone))
    if not is_code(config.backbone):
        raise UserError(f"{has}, expected the encoder as backbone=")
    if not trust_code:
        raise UserError(f"{has}, code of somebody's own; trust_code=True runs it, or give the encoder as backbone=")
    return load_backbone(config)


def read_config(path: Path) -> ReaRecConfig:
    """The configuration in a config.json. Raises UserError naming the file, the field, what it holds and what fits."""
    values = read_json(path, "not a readable JSON file ({})")
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a JSON {type(values).__name__}, expected an object with the model's settings")
    try:
        return ReaRecConfig.from_dict(values)
    except ValueError as error:
        raise UserError(f"{path}: {error} (rearec {version('rearec')} reads it)") from error


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy `weights` into `module`.

    Raises UserError naming `source` and the first tensor that does not fit or holds values that are not finite.
    """
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in weights:
            raise UserError(f"{source}: tensor {name} is missing, expected shape {list(tensor.shape)}")
        if weights[name].shape != tensor.shape:
            raise UserError(
                f"{source}: tensor {name} has shape {list(weights[name].shape)}, expected {list(tensor.shape)}"
            )
    for name in weights:
        if name not in expected:
            raise UserError(f"{source}: tensor {name} does not belong to this model")
        if not weights[name].isfinite().all():
            raise UserError(f"{source}: tensor {name} holds values that are no finite numbers")
    module.load_state_dict(dict(weights))


class SavedModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="rearec",
    tags=list(TAGS),
    paper_url=PAPER,
):
    """A model of a config and a backbone as files: what `rearec.reasoning.ReaRec` is saved and loaded by.

    prior: what the item graph adds to its scores, no part of the state dict; ``model.prior = None`` takes it off.
    """

    config: ReaRecConfig
    backbone: Backbone
    prior: GraphPrior | None = None

    @classmethod
    def from_official(cls: type[M], source: str | Path | Mapping[str, Tensor], *, method: str, **settings: Any) -> M:
        """A model with the weights of the official code's checkpoint, in evaluation mode.

        source, method, settings: as in `rearec.models.official.load_official_state_dict`.
        """
        config, weights = load_official_state_dict(source, method=method, **settings)
        model = cls._untrained(config)
        load_weights(model, weights, "state dict" if isinstance(source, Mapping) else source)
        return model.eval()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[M],
        pretrained_model_name_or_path: str | Path,
        *,
        map_location: str | torch.device = "cpu",
        backbone: Backbone | str | None = None,
        trust_code: bool = False,
        prior: bool = True,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> M:
        """The model saved in a folder, or published on the Hugging Face Hub as ``owner/name``, in evaluation mode.

        map_location: the device to put it on. backbone: for a model with an encoder of one's own, that encoder, whose
        weights are replaced, or ``module:factory``, which makes one. trust_code: whether the code may be run that the
        model names for its encoder. prior: whether the graph prior that was saved with it is loaded, where there is
        one. The other options concern the Hub. Only safetensors and JSON are read; no code is run but by backbone or
        trust_code.
        Raises UserError if there is no such model, its files are damaged or do not fit together, or its encoder is
        missing.
        """
        hub_options: dict[str, Any] = {
            "force_download": force_download,
            "token": token,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "revision": revision,
        }
        name = pretrained_model_name_or_path
        config_file, weights_file = locate_model(name, **hub_options)
        config = read_config(config_file)
        encoder = _own_encoder(config, config_file, backbone, trust_code)
        text_encoder = None if config.text_encoder is None else locate_model(name, [ENCODER_FILE], **hub_options)[0]
        graph_prior = load_prior(name, config, **hub_options) if prior else None
        model = cls._untrained(config, encoder, text_encoder)
        load_weights(model, read_weights(weights_file), weights_file)
        model.prior = graph_prior
        return model.to(map_location).eval()

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        card: str | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write config.json and model.safetensors, a README.md if missing, and what else the model has.

        That is text_encoder.json of one that reads titles, and prior.safetensors of one with a graph prior; of one
        without, a file of that name which an earlier model left is removed.

        card: what README.md shall say, by default `rearec.models.card.model_card`. model_card_kwargs: of the latter;
        ``license``, for one.

        With push_to_hub, then `publish` the folder as repo_id (default: the folder's name) and return the commit's
        address. Every file is written aside and renamed when it is complete, config.json last: an interrupted save
        leaves nothing that looks like a model but is none.

        Where several processes hold the item table, all of them call it, and the first one writes and publishes.
        """
        directory = Path(save_directory)
        weights = self._stored_weights()
        with given_together(weights) as writes:
            if writes:
                self._write(
                    directory,
                    weights,
                    config,
                    card or model_card(self.config, prior=self.prior, **(model_card_kwargs or {})),
                )
        if push_to_hub and writes:
            return publish(directory, repo_id or directory.name, **push_to_hub_kwargs)
        return None

    def _write(self, directory: Path, weights: Mapping[str, Tensor | Rows], config: Any, card: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory) as aside:
            write_aside(Path(aside, "README.md"), card)
            super().save_pretrained(aside, config=config or self.config)
            names = write_weights(Path(aside), weights, partial(super()._save_pretrained, Path(aside)))
            for name in names:  # safetensors makes its files private; they shall be as readable as their neighbours
                shutil.copymode(Path(aside, CONFIG_FILE), Path(aside, name))
            if not (directory / "README.md").exists():
                Path(aside, "README.md").rename(directory / "README.md")
            files = [*names, CONFIG_FILE]
            if isinstance(self.backbone, TextBackbone) and self.backbone.text_encoder is not None:
                Path(aside, ENCODER_FILE).write_text(self.backbone.text_encoder.architecture, encoding="utf-8")
                files.insert(0, ENCODER_FILE)
            if self.prior is not None:
                self.prior.save(Path(aside, PRIOR_FILE))
                files.insert(-1, PRIOR_FILE)
            # when all is written, but before the weights are replaced, which another model's prior does not fit
            (directory / PRIOR_FILE).unlink(missing_ok=True)
            for old in [path for pattern in WEIGHTS for path in directory.glob(pattern) if path.name not in names]:
                old.unlink()
            for file in files:
                Path(aside, file).replace(directory / file)

    def _stored_weights(self) -> dict[str, Tensor | Rows]:
        """The state dict, with the item table as `Rows` where several processes hold it."""
        split = split_embedding(self)
        stored: dict[str, Tensor | Rows] = {}
        for name, x in self.state_dict(keep_vars=True).items():
            is_split = split is not None and x is split.weight
            size = split.num_items if split is not None else 0
            stored[name] = Rows((size, x.shape[1]), x.dtype, rows_of_all(x.detach(), size)) if is_split else x.detach()
        return stored

    def _save_pretrained(self, save_directory: Path) -> None:
        """The weights are written by `save_pretrained`, which knows how many files they are."""

    @classmethod
    def _untrained(
        cls: type[M], config: ReaRecConfig, backbone: Backbone | None = None, text_encoder: Path | None = None
    ) -> M:
        """A model whose weights are about to be replaced; the random state of the caller is left alone.

        text_encoder: the file with its architecture, where config names one.
        """
        features = torch.zeros(config.num_items, config.feature_dim) if config.reads_features else None
        with torch.random.fork_rng(devices=[]):
            encoder = None if text_encoder is None else TitleEncoder.untrained(text_encoder, config)
            return cls(config, features if encoder is None else encoder, backbone=backbone)
