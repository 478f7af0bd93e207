"""An item table that several processes hold together: with what it goes, its gradient's norm, and its checkpoints.

Checkpoints are the same however many processes there are. The table and Adam's two moments of it would not fit where
one process has to hold them as a whole: they stand beside the checkpoints in files of their own, written row by row,
``items-E.safetensors`` and ``moments-E.safetensors`` of epoch E, to which ``best.ckpt`` and ``last.ckpt`` refer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rearec.distributed import agreed, held_rows, processes, rows_of_all, summed
from rearec.errors import UserError
from rearec.models.config import ID_BACKBONES, ReaRecConfig
from rearec.models.item_table import SplitEmbedding
from rearec.models.methods import TRAITS
from rearec.models.weight_files import Rows, given_together, read_tensors, write_tensors
from rearec.training.options import TrainingOptions

__all__ = ["SplitTable", "check_split", "clip_gradients", "drop_rows", "put_back_rows", "rows_to_hold"]

# What Adam keeps of every number.
MOMENTS = ("exp_avg", "exp_avg_sq")
# In a checkpoint: to which file it refers, and what of the checkpoint stands there.
REFERENCE = "item_table"
_FILES = re.compile(r"(items|moments)-(\d+)\.safetensors")


def check_split(config: ReaRecConfig, options: TrainingOptions) -> None:
    """UserError where processes that hold the item table together could not train such a model so."""
    if not options.shard_catalog or processes().size == 1:
        return
    why = None
    if config.backbone not in ID_BACKBONES:
        why = f"{config.backbone} has no table of item embeddings to split; {' and '.join(ID_BACKBONES)} have"
    elif config.method not in TRAITS:
        why = "an objective of one's own reads the table as a whole; the paper's methods do not"
    elif options.negatives:
        why = f"--negatives {options.negatives} reads rows of the whole table; leave it out, all items are scored"
    elif options.prior == "graph":
        why = "--prior graph, the usual choice, is fitted by a process that has the whole table; add --prior none"
    elif config.num_items < processes().size:
        why = f"{config.num_items} items do not give each of {processes().size} processes one"
    if why is not None:
        raise UserError(f"--shard-catalog: {why}")


def rows_to_hold(config: ReaRecConfig, options: TrainingOptions) -> range | None:
    """Which rows of the item table a model to be trained has in this process; None for all of them."""
    split = options.shard_catalog and processes().size > 1
    return held_rows(config.num_items, processes()) if split else None


def clip_gradients(parameters: Iterable[nn.Parameter], most: float, split: SplitTable | None) -> None:
    """Scale gradients to a norm of at most ``most``, that of all parameters, wherever they are."""
    if split is None:
        torch.nn.utils.clip_grad_norm_(parameters, most)
        return
    everything = [parameter for parameter in parameters if parameter.grad is not None]
    own = split.embedding.weight
    here = [x.grad for x in everything if x is own and x.grad is not None]
    everywhere = [x.grad for x in everything if x is not own and x.grad is not None]
    of_split, of_rest = (torch.nn.utils.get_total_norm(gradients) for gradients in (here, everywhere))
    total = (of_rest.square() + summed(of_split.square())).sqrt()
    torch.nn.utils.clip_grads_with_norm_(everything, most, total)


@dataclass(frozen=True)
class SplitTable:
    """The table of a model in training, as its checkpoints see it.

    embedding: the rows that this process has. name: of its parameter in the state dict that is saved. place: of the
    parameter among those of the optimiser.
    """

    embedding: SplitEmbedding
    name: str
    place: int

    @staticmethod
    def of(module: nn.Module, groups: list[dict[str, Any]]) -> SplitTable | None:
        """That of a module with a model, whose parameters the optimiser gets in these groups; None without one."""
        for name, part in module.named_modules():
            if isinstance(part, SplitEmbedding):
                order = [parameter for group in groups for parameter in group["params"]]
                return SplitTable(part, f"{name}.weight", [x is part.weight for x in order].index(True))
        return None

    def write(self, folder: Path, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        """Write both files of an epoch; every process takes part, the first one writes."""
        state = optimizer.state[self.embedding.weight]
        files = {
            _file(folder, "items", epoch): {"weight": self.embedding.weight},
            _file(folder, "moments", epoch): {name: state[name] for name in MOMENTS},
        }
        for path, tensors in files.items():
            rows = {name: self._rows(x) for name, x in tensors.items()}
            with agreed(), given_together(rows) as writes:
                if writes:
                    write_tensors(path, rows)

    def _rows(self, own: Tensor) -> Rows:
        num_items = self.embedding.num_items
        return Rows((num_items, own.shape[1]), own.dtype, rows_of_all(own.detach(), num_items))

    def take_out(self, checkpoint: dict[str, Any], epoch: int) -> None:
        """Leave out of a checkpoint what stands in the files of the epoch, and refer to them."""
        del checkpoint["state_dict"][self.name]
        reference = {"epoch": epoch, "name": self.name, "place": self.place}
        if "optimizer_states" in checkpoint:
            of_all = checkpoint["optimizer_states"][0]
            own = {name: x for name, x in of_all["state"][self.place].items() if name not in MOMENTS}
            state = {**of_all["state"], self.place: own}
            checkpoint["optimizer_states"] = [{**of_all, "state": state}]
        checkpoint[REFERENCE] = reference

    def take_own_rows(self, checkpoint: dict[str, Any]) -> None:
        """Leave of Adam's moments in a whole checkpoint those of the own rows; the table itself knows its own."""
        state = checkpoint["optimizer_states"][0]["state"][self.place]
        rows = self.embedding.rows
        for name in MOMENTS:
            state[name] = state[name][rows.start : rows.stop].clone()


def put_back_rows(checkpoint: dict[str, Any], folder: Path, *, mapped: bool) -> None:
    """Put back what `SplitTable.take_out` left out of a checkpoint in this folder.

    mapped: tensors that are read from their file when they are used, not to be written to.

    Raises UserError where a file is missing or damaged.
    """
    reference = checkpoint.pop(REFERENCE, None)
    if reference is None:
        return
    wanted = {"items": checkpoint["state_dict"]}
    if "optimizer_states" in checkpoint:
        wanted["moments"] = checkpoint["optimizer_states"][0]["state"][reference["place"]]
    for kind, target in wanted.items():
        path = _file(folder, kind, reference["epoch"])
        try:
            tensors = read_tensors(path)
        except UserError as error:
            raise UserError(f"{error}; train anew with --force") from error
        for name in ("weight",) if kind == "items" else MOMENTS:
            if name not in tensors:
                raise UserError(f"{path}: tensor {name} is missing; train anew with --force")
            tensor = tensors[name] if mapped else tensors[name].clone()
            target[reference["name"] if kind == "items" else name] = tensor


def drop_rows(folder: Path, best: int, last: int) -> None:
    """Delete the files of epochs to which no checkpoint refers any more."""
    for path in folder.iterdir():
        found = _FILES.fullmatch(path.name)
        if found and int(found[2]) not in ((best, last) if found[1] == "items" else (last,)):
            path.unlink()


def _file(folder: Path, kind: str, epoch: int) -> Path:
    return folder / f"{kind}-{epoch}.safetensors"
