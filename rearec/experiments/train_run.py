"""Trains one run; `rearec.experiments.pool` starts it as a process of its own.

Standard output is kept for the reason why the training failed, in one line; the exit code is 1 then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rearec.errors import UserError, in_one_line, visible

if TYPE_CHECKING:
    from rearec.experiments.runs import Run

__all__ = ["arguments_of", "main"]


def arguments_of(run: Run, data: Path, folder: Path, device: str, force: bool) -> str:
    """What `main` is to do, as the last argument of its command line; it ends with the process that calls this.

    data: the prepared dataset. folder: where the runs are. force: from the start, otherwise from its last whole epoch.
    """
    place = str(run.folder(folder).path)
    settings = {"config": asdict(run.config), "options": asdict(run.options), "device": device, "force": force}
    return json.dumps({"data": str(data), "run": place, **settings, "parent": os.getpid()})


def main() -> None:
    """Train the run that the last argument describes."""
    # Ctrl-C is for the process that has started this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Native libraries write to the descriptor itself, whatever sys.stdout is.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(2, 1)
        reason = _train(**json.loads(sys.argv[-1]))
        if reason is not None:
            answer.write(f"{visible(reason)}\n")
            sys.exit(1)


def _train(
    data: str, run: str, config: dict[str, Any], options: dict[str, Any], device: str, force: bool, parent: int
) -> str | None:
    """Why it failed, None where it did not."""
    from rearec.models.config import ReaRecConfig
    from rearec.training import TrainingOptions, train

    def end_with_parent(epoch: int, done: int, batches: int) -> None:
        if os.getppid() != parent:
            raise KeyboardInterrupt

    try:
        train(
            data,
            run,
            ReaRecConfig.from_dict(config),
            TrainingOptions(**options),
            device=device,
            resume=not force,
            force=force,
            on_batch=end_with_parent,
        )
    except KeyboardInterrupt:
        sys.exit(1)
    except UserError as error:
        return str(error)
    except Exception as error:
        # No fault of the user's: whoever mends it needs the whole of it.
        for line in traceback.format_exc().splitlines():
            sys.stderr.write(f"{visible(line)}\n")
        return f"{type(error).__name__}: {in_one_line(error)}"
    return None
