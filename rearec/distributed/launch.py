"""Start the processes of a computation on this machine, as torchrun does, and wait for them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from typing import Any

from rearec.distributed.environment import meeting_point
from rearec.errors import UserError

__all__ = ["LAUNCHED", "LOST", "launch"]

# Set for processes that `launch` starts: it tells the user of one that is lost.
LAUNCHED = "REAREC_LAUNCHED"
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
        the exit code, 1 where a process was lost, else that of the first one; and what there is to say of it, or "".

    Raises:
        UserError: the others cannot be met, or the environment does not say where.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What it has to say of a process that ends is said here.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=machines,
        max_nodes=machines,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        max_restarts=0,
        shutdown_timeout=GRACE,
        **_rendezvous(machines, timeout),
    )
    before = os.environ.get(LAUNCHED)
    os.environ[LAUNCHED] = "1"
    # as torchrun: each process takes its share of the processors
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    try:
        elastic_launch(config, sys.executable)("-m", "rearec", *arguments)
    except ChildFailedError as error:
        return _ending({rank: failure.exitcode for rank, failure in error.failures.items()})
    except SignalException:
        raise KeyboardInterrupt from None
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"the processes cannot be started: {str(error).splitlines()[0]}") from error
    finally:
        for name, value in ((LAUNCHED, before), ("OMP_NUM_THREADS", threads)):
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return 0, ""


def _ending(codes: dict[int, int]) -> tuple[int, str]:
    """As `launch` returns it, of the processes that ended with an error: their exit codes, or signals below 0."""
    killed = {rank: -code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    if killed:
        rank, number = min(killed.items())
        return 1, f"process {rank} was ended by {signal.Signals(number).name}, and the others with it; {RESUME}"
    # SIGTERM is what the others get.
    code = next((code for code in (codes.get(0), *codes.values()) if code is not None and code > 0), 1)
    if code == LOST:
        return 1, f"a process was lost, or answered no more, and the others were ended; {RESUME}"
    # The first process has told of its error; of another one nobody has.
    of = min(codes)
    return code, "" if of == 0 else f"process {of} ended with exit code {code}, and the others with it"


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
