"""How many threads the libraries use."""

from __future__ import annotations

import os
import sys

__all__ = ["set_threads"]


def set_threads(threads: int) -> None:
    """Limit the threads of the libraries that are about to be imported (torch, polars); 0 changes nothing."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
