"""Processes that train in a folder: nobody else does meanwhile, and they end with the process that started them.

What such a process is to do is the json of its last argument; its standard output is kept for the reason why it failed,
in one line, and its exit code is 1 then.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rearec.errors import UserError, in_one_line, visible
from rearec.files import check_way

__all__ = ["Process", "answer", "end_with", "locked", "program"]


@contextmanager
def locked(folder: Path) -> Iterator[IO[str]]:
    """UserError where others train in ``folder``; the lock ends with the last process that has the file open."""
    check_way(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process trains here; wait for it, or choose another folder") from None
        yield file


def program(module: str) -> str:
    """The program that calls a module's ``main``, found where this process finds modules, whatever its folder."""
    return f"import sys; sys.path[:] = sys.argv[1].split(':'); from {module} import main; main()"


class Process:
    """A process of ours; ``end`` is a file descriptor that can be read as soon as it has ended.

    module: whose ``main`` it calls. arguments: the json of what it is to do. threads: for torch and polars.
    lock: stays open there, so that nobody else trains in the folder before it has ended.
    """

    def __init__(self, module: str, arguments: str, threads: int, lock: IO[str]) -> None:
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-c", program(module), ":".join(map(str, sys.path)), arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "POLARS_MAX_THREADS": str(threads)},
            pass_fds=[lock.fileno()],
        )
        assert self._process.stdout is not None
        self.end = self._process.stdout.fileno()

    def result(self) -> tuple[float, str | None]:
        """The minutes that it took, and why it failed."""
        reason, _ = self._process.communicate()
        minutes = (time.monotonic() - self._began) / 60
        code = self._process.returncode
        if code == 0:
            return minutes, None
        return minutes, reason.strip() or f"its process died (exit code {code}): was there enough memory?"

    def kill(self) -> None:
        """End it at once: what it has not saved is lost, what it has saved is whole."""
        with self._process:
            self._process.kill()


def answer(work: Callable[..., str | None]) -> None:
    """The whole of such a process: ``work`` gets what the last argument holds, and returns why it failed or None."""
    # Ctrl-C is for the process that has started this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Native libraries write to the descriptor itself, whatever sys.stdout is.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as reply:
        os.dup2(2, 1)
        reason = _reason(work)
        if reason is not None:
            reply.write(f"{visible(reason)}\n")
            sys.exit(1)


def _reason(work: Callable[..., str | None]) -> str | None:
    """Why it failed, None where it did not."""
    try:
        return work(**json.loads(sys.argv[-1]))
    except KeyboardInterrupt:
        sys.exit(1)
    except UserError as error:
        return str(error)
    except Exception as error:
        # No fault of the user's: whoever mends it needs the whole of it.
        for line in traceback.format_exc().splitlines():
            sys.stderr.write(f"{visible(line)}\n")
        return f"{type(error).__name__}: {in_one_line(error)}"


def end_with(parent: int) -> None:
    """KeyboardInterrupt where this process is no longer a child of ``parent``."""
    if os.getppid() != parent:
        raise KeyboardInterrupt
