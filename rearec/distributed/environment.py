"""What the environment says of the processes of a computation: torchrun's variables, or those of SLURM's srun."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rearec.errors import UserError

__all__ = ["Place", "place"]

# By torchrun's names, which torch.distributed reads too; what srun calls the same.
_NAMES = {
    "rank": ("RANK", "SLURM_PROCID"),
    "size": ("WORLD_SIZE", "SLURM_NTASKS"),
    "local_rank": ("LOCAL_RANK", "SLURM_LOCALID"),
    "local_size": ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"),
    "node": ("GROUP_RANK", "SLURM_NODEID"),
}
# Where processes that srun starts meet, unless MASTER_PORT says otherwise: SLURM's job number on top of this.
_FIRST_PORT, _PORTS = 15000, 10000


@dataclass(frozen=True)
class Place:
    """Which process this is to be, as the one who started it says.

    rank, size: its number, from 0, among how many. local_rank, local_size: the same among those on its machine.
    node: the number of the machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """What torchrun or srun says of this process; None where neither has started it.

    Raises:
        UserError: a variable is no number, or they contradict each other.

    Examples:
        >>> from rearec.distributed.environment import place
        >>> started = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
        >>> place(started)
        Place(rank=1, size=2, local_rank=1, local_size=2, node=0)
        >>> place({}) is None
        True
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        start, source = 0, "torchrun"
    elif _is_step_of_slurm(environment):
        start, source = 1, "SLURM"
    else:
        return None
    found = {field: _number(environment, names[start]) for field, names in _NAMES.items()}
    rank, size = found["rank"], found["size"]
    if rank is None or size is None or not 0 <= rank < size:
        raise UserError(
            f"{source}: {_NAMES['rank'][start]}={rank}, {_NAMES['size'][start]}={size}: no place in a group"
        )
    local_rank = rank if found["local_rank"] is None else found["local_rank"]
    machines = (_number(environment, "SLURM_NNODES") or 1) if start else 1
    local_size = size // machines if found["local_size"] is None else found["local_size"]
    if not 0 <= local_rank < local_size <= size or size % local_size:
        raise UserError(
            f"{source}: process {local_rank} of {local_size} on its machine, of {size} in all: expected as many "
            "processes on every machine"
        )
    return Place(rank, size, local_rank, local_size, rank // local_size if found["node"] is None else found["node"])


def meeting_point(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Host and port at which the processes meet: MASTER_ADDR and MASTER_PORT, or the first host of the SLURM job.

    Raises UserError where a port is none.
    """
    host = environment.get("MASTER_ADDR")
    if host is None:
        # "node[3-5,8]" and "a,b" begin with the first one.
        nodes = environment.get("SLURM_NODELIST", "127.0.0.1")
        host = re.sub(r"\[(\d+)[^\]]*\]", r"\1", nodes).split(",")[0]
    given = environment.get("MASTER_PORT")
    if given is None:
        return host, _FIRST_PORT + int(environment.get("SLURM_JOB_ID", "0")) % _PORTS
    if not given.isdecimal() or not 0 < int(given) < 65536:
        raise UserError(f"MASTER_PORT: got {given!r}, expected a port number")
    return host, int(given)


def _is_step_of_slurm(environment: Mapping[str, str]) -> bool:
    """Whether srun started it: a shell of salloc or sbatch is no process of the computation."""
    return "SLURM_PROCID" in environment and environment.get("SLURM_STEP_NUM_TASKS", "1") != "1"


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name)
    if value is None:
        return None
    if not value.isdecimal():
        raise UserError(f"{name}: got {value!r}, expected a number")
    return int(value)
