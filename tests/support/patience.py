"""How long tests wait for a process before they take it for one that hangs, on a machine that has other work too."""

from __future__ import annotations

PATIENCE = 900.0  # seconds
