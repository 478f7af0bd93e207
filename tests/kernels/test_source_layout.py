"""Which parts of csrc/ know which: includes run one way, and only the bindings know Python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
# A folder of csrc, "" for what all share, and the folders that its files may include.
MAY_INCLUDE = {
    "": {""},
    "bindings": {"", "bindings", "cpu", "cpu/runtime"},
    "bindings/cuda": {"", "bindings", "cuda"},
    "bindings/tiles": {"", "bindings", "cpu/tiles"},
    "cpu": {"", "cpu", "cpu/runtime"},
    "cpu/runtime": {"cpu/runtime"},
    "cpu/tiles": {"", "cpu", "cpu/tiles", "cpu/tiles/engines"},
    "cpu/tiles/engines": {"cpu/tiles"},
    "cuda": {"", "cuda"},
}
SOURCES = sorted(path for path in CSRC.rglob("*") if path.is_file())


def folder(path: str | Path) -> str:
    name = Path(path).parent.as_posix()
    return "" if name == "." else name


def test_every_folder_is_known() -> None:
    assert {folder(path.relative_to(CSRC)) for path in SOURCES} == set(MAY_INCLUDE)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(CSRC).as_posix())
def test_includes_run_one_way(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    here = folder(path.relative_to(CSRC))
    for included in re.findall(r'^#include "(.+)"', text, re.MULTILINE):
        assert (CSRC / included).is_file() and folder(included) in MAY_INCLUDE[here], included
    assert here.startswith("bindings") or not re.search(r"pybind11|Python\.h|PyObject", text)
