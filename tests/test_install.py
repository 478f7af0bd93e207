"""What setup.py decides on before it compiles anything."""

from __future__ import annotations

import platform
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import setuptools

SETUP = Path(__file__).parent.parent / "setup.py"


@pytest.fixture
def setup_module(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of setup.py, without its call of setup()."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    names: dict[str, Any] = {"__file__": str(SETUP), "__name__": "setup"}
    exec(compile(SETUP.read_text(encoding="utf-8"), str(SETUP), "exec"), names)
    return names


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    """A site-packages that holds this torch/version.py alone."""
    if version is not None:
        (folder / "torch").mkdir()
        (folder / "torch" / "version.py").write_text(version)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder))
    monkeypatch.setattr("sys.path", [])


@pytest.mark.parametrize(
    ("version", "without"),
    [
        (None, False),  # none is installed yet: it cannot be told which one will be
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", True),
        ("cuda = None\n", True),
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", False),
    ],
)
def test_a_torch_for_cpus_needs_no_cuda_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setup_module: dict[str, Any], version: str | None, without: bool
) -> None:
    installed(tmp_path, monkeypatch, version)
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.delenv("REAREC_CUDA", raising=False)
    assert setup_module["torch_is_without_cuda"]() is without
    assert setup_module["find_nvcc"]() == (None if without else str(nvcc))
    monkeypatch.setenv("REAREC_CUDA", "1")
    assert setup_module["find_nvcc"]() == str(nvcc)
    monkeypatch.setenv("REAREC_CUDA", "0")
    assert setup_module["find_nvcc"]() is None


@pytest.mark.parametrize(
    ("system", "clang", "compiling", "linking"),
    [
        ("Linux", False, ["-fopenmp"], []),  # what torch brings is taken
        ("Linux", True, ["-fopenmp"], ["-fopenmp"]),  # needs another one than torch's
        ("Darwin", True, [], []),
    ],
)
def test_no_second_openmp_is_linked(
    monkeypatch: pytest.MonkeyPatch,
    setup_module: dict[str, Any],
    system: str,
    clang: bool,
    compiling: list[str],
    linking: list[str],
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setitem(setup_module, "is_clang", lambda cxx: clang)
    monkeypatch.setitem(setup_module, "compiles", lambda *arguments: True)
    assert setup_module["openmp_flags"](["c++"]) == (compiling, linking)


def test_one_symbol_is_exported(monkeypatch: pytest.MonkeyPatch, setup_module: dict[str, Any], tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "-Wl,-exported_symbol,_PyInit__C" in setup_module["export_flags"](tmp_path)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    (flag,) = setup_module["export_flags"](tmp_path)
    assert "global: PyInit__C; local: *;" in Path(flag.partition("=")[2]).read_text(encoding="utf-8")
