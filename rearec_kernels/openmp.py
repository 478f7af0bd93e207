"""The OpenMP that torch brings, for the compiled module too: two in one process keep each other's threads waiting.

torch's wheels carry a libgomp of their own. On some it has the system's name (`libgomp.so.1`), on others one that is
found nowhere else (`torch.libs/libgomp-a49a47f9.so.1.0.0`), and a system without a compiler may have none. So
`rearec_kernels._C` names no such library: it takes the functions from what is loaded for the whole process.
"""

from __future__ import annotations

import ctypes
import sys

import torch

SYSTEMS_OWN = "libgomp.so.1"


class _Symbol(ctypes.Structure):
    """What dladdr says of an address."""

    _fields_ = [
        ("file", ctypes.c_char_p),
        ("file_address", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


def file_of_torch() -> str | None:
    """The OpenMP library in which torch's own kernels run; None where its build has none that GCC's code can call."""
    try:
        function = ctypes.CDLL(torch._C.__file__).GOMP_parallel  # in torch's module and in all that it depends on
    except AttributeError:
        return None
    found = _Symbol()
    known = ctypes.CDLL(None).dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(found))
    return found.file.decode() if known and found.file else None


def load() -> None:
    """Makes that library's functions those of the whole process; the system's, where torch has none.

    Raises:
        ImportError: there is neither.
    """
    if sys.platform != "linux":  # elsewhere the module is compiled without OpenMP
        return
    library = file_of_torch() or SYSTEMS_OWN
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ImportError(f"rearec_kernels needs OpenMP: torch brings none, and {error} (Debian: libgomp1)") from error
