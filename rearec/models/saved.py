"""Reading a saved model: config.json + model.safetensors from a folder or the Hugging Face Hub. No code is executed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError
from torch import Tensor, nn

from rearec.errors import UserError, in_one_line
from rearec.files import read_json
from rearec.models.config import ReaRecConfig

__all__ = ["CONFIG_FILE", "ENCODER_FILE", "WEIGHTS_FILE", "load_weights", "locate_model", "read_config", "read_weights"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
# The architecture of a text encoder that was trained too.
ENCODER_FILE = "text_encoder.json"
EXPECTED = f"expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, as save_pretrained or `rearec train` writes it"


def locate_model(
    name: str | Path, files: Sequence[str] = (CONFIG_FILE, WEIGHTS_FILE), **hub_options: Any
) -> list[Path]:
    """The files of the folder `name` or, if there is none, of the Hub model ``owner/name``.

    hub_options: keyword arguments of `huggingface_hub.hf_hub_download` (revision, cache_dir, local_files_only, ...).
    Raises UserError if neither exists or a file is missing.
    """
    folder = Path(name)
    if folder.is_dir():
        for file in files:
            if not (folder / file).is_file():
                raise UserError(f"{folder}: no {file} in this folder; {EXPECTED}")
        return [folder / file for file in files]
    if folder.exists():
        raise UserError(f"{folder}: is a file; {EXPECTED}")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
        raise UserError(f"{folder}: no such folder; {EXPECTED}")
    try:
        return [Path(hf_hub_download(str(name), file, **hub_options)) for file in files]
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: no such folder, nor a Hugging Face Hub model ({reason}); {EXPECTED}") from error


def read_config(path: Path) -> ReaRecConfig:
    """The configuration in a config.json. Raises UserError naming the file, the field, what it holds and what fits."""
    values = read_json(path, "not a readable JSON file ({})")
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a JSON {type(values).__name__}, expected an object with the model's settings")
    try:
        return ReaRecConfig.from_dict(values)
    except ValueError as error:
        raise UserError(f"{path}: {error} (rearec {version('rearec')} reads it)") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises UserError if the file is damaged."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({in_one_line(error)})") from error


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
