"""The processes that compute together: which of them this is, and how it joins them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from rearec.distributed.environment import meeting_point, place
from rearec.errors import UserError, in_one_line

__all__ = ["DEFAULT_TIMEOUT", "Processes", "joined", "processes"]

# Seconds that a process waits for the others, when they meet and at every exchange.
DEFAULT_TIMEOUT = 600.0


@dataclass(frozen=True)
class Processes:
    """This process's number, from 0, among those of a group: torch.distributed's default one, or itself alone.

    Examples:
        >>> from rearec.distributed import processes
        >>> alone = processes()
        >>> alone.rank, alone.size, alone.is_first
        (0, 1, True)
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes and speaks for all."""
        return self.rank == 0


def processes() -> Processes:
    """Those of torch.distributed's default group; this one alone where there is none."""
    if dist.is_available() and dist.is_initialized():
        return Processes(dist.get_rank(), dist.get_world_size())
    return Processes()


@contextmanager
def joined(device: torch.device, timeout: float = DEFAULT_TIMEOUT) -> Iterator[torch.device]:
    """Join the processes that torchrun or srun has started beside this one, and leave them in the end.

    Where neither has, or where the group is there already, nothing is done. Of several GPUs each process of a machine
    gets its own.

    Args:
        device: to compute on, "cuda" without a number for whichever is this process's.
        timeout: seconds to wait for the others, now and at every exchange.

    Yields:
        the device to compute on.

    Raises:
        UserError: the others cannot be met, or there are more processes than GPUs.
    """
    here = None if not dist.is_available() or dist.is_initialized() else place()
    if here is None:
        yield device
        return
    if device.type == "cuda":
        if here.local_size > torch.cuda.device_count():
            raise UserError(f"{here.local_size} processes on a machine with {torch.cuda.device_count()} GPUs")
        device = torch.device("cuda", here.local_rank)
        torch.cuda.set_device(device)
    host, port = meeting_point()
    variables = {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            rank=here.rank,
            world_size=here.size,
            timeout=timedelta(seconds=timeout),
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"process {here.rank} of {here.size} did not meet the others at {host}:{port}: {_reason(error)}"
        ) from error
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _reason(error: Exception) -> str:
    """The first sentence of what torch says, without its stack."""
    text = in_one_line(error)
    for mark in ("Exception raised from", "This may indicate", "[E"):
        text = text.partition(mark)[0]
    return text.strip(" .") or type(error).__name__
