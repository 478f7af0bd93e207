"""What is said of a training in Python: settings by their names there, lines beside the bar."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rearec.errors import UserError, visible
from rearec.fields import in_python
from rearec.models.config import ReaRecConfig
from rearec.training.options import TrainingOptions

__all__ = ["called_in_python", "python_errors", "say"]

GOES_ON = re.compile(r"--resume --epochs (\d+) goes on")
SWITCHES = {
    **{f"--{name}": f"{name}=True" for name in ("resume", "force")},
    **{f"--{name}": name for name in ("init", "data", "preset")},
}


def say(line: str) -> None:
    """A line on standard error, above the bar where there is one; control characters in it as escapes."""
    from tqdm import tqdm

    tqdm.write(visible(line), file=sys.stderr)


def called_in_python(message: str) -> str:
    """A message on a training with ``epochs`` for ``--epochs``, ``resume=True`` for ``--resume``.

    >>> called_in_python("still rose: --resume --epochs 6 goes on, or another --lr")
    'still rose: fit with out=, resume=True, epochs=6 goes on, or another lr'
    """
    message = GOES_ON.sub(r"fit with out=, resume=True, epochs=\1 goes on", message)
    return in_python(message, ReaRecConfig, TrainingOptions, switches=SWITCHES)


@contextmanager
def python_errors() -> Iterator[None]:
    """Errors of the block name options as Python does."""
    try:
        yield
    except UserError as error:
        message = called_in_python(str(error))
        if message == str(error):
            raise
        raise UserError(message) from error
