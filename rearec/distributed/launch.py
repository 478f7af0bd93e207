"""Start the processes of a computation on this machine, as torchrun does, and wait for them."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rearec.distributed.environment import meeting_point
from rearec.errors import UserError
from rearec.files import write_aside

__all__ = ["COURTESY", "LAUNCHED", "LOST", "launch", "tell"]

# Set for processes that `launch` starts, a folder: what they have to say of an error they write there, and it is told
# once, whichever of them ends first.
LAUNCHED = "REAREC_LAUNCHED"
# Seconds that another process than the first one waits, where somebody else has started them, before it ends with an
# error: those who start processes end all of them when one ends, and the first one has to speak before.
COURTESY = 5.0
# How such a process ends when another one is gone.
LOST = 75
RESUME = "a training goes on with --resume"
# Seconds that the others have to end, when one is lost.
GRACE = 10


def launch(arguments: Sequence[str], *, processes: int, machines: int = 1, timeout: float) -> tuple[int, str]:
    """Run ``rearec`` with these arguments in so many processes, and end the others where one ends with an error.

    Of several machines each calls it, with MASTER_ADDR and MASTER_PORT, where all meet, and NODE_RANK, which of them
    it is, in its environment.

    Args:
        arguments: of the command line.
        processes: on this machine, at least 1.
        machines: how many call it.
        timeout: seconds to wait for the other machines.

    Returns:
        the exit code, 1 where a process was lost, else that of the first one with an error; and what there is to say of
        it, or "".

    Raises:
        UserError: the others cannot be met, or the environment does not say where.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What it has to say of a process that ends is said here.
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=machines,
        max_nodes=machines,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        max_restarts=0,
        shutdown_timeout=GRACE,
        **_rendezvous(machines, timeout),
    )
    before, said = os.environ.get(LAUNCHED), tempfile.mkdtemp(prefix="rearec-")
    os.environ[LAUNCHED] = said
    # as torchrun: each process takes its share of the processors
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    try:
        elastic_launch(config, sys.executable)("-m", "rearec", *arguments)
    except ChildFailedError as error:
        return _ending({rank: failure.exitcode for rank, failure in error.failures.items()}, _said_in(Path(said)))
    except SignalException:
        raise KeyboardInterrupt from None
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"the processes cannot be started: {str(error).splitlines()[0]}") from error
    finally:
        logger.setLevel(level)
        shutil.rmtree(said, ignore_errors=True)
        for name, value in ((LAUNCHED, before), ("OMP_NUM_THREADS", threads)):
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return 0, ""


def tell(rank: int, message: str) -> bool:
    """Hand an error to the process that has started this one, to be told; False where `launch` has not."""
    folder = os.environ.get(LAUNCHED)
    if folder is None:
        return False
    write_aside(Path(folder, str(rank)), message)
    return True


def _said_in(folder: Path) -> dict[int, str]:
    """What processes have handed over, by their numbers."""
    return {int(path.name): path.read_text(encoding="utf-8") for path in folder.iterdir() if path.name.isdecimal()}


def _ending(codes: dict[int, int], said: dict[int, str]) -> tuple[int, str]:
    """As `launch` returns it, of the processes that ended with an error: their exit codes, or signals below 0."""
    killed = {rank: -code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    if killed:
        rank, number = min(killed.items())
        return 1, f"process {rank} was ended by {signal.Signals(number).name}, and the others with it; {RESUME}"
    if said:
        return 2, said[min(said)]
    if LOST in codes.values():
        return 1, f"a process was lost, or answered no more, and the others were ended; {RESUME}"
    # SIGTERM is what the others get.
    rank, code = min(((rank, code) for rank, code in codes.items() if code > 0), default=(min(codes), 1))
    return code, f"process {rank} ended with exit code {code}, and the others with it"


def _rendezvous(machines: int, timeout: float) -> dict[str, Any]:
    """Where and how processes meet, in the words of torch's launcher."""
    if machines == 1:
        return {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if missing:
        raise UserError(
            f"--nodes {machines}: {', '.join(missing)} not set; every machine needs MASTER_ADDR and MASTER_PORT, a "
            "port of the first one, and NODE_RANK, its number from 0; or start the command with torchrun or srun"
        )
    number = os.environ["NODE_RANK"]
    if not number.isdecimal() or int(number) >= machines:
        raise UserError(f"NODE_RANK: got {number!r}, expected 0..{machines - 1}")
    host, port = meeting_point()
    return {
        "rdzv_backend": "static",
        "rdzv_endpoint": f"{host}:{port}",
        "rdzv_configs": {"rank": int(number), "timeout": int(timeout)},
    }
