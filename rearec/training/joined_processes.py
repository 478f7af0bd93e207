"""The group of processes that this one has joined (`rearec.distributed.joined`), as Lightning asks for it."""

from __future__ import annotations

import os

import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment

from rearec.distributed import place, processes

__all__ = ["JoinedProcesses", "joins_a_group"]


def joins_a_group() -> bool:
    """Whether there is a group that a training belongs to, be it of one process."""
    return dist.is_available() and dist.is_initialized()


class JoinedProcesses(ClusterEnvironment):
    """Of torch.distributed's default group, which is there already: Lightning neither starts nor joins anything."""

    def __init__(self) -> None:
        here = place()
        self._group = processes()
        # a group that the user's own program has made: all on one machine, as far as anybody knows
        self._local_rank = self._group.rank if here is None else here.local_rank
        self._local_size = self._group.size if here is None else here.local_size

    @property
    def creates_processes_externally(self) -> bool:
        """Somebody else has started them."""
        return True

    @property
    def main_address(self) -> str:
        """Where they have met."""
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        """Where they have met."""
        return int(os.environ.get("MASTER_PORT", "0"))

    @staticmethod
    def detect() -> bool:
        """Whether there is a group."""
        return joins_a_group()

    def world_size(self) -> int:
        """How many they are."""
        return self._group.size

    def set_world_size(self, size: int) -> None:
        """They are as many as they are."""

    def global_rank(self) -> int:
        """This one's number."""
        return self._group.rank

    def set_global_rank(self, rank: int) -> None:
        """It is what it is."""

    def local_rank(self) -> int:
        """This one's number on its machine."""
        return self._local_rank

    def local_size(self) -> int:
        """How many there are on its machine."""
        return self._local_size

    def node_rank(self) -> int:
        """The number of its machine."""
        return self._group.rank // self._local_size
