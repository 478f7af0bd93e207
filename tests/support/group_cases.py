"""What the tests of several processes let every one of them do, and one process alone for comparison."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback

import rearec
from rearec.cli.recommend_parts import answer_parts
from rearec.data.dataset import SequenceDataset
from rearec.data.synthetic import Planted, generate
from rearec.distributed import FewRows, agreed, few_rows, from_first, gather_rows, held_rows, look_up, processes
from rearec.models import ReaRecConfig, weight_files
from rearec.objectives import OBJECTIVES, Objective
from rearec.run_folder import RunFolder
from rearec.training import TrainingOptions, fitting_config, refit, train
from rearec_kernels import CatalogShard

# No two windows of a batch are alike, and a batch has about 20 windows.
USERS = 120


def dataset(users: int = USERS) -> SequenceDataset:
    """The same in every process."""
    return generate(0, planted=Planted(users=users))


class Steps(Callback):
    """Of every step the loss that is minimised, over all processes, and of the first ones the gradients."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.losses: list[float] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs["loss"].detach().clone()
        if processes().size > 1:
            torch.distributed.all_reduce(loss)
        self.losses.append(float(loss) / processes().size)

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        if len(self.gradients) < self.most:
            self.gradients.append({name: x.grad.clone() for name, x in module.named_parameters() if x.grad is not None})


@contextmanager
def float64(wanted: bool) -> Iterator[None]:
    """Parameters in float64, which only rounding in the sixteenth digit keeps from being the same numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if wanted else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def training(
    model: dict[str, Any],
    options: dict[str, Any],
    *,
    run: str | None = None,
    users: int = USERS,
    double: bool = False,
    resume: bool = False,
    gradients: int = 1,
) -> dict[str, Any]:
    """Train; what of it has to be the same however many processes there are."""
    data = dataset(users)
    sizes = {"dim": 16, "ffn": 16, "layers": 2, "heads": 2, "max_len": 10, "dropout": 0.0, "input_dropout": 0.0}
    config = fitting_config(data, **{**sizes, **model})
    steps = Steps(gradients)
    folder = run or from_first(tempfile.mkdtemp)
    with float64(double):
        result = train(
            data, folder, config, TrainingOptions(**{"epochs": 1, "batch_rows": 64, **options}),
            callbacks=[steps], logger="none", resume=resume, force=not resume,
        )  # fmt: skip
        weights = rearec.ReaRec.from_pretrained(folder).state_dict()
    return {"losses": steps.losses, "gradients": steps.gradients, "weights": weights, "result": result}


def refitted(run: str, out: str) -> dict[str, Any]:
    """The run's training, on all rows."""
    with float64(True):
        result = refit(run, out, data=dataset(), logger="none", force=True)
        weights = rearec.ReaRec.from_pretrained(out).state_dict()
    return {"rows": RunFolder(out).options()["refit_of"]["rows"], "epochs": result["epochs"], "weights": weights}


def evaluation(split: str, users: int = USERS, is_split: bool = False, **options: Any) -> dict[str, Any]:
    """Metrics of an untrained model; is_split: of one whose item table the processes hold together."""
    data = dataset(users)
    rows = held_rows(data.num_items, processes()) if is_split else None
    torch.manual_seed(1)
    model = rearec.ReaRec(ReaRecConfig(data.num_items, method="erl", dim=8, max_len=20), rows=rows)
    return rearec.evaluation.evaluate(model, data, split, **options)


class Sizes(Callback):
    """How many numbers the largest tensors have that a training keeps: weights, gradients, what Adam keeps."""

    def __init__(self) -> None:
        self.largest = dict.fromkeys(("weight", "gradient", "moment"), 0)

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        found = {
            "weight": [*module.parameters(), *module.buffers()],
            "gradient": [x.grad for x in module.parameters()],
            "moment": [x for state in optimizer.state.values() for x in state.values()],
        }
        for name, tensors in found.items():
            self.largest[name] = max([self.largest[name], *(x.numel() for x in tensors)])


