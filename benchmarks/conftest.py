"""Options, the device that is measured, and the closing table of the benchmarks."""

from __future__ import annotations

import datetime
import json
import math
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from measure import machine
from measure.clocks import Clock, clock_of
from measure.compare import Comparison
from measure.contest import Contest

import rearec_kernels
from rearec_kernels import available_backends, build_info

# Half of a test's time goes into making its inputs, checking who agrees, and capturing.
MEASURED_SHARE = 0.5


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rearec")
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="whose cases run (default: %(default)s)")
    group.addoption("--paper-scale", action="store_true", help="the sizes of the paper as well (takes much longer)")
    group.addoption("--bench-threads", type=int, default=None, help="torch threads (default: torch's own choice)")
    group.addoption("--bench-json", type=Path, default=None, help="write the comparisons to this file")
    group.addoption("--bench-seconds", type=float, default=math.inf, help="for the whole run (default: no limit)")
    group.addoption("--tiny", action="store_true", help="cases of all devices in tiny sizes: figures mean nothing")


def pytest_collection(session: pytest.Session) -> None:
    """Refuses to measure something else in the place of the kernels."""
    options = session.config.option
    if options.tiny:
        return
    if not build_info()["native"]:
        where = Path(rearec_kernels.__file__).parent
        raise pytest.UsageError(
            f"{where} has no native module, expected an installed rearec: run 'pytest benchmarks/', not 'python -m "
            "pytest', which imports the source tree that it stands in"
        )
    if options.device == "cuda" and "cuda" not in available_backends("cuda"):
        raise pytest.UsageError(f"--device cuda: the CUDA kernels cannot run: {build_info()['cuda']}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the cases of the device; on a GPU no test that only knows CPUs, in tiny sizes none that only knows full
    ones. Both are tests without the fixture `contest`."""
    options = config.option

    def is_for(item: Any) -> bool:
        case = getattr(item, "callspec", None) and item.callspec.params.get("case")
        if (options.device != "cpu" or options.tiny) and "contest" not in item.fixturenames:
            return False
        return options.tiny or getattr(case, "device", options.device) == options.device

    chosen = [item for item in items if is_for(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
    config.stash[_BUDGET] = Budget(options.bench_seconds, len(items))


class Budget:
    """The seconds of a run, shared by the tests that are still to come."""

    def __init__(self, seconds: float, tests: int) -> None:
        self.deadline, self.tests = time.monotonic() + seconds, tests

    def share(self) -> float:
        """Of the test that begins."""
        self.tests -= 1
        return (self.deadline - time.monotonic()) / (self.tests + 1)


_BUDGET = pytest.StashKey[Budget]()
_COMPARISONS = pytest.StashKey[list[Comparison]]()


@pytest.fixture(scope="session", autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before, wanted = torch.get_num_threads(), request.config.getoption("--bench-threads")
    if request.config.getoption("--tiny"):
        wanted = 1  # more only get into each other's way
    torch.set_num_threads(wanted or before)
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.fixture
def paper_scale(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--paper-scale"))


@pytest.fixture(scope="session")
def clock(request: pytest.FixtureRequest) -> Clock:
    """Of the device that is measured."""
    return clock_of(request.config.getoption("--device"))


@pytest.fixture
def report(request: pytest.FixtureRequest, benchmark: Any) -> Any:
    """Takes a Comparison: keeps it for the table and hands our time, where there is one, to pytest-benchmark."""
    failed: dict[str, str] = {}
    first = [True]

    def keep(comparison: Comparison, ours: Any = None) -> None:
        comparison.facts.setdefault("group", request.path.stem.removeprefix("test_"))
        benchmark.extra_info.update(comparison.record())
        kept = request.config.stash.setdefault(_COMPARISONS, [])
        kept.append(comparison)
        path = request.config.getoption("--bench-json")
        if path is not None:  # every time: whatever ends the run, what was measured is there
            path.write_text(json.dumps(_record(request.config, kept), indent=1) + "\n")
        if first:  # it takes one call a test
            benchmark.pedantic(ours or (lambda: None), rounds=1)
        first.clear()
        failed.update(comparison.errors)

    yield keep
    if failed:
        pytest.fail("; ".join(f"{who}: {why}" for who, why in failed.items()))


@pytest.fixture
def contest(request: pytest.FixtureRequest, clock: Clock, report: Any) -> Contest:
    """Compares contenders by the clock of the device, within the budget of the run."""
    share = request.config.stash[_BUDGET].share()
    if share <= 0:
        pytest.skip("no time was left")
    return Contest(clock, report, lambda: MEASURED_SHARE * share, request.config.getoption("--tiny"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    comparisons = config.stash.get(_COMPARISONS, [])
    if not comparisons:
        return
    terminalreporter.section("comparisons: medians of alternating runs, one process")
    for c in comparisons:
        for line in _lines(c):
            terminalreporter.write_line(line)
    if config.getoption("--tiny"):
        terminalreporter.write_line("tiny sizes: no figure here means anything")


def _lines(c: Comparison) -> Iterator[str]:
    yield c.name
    for who in c.memory | c.times:
        time = f"{1e3 * c.median(who):9.3f} ms" if who in c.times else " " * 12
        memory = f"  {c.memory[who] / 2**20:9.1f} MB" if who in c.memory else ""
        ratios = [f"{c.time_ratio(who):5.2f}x faster"] if who in c.times else []
        ratios += [f"{c.memory_ratio(who):6.2f}x less memory"] if memory else []
        yield f"    {who:<28} {time}{memory}" + (f"   ours is {', '.join(ratios)}" if who != "ours" else "")
    for who, why in c.absent.items():
        yield f"    {who:<28} not there: {why}"
    for who, why in c.errors.items():
        yield f"    {who:<28} FAILED: {why}"
    for target in map(c.judge, c.targets):
        yield "    {kind}, {of} against {against}: {got:.2f}, must {must:g}, aim {aim:g}: {verdict}".format(**target)


def _record(config: pytest.Config, comparisons: list[Comparison]) -> dict[str, Any]:
    device = torch.device(config.getoption("--device"))
    return {
        "date": datetime.date.today().isoformat(),
        "commit": machine.commit(),
        "command": shlex.join(["pytest", *config.invocation_params.args]),
        "machine": machine.describe(device, config.getoption("--bench-threads") or torch.get_num_threads()),
        "versions": machine.versions(device),
        "build": build_info(),
        **({"dry_run": True} if config.getoption("--tiny") else {}),
        "comparisons": [c.record() for c in comparisons],
    }
