"""The instruction sets that the CPU kernels are compiled for, those that this machine cannot run skipped by name."""

from __future__ import annotations

from typing import Any

import pytest

from rearec_kernels import build_info

KNOWN = ("baseline", "x86_64_v3", "x86_64_v4", "avx512_bf16", "amx", "neon_bf16")


def instruction_sets() -> list[Any]:
    """Names for pytest.mark.parametrize, the same on every machine."""
    here = build_info()["isas"]
    return [
        name
        if name in here
        else pytest.param(name, marks=pytest.mark.skip(reason=f"no {name} on this machine, or in this build"))
        for name in dict.fromkeys((*KNOWN, *here))
    ]
