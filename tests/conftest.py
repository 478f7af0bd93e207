"""What several test modules share: a small prepared dataset, a trained run, the command line as a process."""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from patience import PATIENCE

# Before numpy and torch are imported, whose libraries read it then: processes that test side by side (pytest -n) shall
# not fight for the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Before rearec_kernels is imported: the tests of the Triton kernels run in Triton's interpreter where there is no GPU.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


# More of a value would make the name of a test unreadable.
LONGEST_ID = 80


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names of tests are the same at any time: bytes, which may be compressed and hold it, are no part of them."""
    return argname if isinstance(val, bytes) or (isinstance(val, str) and len(val) > LONGEST_ID) else None


# These files take minutes.
LONGEST = ("test_newcomer.py", "test_triton_ahead_of_time.py", "test_sanitizers.py", "test_pool.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: no worker shall be left with it when the others have nothing to do."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """No test draws other numbers because others have run before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Ends with what this machine has not run, and why, and what ran in the place of a GPU."""
    yield
    from rearec_kernels import available_backends

    stats = terminalreporter.stats
    why = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in stats.get("skipped", []))
    lines = [
        f"{number} not run: {reason}" for reason, number in sorted(why.items(), key=lambda each: (-each[1], each[0]))
    ]
    if "cpu" not in available_backends("cpu"):
        lines.append("the cases of the backend cpu are not there: no native module in this install")
    for mark, words in (
        ("triton_interpreter", "Triton kernels in Triton's interpreter"),
        ("cuda_on_cpu", "CUDA kernels in the host simulator"),
    ):
        number = sum(mark in report.keywords for report in stats.get("passed", []) if report.when == "call")
        if number:
            lines.append(f"{number} passed with {words}, which tells nothing of a device")
    if lines:
        terminalreporter.section("what this machine cannot tell")
        for line in lines:
            terminalreporter.write_line(line)


def small_histories(users: int = 150, items: int = 40, seed: int = 0) -> dict[str, list[str]]:
    """Histories in which four of five items follow from the one before."""
    draw = random.Random(seed)
    histories = {}
    for user in range(users):
        history = [draw.randrange(items)]
        while len(history) < 6 + user % 9:
            history.append((history[-1] * 7 + 3) % items if draw.random() < 0.8 else draw.randrange(items))
        histories[f"user-{user}"] = [f"item-{item:03}" for item in history]
    return histories


@pytest.fixture(scope="session", autouse=True)
def outside_the_repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes that tests start must import the installed packages, not the uncompiled ones in the repository."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("outside"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def source_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A json file {user: [items]}."""
    path = tmp_path_factory.mktemp("source") / "small.json"
    path.write_text(json.dumps(small_histories()), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def prepared(source_file: Path) -> Path:
    """The same data, prepared with a leave-one-out split."""
    from rearec.data import prepare

    out = source_file.parent / "prepared"
    prepare("json", [source_file], out, split="leave-one-out")
    return out


@pytest.fixture(scope="session")
def run_folder(prepared: Path) -> Path:
    """A finished training of a small prl model with two steps on ``prepared``."""
    from rearec.data import load_dataset
    from rearec.models.config import ReaRecConfig
    from rearec.training import TrainingOptions, train

    out = prepared.parent / "run"
    config = ReaRecConfig(
        load_dataset(prepared).num_items, dim=16, ffn=16, layers=1, max_len=8, dropout=0.1, alpha=1.5, warmup=1
    )
    train(prepared, out, config, TrainingOptions(epochs=4, batch_rows=128, lr=1e-2))
    return out


@pytest.fixture(scope="session")
def run_rearec() -> CommandLine:
    """Runs ``rearec`` as a process with one thread and returns it completed."""

    def run(*arguments: object, timeout: float = PATIENCE, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rearec", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def call_rearec() -> CommandLine:
    """Runs ``rearec`` as `run_rearec` does, but in this process: for what is no matter of a process."""
    from typer.testing import CliRunner

    from rearec.cli.app import app

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        words, threads = [*map(str, arguments)], torch.get_num_threads()
        with patch.dict(os.environ):
            result = CliRunner().invoke(app, words, prog_name="rearec")
        torch.set_num_threads(threads)  # --threads is of this call alone
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return subprocess.CompletedProcess(words, result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """Intervals are of 400 resamples instead of 10,000."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RESAMPLES", "FEWEST_RESAMPLES"):
            patch.setattr(f"rearec.experiments.contenders.{name}", 400)
        yield


@pytest.fixture
def few_choices(monkeypatch: pytest.MonkeyPatch, few_resamples: None) -> None:
    """The graph prior is chosen from 12 settings instead of 432, the rules from one instead of 16, and intervals are of
    few resamples: where their numbers do not matter, and are most of what a short training takes."""
    for place, names in {
        "rearec.training.graph_prior": {"DECAYS": 1, "SHRINKAGES": 2, "SCALES": 2, "WEIGHTS": 3},
        "rearec.evaluation.graph_floors": {"GRAPHS": 1, "DECAYS": 1},
    }.items():
        module = importlib.import_module(place)
        for name, first in names.items():
            monkeypatch.setattr(module, name, getattr(module, name)[:first])
    # no other test shall find these rules, nor these tests those of others
    monkeypatch.setattr("rearec.evaluation.floors._remembered", {})


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn coarsely and not arranged, which is half of their time: where it does not matter how they
    look. The tests of `rearec.report` see them as users do."""
    from rearec.report import page

    write = page.write_figure

    def write_coarsely(path: Path, figure: Figure) -> None:
        figure.set_layout_engine("none")
        write(path, figure)

    monkeypatch.setattr(page, "DOTS_PER_INCH", 30)
    monkeypatch.setattr(page, "write_figure", write_coarsely)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """The test runs under torch.no_grad()."""
    with torch.no_grad():
        yield
