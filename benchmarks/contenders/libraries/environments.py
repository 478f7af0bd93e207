"""A virtual environment for each library, made where it is missing or was made with other requirements."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NOTE = "requirements.txt"


def interpreter(folder: Path, requirements: Sequence[str]) -> Path:
    """The Python of the environment in `folder`, with these requirements installed by pip.

    Raises RuntimeError with the last line of what failed.
    """
    python, note, wanted = folder / "bin" / "python", folder / NOTE, "\n".join(requirements) + "\n"
    if note.is_file() and note.read_text() == wanted and python.is_file():
        return python
    print(f"{folder}: installing {' '.join(requirements)}", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", *requirements])
    note.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"{' '.join(command[1:4])}: {lines[-1]}")