def largest(model: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Of each process; and how many numbers the result says that are trained."""
    data, sizes = dataset(), Sizes()
    config = fitting_config(data, dim=8, ffn=8, layers=1, max_len=10, **model)
    result = train(
        data, from_first(tempfile.mkdtemp), config, TrainingOptions(epochs=1, batch_rows=512, **options),
        callbacks=[sizes], logger="none", test=False, force=True,
    )  # fmt: skip
    return {**sizes.largest, "parameters": result["parameters"]}


def objective_of_mine(config: ReaRecConfig) -> Objective:
    """An objective that a user has written."""
    return OBJECTIVES["base"]


def refused(model: dict[str, Any], options: dict[str, Any], out: str) -> None:
    """A training that is not begun."""
    data = dataset()
    config = fitting_config(data, **{"dim": 8, "ffn": 8, "layers": 1, "max_len": 10, **model})
    train(data, out, config, TrainingOptions(**{"epochs": 1, "prior": "none", **options}), logger="none")


def looked_up(items: list[list[int]], num_items: int, dim: int) -> dict[str, Any]:
    """Vectors of the own items, and the own rows' gradient of a loss of all of them and of the table."""
    group = processes()
    rows = held_rows(num_items, group)
    table = torch.arange(float(num_items * dim)).view(num_items, dim)[rows.start : rows.stop].requires_grad_()
    found = look_up(torch.tensor(items[group.rank], dtype=torch.int64), CatalogShard.of(table))
    factor = group.size * (1.0 + group.rank)
    (found.pow(2).sum() * factor / 2 + table.sum()).backward()
    return {"vectors": found.detach(), "gradient": table.grad}


def split_model() -> rearec.ReaRec:
    """Whose item table the processes hold together."""
    torch.manual_seed(1)
    config = ReaRecConfig(50, method="erl", dim=8, max_len=20)
    return rearec.ReaRec(config, rows=held_rows(50, processes()))


def saved_in_parts(folder: str, most_bytes: int) -> list[str]:
    """The files of `split_model`, of so many bytes."""
    model = split_model()
    before, weight_files.MOST_BYTES = weight_files.MOST_BYTES, most_bytes
    try:
        model.save_pretrained(folder)
    finally:
        weight_files.MOST_BYTES = before
    return sorted(os.listdir(from_first(lambda: folder)))


def cannot_save(folder: str) -> None:
    """The first process cannot write: the others do not wait for it."""
    with agreed():
        split_model().save_pretrained(folder)


def gathered(rows: list[int]) -> dict[str, Any]:
    """All rows, where the own begin, and the gradient of a sum over processes of losses that weigh them differently."""
    rank = processes().rank
    own = torch.arange(float(rows[rank])).add(100 * rank)[:, None].repeat(1, 2).requires_grad_()
    (found,), first = gather_rows(own)
    weights = torch.arange(1.0, len(found) + 1) * (rank + 1)
    (found.sum(1) * weights).sum().backward()
    return {"rows": found.detach(), "first": first, "gradient": own.grad}


def table_gradient(touched: list[list[int]]) -> dict[str, Any]:
    """The gradients of a table and of a matrix by DDP with `FewRows`, and the most numbers that were all-reduced."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(500, 8), torch.nn.Linear(8, 3)).double()
    ddp = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    ddp.register_comm_hook(FewRows(model[0].weight), few_rows)
    sizes: list[int] = []
    all_reduce = torch.distributed.all_reduce
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", lambda x: sizes.append(x.numel()) or all_reduce(x))
        for _ in range(2):  # the second time what is in the buckets has been looked at
            model.zero_grad()
            sizes.clear()
            own = torch.tensor(touched[processes().rank], dtype=torch.int64)
            ddp(own).square().sum().backward()
    return {"table": model[0].weight.grad, "matrix": model[1].weight.grad, "most": max(sizes)}


def agreement(values: list[Any], failing: int | None) -> str:
    """The end of a block that all have to reach, with a value of each."""
    rank = processes().rank
    with agreed(lambda: {"setting": values[rank]}):
        if rank == failing:
            raise rearec.UserError("no such file")
    return "ready"


def first_alone(fails: bool) -> Any:
    """What the first process computes."""

    def compute() -> Any:
        assert processes().is_first
        if fails:
            raise rearec.UserError("nothing to count")
        return {"array": np.arange(3)}

    return from_first(compute)


def histories(folder: Path) -> None:
    """Five parts, two of them of one history; from item ids of `dataset`."""
    ids = dataset().item_ids
    folder.mkdir()
    for number, rows in enumerate((3, 1, 2, 1, 4)):
        lists = [ids[row : row + 1 + number] for row in range(rows)]
        frame = pl.DataFrame({"row": range(rows), "history": lists})
        frame.write_parquet(folder / f"{number}.parquet")


def bulk(run: str, source: str, output: str) -> dict[str, Any]:
    """Answers to the histories of some files."""
    summary = answer_parts(
        rearec.load(run), RunFolder(run), Path(source), Path(output), {"k": 3}, titles=False, force=False
    )
    return {name: value for name, value in summary.items() if name != "output"}


class Dies(Callback):
    """Ends one process at a step, as the kernel would."""

    def __init__(self, rank: int, epoch: int, step: int) -> None:
        self.where = rank, epoch, step

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (processes().rank, trainer.current_epoch, batch_idx) == self.where:
            os._exit(9)


def dying(run: str, rank: int, options: dict[str, Any]) -> None:
    """A training in which a process is lost in the second epoch."""
    data = dataset()
    config = fitting_config(data, method="prl", steps=1, dim=8, ffn=8, layers=1, max_len=10, warmup=0)
    train(data, run, config, TrainingOptions(**options), callbacks=[Dies(rank, 1, 3)], logger="none", force=True)


def resuming(run: str, options: dict[str, Any]) -> dict[str, Any]:
    """What `dying` has begun, to its end."""
    data = dataset()
    config = fitting_config(data, method="prl", steps=1, dim=8, ffn=8, layers=1, max_len=10, warmup=0)
    return train(data, run, config, TrainingOptions(**options), logger="none", resume=True)
