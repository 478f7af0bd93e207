"""Memory that is free, but not for others."""

from __future__ import annotations

import ctypes

__all__ = ["return_free_memory"]


def return_free_memory() -> None:
    """Gives memory that nobody uses back to the system; does nothing where the C library is not glibc.

    Batches of ever new shapes leave gaps between what lives longer, which glibc keeps: over tens of epochs they become
    more than all that is in use. No setting of the process changes, and what is in use stays where it is.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
