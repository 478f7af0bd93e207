"""Options and the closing table of the benchmarks."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import Comparison, processor_name
from origin import commit

import rearec_kernels
from rearec_kernels import build_info


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rearec")
    group.addoption("--paper-scale", action="store_true", help="the sizes of the paper as well (takes much longer)")
    group.addoption("--bench-threads", type=int, default=None, help="torch threads (default: torch's own choice)")
    group.addoption("--bench-json", type=Path, default=None, help="write the comparisons to this file")


def pytest_collection(session: pytest.Session) -> None:
    """Refuses to measure plain PyTorch in the place of the kernels."""
    if not build_info()["native"]:
        where = Path(rearec_kernels.__file__).parent
        raise pytest.UsageError(
            f"{where} has no native module, expected an installed rearec: run 'pytest benchmarks/', not 'python -m "
            "pytest', which imports the source tree that it stands in"
        )


@pytest.fixture(scope="session", autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before, wanted = torch.get_num_threads(), request.config.getoption("--bench-threads")
    torch.set_num_threads(wanted or before)
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.fixture
def paper_scale(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--paper-scale"))


@pytest.fixture
def report(request: pytest.FixtureRequest, benchmark: Any) -> Any:
    """Takes a Comparison: keeps it for the table and hands our time, where there is one, to pytest-benchmark."""

    def keep(comparison: Comparison, ours: Any = None) -> None:
        comparison.facts.setdefault("group", request.path.stem.removeprefix("test_"))
        benchmark.extra_info.update(comparison.record())
        benchmark.pedantic(ours or (lambda: None), rounds=1)
        request.config.stash.setdefault(_COMPARISONS, []).append(comparison)

    return keep


_COMPARISONS = pytest.StashKey[list[Comparison]]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    comparisons = config.stash.get(_COMPARISONS, [])
    if not comparisons:
        return
    terminalreporter.section("comparisons: medians of alternating runs, one process")
    for c in comparisons:
        for line in _lines(c):
            terminalreporter.write_line(line)
    path = config.getoption("--bench-json")
    if path is not None:
        path.write_text(json.dumps(_record(config, comparisons), indent=1) + "\n")


def _lines(c: Comparison) -> Iterator[str]:
    yield c.name
    for who in c.memory | c.times:
        time = f"{1e3 * c.median(who):9.2f} ms" if who in c.times else " " * 12
        memory = f"  {c.memory[who] / 2**20:9.1f} MB" if who in c.memory else ""
        ratios = [f"{c.time_ratio(who):5.2f}x faster"] if who in c.times else []
        ratios += [f"{c.memory_ratio(who):6.2f}x less memory"] if memory else []
        yield f"    {who:<28} {time}{memory}" + (f"   ours is {', '.join(ratios)}" if who != "ours" else "")
    for who, why in c.absent.items():
        yield f"    {who:<28} not there: {why}"
    for target in map(c.judge, c.targets):
        yield "    {kind}, {of} against {against}: {got:.2f}, must {must:g}, aim {aim:g}: {verdict}".format(**target)


def _record(config: pytest.Config, comparisons: list[Comparison]) -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "command": shlex.join(["pytest", *config.invocation_params.args]),
        "machine": {
            "processor": processor_name(),
            "threads": config.getoption("--bench-threads") or torch.get_num_threads(),
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "build": build_info(),
        "comparisons": [c.record() for c in comparisons],
    }
