"""Which state of the tree a measurement is of."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str | None:
    """Of the tree that these benchmarks are part of, "+" if files differ from it; None without git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")
