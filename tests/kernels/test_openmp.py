"""One OpenMP in a process: the compiled module runs in the one that torch's own kernels run in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rearec_kernels import native, openmp

pytestmark = pytest.mark.skipif(
    native.C is None or sys.platform != "linux", reason="no compiled module that uses OpenMP"
)
CODE = "import rearec_kernels; print(*{line.split()[-1] for line in open('/proc/self/maps') if '/' in line}, sep='\\n')"


def loaded(before: str = "") -> list[str]:
    """The OpenMP libraries of a new process that imports rearec_kernels after running some code."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", before + CODE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [path for path in done.stdout.split() if re.search(r"/lib[a-z]*omp[^/]*$", path)]


def test_it_is_torchs() -> None:
    assert loaded() == [str(Path(str(openmp.file_of_torch())).resolve())]


def test_a_torch_without_one_leaves_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "file_of_torch", lambda: None)
    monkeypatch.setattr(openmp, "SYSTEMS_OWN", "libnone.so.1")
    with pytest.raises(ImportError, match="needs OpenMP: torch brings none, and libnone"):
        openmp.load()
