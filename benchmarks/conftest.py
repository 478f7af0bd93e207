"""Options and the closing table of the benchmarks."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import processor_name, verdict

from rearec_kernels import build_info


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rearec")
    group.addoption("--paper-scale", action="store_true", help="the sizes of the paper as well (takes much longer)")
    group.addoption("--bench-threads", type=int, default=None, help="torch threads (default: torch's own choice)")
    group.addoption("--bench-json", type=Path, default=None, help="write the comparisons to this file")


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
    """Takes a Comparison: keeps it for the table and hands our times to pytest-benchmark."""

    def keep(comparison: Any, ours: Any) -> None:
        benchmark.extra_info.update(comparison.record())
        benchmark.pedantic(ours, rounds=3, warmup_rounds=1)
        request.config.stash.setdefault(_COMPARISONS, []).append(comparison)

    return keep


_COMPARISONS = pytest.StashKey[list[Any]]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    comparisons = config.stash.get(_COMPARISONS, [])
    if not comparisons:
        return
    terminalreporter.section("comparisons: medians of alternating runs, one process")
    for c in comparisons:
        terminalreporter.write_line(c.name)
        for who in c.times:
            ratio = (
                ""
                if who == "ours"
                else f"   ours is {c.time_ratio(who):5.2f}x faster, {c.memory_ratio(who):6.2f}x less memory"
            )
            terminalreporter.write_line(
                f"    {who:<28} {1e3 * c.median(who):9.2f} ms  {c.memory[who] / 2**20:9.1f} MB{ratio}"
            )
        for (kind, who), (must, aim) in c.targets.items():
            got = c.ratio(kind, who)
            how = verdict(got, must, aim)
            terminalreporter.write_line(f"    {kind} against {who}: {got:.2f}x, must {must}x, aim {aim}x: {how}")
    path = config.getoption("--bench-json")
    if path is not None:
        record = {
            "machine": {
                "processor": processor_name(),
                "threads": config.getoption("--bench-threads") or torch.get_num_threads(),
                "system": platform.platform(),
            },
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "build": build_info(),
            "comparisons": [c.record() for c in comparisons],
        }
        path.write_text(json.dumps(record, indent=1) + "\n")
