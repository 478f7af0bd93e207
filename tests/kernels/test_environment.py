"""Environment variables: read once, empty means unset, and a value that none can have is named in one error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from rearec_kernels import environment, native, resolve_backend

SWITCHES = ["REAREC_DEBUG", "REAREC_TRITON_AUTOTUNE"]
CALL = "catalog_topk", torch.device("cpu"), torch.float32
# What a process does that reads them all.
CODE = """
import torch, rearec_kernels as rk
rk.catalog_topk(torch.ones(2, 4), torch.ones(9, 4), 2)
rk.annealed_cross_entropy(torch.ones(2, 1, 4), torch.ones(9, 4), torch.tensor([0, 1]), temperature=1.0)
print(rk.available_backends("cpu"))
"""


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "TRITON_INTERPRET": "0", **variables}
    return subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, env=environ)


def test_empty_means_unset() -> None:
    names = [*SWITCHES, "REAREC_BACKEND", "REAREC_CPU_CACHE_MB", "REAREC_CPU_ISA", "REAREC_NATIVE", "TRITON_INTERPRET"]
    empty = run(**dict.fromkeys(names, ""))
    assert empty.returncode == 0, empty.stderr
    assert empty.stdout == run().stdout


WRONG = [
    *[(name, value) for name in SWITCHES for value in ("yes", "2")],
    ("REAREC_BACKEND", "gpu"),
    *[("REAREC_CPU_CACHE_MB", value) for value in ("-1", "²", "99999999999999999999999")],
    ("REAREC_CPU_ISA", "sse9"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_garbage_is_named(name: str, value: str) -> None:
    if native.C is None and name.startswith("REAREC_CPU"):
        pytest.skip("read by the native module, which is not in this install")
    done = run(**{name: value})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert name in last and value in last and last.startswith(("ValueError: ", "ImportError: "))


@pytest.mark.parametrize(("value", "expected"), [("", "False True"), ("0", "False False"), ("1", "True True")])
def test_switches_and_their_defaults(value: str, expected: str) -> None:
    code = f"from rearec_kernels.environment import is_on; print(*map(is_on, {SWITCHES}))"
    environ = {**os.environ, **dict.fromkeys(SWITCHES, value)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environ)
    assert done.stdout.strip() == expected, done.stderr


def test_they_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [environment.is_on(name) for name in SWITCHES], resolve_backend(*CALL)
    for name in (*SWITCHES, "REAREC_BACKEND"):
        monkeypatch.setenv(name, "nonsense")
    assert ([environment.is_on(name) for name in SWITCHES], resolve_backend(*CALL)) == before
