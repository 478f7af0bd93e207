"""Environment variables: read once, empty means unset, and a value that none can have is named in one error."""

from __future__ import annotations

import subprocess

import pytest
import torch
from forks import run_each

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


def run(*each: dict[str, str]) -> list[subprocess.CompletedProcess[str]]:
    return run_each(CODE, [{"TRITON_INTERPRET": "0", **variables} for variables in each])


def test_empty_means_unset() -> None:
    names = [*SWITCHES, "REAREC_BACKEND", "REAREC_CPU_CACHE_MB", "REAREC_CPU_ISA", "REAREC_NATIVE", "TRITON_INTERPRET"]
    empty, unset = run(dict.fromkeys(names, ""), {})
    assert empty.returncode == 0, empty.stderr
    assert empty.stdout == unset.stdout


WRONG = [
    *[(name, value) for name in SWITCHES for value in ("yes", "2")],
    ("REAREC_BACKEND", "gpu"),
    *[("REAREC_CPU_CACHE_MB", value) for value in ("-1", "²", "99999999999999999999999")],
    ("REAREC_CPU_ISA", "sse9"),
]


def test_garbage_is_named() -> None:
    # those of REAREC_CPU are read by the native module
    wrong = [(name, value) for name, value in WRONG if native.C is not None or not name.startswith("REAREC_CPU")]
    for (name, value), done in zip(wrong, run(*[{name: value} for name, value in wrong]), strict=True):
        assert done.returncode == 1, (name, value)
        last = done.stderr.strip().splitlines()[-1]
        assert name in last and value in last and last.startswith(("ValueError: ", "ImportError: "))


def test_switches_and_their_defaults() -> None:
    code = f"from rearec_kernels.environment import is_on; print(*map(is_on, {SWITCHES}))"
    expected = {"": "False True", "0": "False False", "1": "True True"}
    ended = run_each(code, [dict.fromkeys(SWITCHES, value) for value in expected])
    assert [done.stdout.strip() for done in ended] == [*expected.values()], ended


def test_they_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [environment.is_on(name) for name in SWITCHES], resolve_backend(*CALL)
    for name in (*SWITCHES, "REAREC_BACKEND"):
        monkeypatch.setenv(name, "nonsense")
    assert ([environment.is_on(name) for name in SWITCHES], resolve_backend(*CALL)) == before
