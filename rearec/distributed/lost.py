"""When a process of several is gone: the others say so in one line, instead of with the error of the connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from rearec.distributed.group import processes
from rearec.errors import LostProcessError

__all__ = ["lost_processes"]

# How the libraries below torch.distributed begin to say it; it has no class of its own for gloo.
_SIGNS = ("gloo", "nccl", "connection", "timed out", "timeout", "socket", "tcpstore")


@contextmanager
def lost_processes(then: str) -> Iterator[None]:
    """Turns the error of an exchange that fails because another process is gone into a `LostProcessError`.

    then: what the user can do.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        alone = processes().size == 1
        is_exchange = isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in _SIGNS)
        if alone or not is_exchange:
            raise
        raise LostProcessError(f"another process was lost, or answered no more; {then}") from error
