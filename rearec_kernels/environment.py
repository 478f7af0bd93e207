"""Environment variables that steer the kernels: an empty one counts as unset, and what none can mean is an error.

Attributes:
    SWITCHES: those that are 0 or 1, and what they are where unset. Read in every call that depends on them; looked at
        here too, so that a wrong one is named when the package is imported.
"""

from __future__ import annotations

import os

SWITCHES = {"REAREC_DEBUG": False, "REAREC_TRITON_AUTOTUNE": True}


def is_on(name: str) -> bool:
    """Whether the switch `name` is on now.

    Raises:
        ValueError: it is neither 0 nor 1.
    """
    value = os.environ.get(name)
    if not value:
        return SWITCHES[name]
    if value not in ("0", "1"):
        raise ValueError(f"{name} must be 0 or 1, got {value!r}")
    return value == "1"


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


for _name in SWITCHES:
    is_on(_name)
