"""A command in several processes: it starts them, or joins those that torchrun or srun has started beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rearec.cli.output import note
from rearec.cli.process import COMMAND_LINE, compute_device
from rearec.distributed.environment import place
from rearec.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["PANEL", "Devices", "Nodes", "Strategy", "Timeout", "joined_processes", "start_processes"]

PANEL = "Several processes"

Devices = Annotated[
    int,
    typer.Option(
        min=1, help="Processes on this machine: GPUs, or parts of its processors.", rich_help_panel=PANEL, metavar="N"
    ),
]
Nodes = Annotated[
    int,
    typer.Option(
        min=1,
        help="Machines, each of which runs this command; MASTER_ADDR, MASTER_PORT and NODE_RANK say where they meet.",
        rich_help_panel=PANEL,
        metavar="M",
    ),
]
Strategy = Annotated[
    Literal["auto", "ddp"],
    typer.Option(
        help="ddp: every process has all of the model and its share of every batch. auto: that, from two processes on.",
        rich_help_panel=PANEL,
    ),
]
Timeout = Annotated[
    float, typer.Option(min=1, help="Seconds that a process waits for the others.", rich_help_panel=PANEL)
]


def start_processes(devices: int, nodes: int, strategy: str, timeout: float) -> None:
    """Run this command in several processes and end it, where that is asked for and has not been done.

    Raises UserError where torchrun or srun has started another number of them.
    """
    here = place()
    if here is not None:
        if (devices > 1 or nodes > 1) and (here.local_size, here.size) != (devices, devices * nodes):
            raise UserError(
                f"--devices {devices} --nodes {nodes}: {here.size} processes were started, {here.local_size} on this "
                "machine; leave the options out, or give as many"
            )
        return
    if devices == nodes == 1 and strategy == "auto":
        return
    from rearec.distributed import launch

    code, told = launch(COMMAND_LINE.get(), processes=devices, machines=nodes, timeout=timeout)
    if told:
        note(told if told.startswith("error: ") else f"error: {told}")
    raise typer.Exit(code)


@contextmanager
def joined_processes(device: str, timeout: float) -> Iterator[torch.device]:
    """The device to compute on, with the other processes met, where there are any."""
    from rearec.distributed import joined

    if place() is not None and device.startswith("cuda:"):
        raise UserError(f"--device: got {device}, expected cuda without a number: every process gets a GPU of its own")
    with joined(compute_device(device), timeout) as own:
        yield own
