"""Refuses to be imported in a subinterpreter: torch and the native module have one state for all of a process."""

from __future__ import annotations

import importlib
from typing import Any


def _interpreters() -> Any:
    """Python's own module about them: _interpreters since 3.13, _xxsubinterpreters before; None where neither is."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


_module = _interpreters()
if _module is not None and _module.get_current() != _module.get_main():
    raise ImportError(
        "rearec_kernels cannot be used in a subinterpreter, as torch cannot; use threads or processes (multiprocessing)"
    )
