"""The examples in the docstrings of the public names: every name has one, and it says what happens."""

from __future__ import annotations

import doctest

import pytest
import torch

import rearec_kernels
from rearec_kernels.compat import flash_attn_with_kvcache

PUBLIC = {name: getattr(rearec_kernels, name) for name in rearec_kernels.__all__}
DOCUMENTED = {**PUBLIC, "flash_attn_with_kvcache": flash_attn_with_kvcache}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_an_example(name: str) -> None:
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(DOCUMENTED[name], name, globs={"torch": torch, **DOCUMENTED})
    assert example.examples, f"{name} has no example"
    report: list[str] = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert not failed, "".join(report)
