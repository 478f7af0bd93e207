"""Environment variables that steer the kernels.

They are read once, when the package (or the backend that needs one) is imported: what a program sets later changes
nothing. An empty variable counts as unset; a value without a meaning is an error.

Attributes:
    BACKEND: REAREC_BACKEND, the backend of every call; None for the fastest. Its name is checked in the calls.
    SWITCHES: the variables that are 0 or 1. REAREC_DEBUG (0): look at index values on a GPU too, and raise in the call
        whose kernel failed. REAREC_TRITON_AUTOTUNE (1): measure the block sizes of a Triton kernel on its first calls.
"""

from __future__ import annotations

import os


def _switch(name: str, default: bool) -> bool:
    value = os.environ.get(name)
    if not value:
        return default
    if value not in ("0", "1"):
        raise ValueError(f"{name} must be 0 or 1, got {value!r}")
    return value == "1"


BACKEND: str | None = os.environ.get("REAREC_BACKEND") or None
SWITCHES = {
    name: _switch(name, default) for name, default in (("REAREC_DEBUG", False), ("REAREC_TRITON_AUTOTUNE", True))
}


def is_on(name: str) -> bool:
    """Whether the switch `name` is on."""
    return SWITCHES[name]


def whole_number(name: str, unit: str, default: int, most: int) -> int:
    """The variable as a number of `unit` from 0 to `most`, `default` where it is unset.

    Raises:
        ValueError: it is no such number.
    """
    value = os.environ.get(name)
    if not value:
        return default
    if not (value.isascii() and value.isdigit()) or len(value) > 20 or int(value) > most:
        raise ValueError(f"{name} must be a whole number of {unit}, {most} at most, got {value!r}")
    return int(value)
