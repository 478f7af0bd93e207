"""A model's weights as safetensors: one file or, beyond a size, several with an index, as on the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError
from torch import Tensor

from rearec.distributed import processes
from rearec.errors import UserError, in_one_line
from rearec.files import open_aside, read_json, write_json

__all__ = [
    "INDEX_FILE",
    "WEIGHTS_FILE",
    "Rows",
    "given_together",
    "parts_of",
    "read_tensors",
    "read_weights",
    "write_tensors",
    "write_weights",
]

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Bytes that a file holds at most, but for a tensor that is larger; the Hub's own limit.
MOST_BYTES = 5 * 10**9
# Types by the words of the format.
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """A tensor [N, d] that several processes hold: ``parts`` gives its rows in order, some at a time.

    All processes go through parts, the first one gets them (`rearec.distributed.rows_of_all`).
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    parts: Iterator[Tensor]

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


Stored = Mapping[str, Tensor | Rows]


@contextmanager
def given_together(tensors: Stored) -> Iterator[bool]:
    """Around the writing of tensors: whether this process is the one to write them.

    Behind the block the others have sent their rows, also where there was an error, so that nobody waits for anybody.
    """
    rows = [x for name in _order(tensors) if isinstance(x := tensors[name], Rows)]
    try:
        yield not rows or processes().is_first
    finally:
        for x in rows:
            for _ in x.parts:
                pass


def write_weights(folder: Path, state: Stored, write_whole: Callable[[], None]) -> list[str]:
    """Write the weights of a model and return the names of the files, the index last.

    write_whole: writes those that are tensors and fit one file.
    """
    plan = split_state_dict_into_shards_factory(
        dict(state),
        get_storage_size=lambda x: x.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=MOST_BYTES,
    )
    if not plan.is_sharded and not any(isinstance(x, Rows) for x in state.values()):
        write_whole()
        return [WEIGHTS_FILE]
    for file, names in plan.filename_to_tensors.items():
        write_tensors(folder / file, {name: state[name] for name in names})
    if not plan.is_sharded:
        return list(plan.filename_to_tensors)
    write_json(folder / INDEX_FILE, {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename})
    return [*plan.filename_to_tensors, INDEX_FILE]


def write_tensors(path: Path, tensors: Stored) -> None:
    """Write a safetensors file aside and rename it; UserError where it cannot be written."""
    with open_aside(path, "wb") as file:
        header: dict[str, object] = {}
        end = 0
        for name in _order(tensors):
            begin, end = end, end + tensors[name].nbytes
            word = _TYPES[tensors[name].dtype]
            header[name] = {"dtype": word, "shape": [*tensors[name].shape], "data_offsets": [begin, end]}
        # padded, so that the numbers behind it begin at a multiple of eight
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)
        for name in _order(tensors):
            stored = tensors[name]
            for part in stored.parts if isinstance(stored, Rows) else [stored]:
                file.write(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _order(tensors: Stored) -> list[str]:
    """Names in the order of the file: the widest numbers first, as the library has them."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU, read when they are used. UserError if the file is damaged."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({in_one_line(error)})") from error


def parts_of(index: Path) -> list[str]:
    """The names of the files that an index names; UserError where it is damaged."""
    value = read_json(index, "not a readable JSON file ({})")
    names = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(names, dict) or not names or not all(_is_part(name) for name in names.values()):
        raise UserError(f"{index}: damaged: expected 'weight_map', which says of each tensor in which file it is")
    return sorted(set(names.values()))


def _is_part(name: object) -> bool:
    """Whether it is the name of a file, in the same folder."""
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of model.safetensors, or of the files of an index, on the CPU. UserError if a file is damaged."""
    if path.name != INDEX_FILE:
        return read_tensors(path)
    weights: dict[str, Tensor] = {}
    for name in parts_of(path):
        weights |= read_tensors(path.with_name(name))
    return weights
