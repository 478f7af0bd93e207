"""Training many runs, a process for each: several at a time, killed, out of budget, one of them failing."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from patience import PATIENCE

from rearec.data.synthetic import Planted, generate
from rearec.errors import UserError
from rearec.experiments.pool import Progress, train_all
from rearec.experiments.processes import program
from rearec.experiments.runs import Run, training_minutes
from rearec.experiments.train_run import arguments_of
from rearec.models.config import ReaRecConfig
from rearec.training import TrainingOptions, train

# A pool in a process of its own, which a test can kill.
POOL = """
import signal, sys
from pathlib import Path
from rearec.experiments.pool import train_all
from rearec.experiments.runs import Run
from rearec.training import TrainingOptions
from rearec.models.config import ReaRecConfig

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    data, folder, items, *epochs = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
    config = ReaRecConfig(items, method="rpe", dim=8, ffn=8, layers=1, heads=1, max_len=8)
    runs = [Run(config, TrainingOptions(epochs=number, patience=number, batch_rows=64)) for number in epochs]
    train_all(data, runs, folder, jobs=2, threads=1)
"""


def make_run(items: int, method: str = "base", seed: int = 0, epochs: int = 2, **changes: Any) -> Run:
    config = ReaRecConfig(items, method=method, steps=1, dim=8, ffn=8, layers=1, heads=1, max_len=8)
    return Run(config, TrainingOptions(**{"epochs": epochs, "batch_rows": 64, "seed": seed, **changes}))


def wait_for(what: Callable[[], bool], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    out = tmp_path_factory.mktemp("pool") / "data"
    dataset = generate(0, planted=Planted(users=60, themes=3, items_per_theme=6), out=out)
    return out, dataset.num_items


def test_names_are_stable_readable_and_tell_settings_apart() -> None:
    def name(method: str = "prl", seed: int = 0, **model: Any) -> str:
        return Run(ReaRecConfig(9, method=method, **model), TrainingOptions(seed=seed)).name

    assert name() == name(steps=2)
    assert name().startswith("sasrec-prl-k2-tau0.07-alpha5-cl1-seed0-")
    assert name("base").startswith("sasrec-base-tau0.07-seed0-")
    assert name("erl", 3).startswith("sasrec-erl-k2-tau0.07-kl0.05-seed3-")
    assert len({name(), name(seed=1), name(dropout=0.25), name(max_len=20), name("rpe"), name(alpha=1)}) == 6


def test_two_jobs_leave_what_one_training_here_leaves_and_a_failing_run_loses_no_other(
    data: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    path, items = data
    good = [make_run(items), make_run(items, "erl"), make_run(items, "prl", seed=1)]
    bad = make_run(items, lr=1e30)
    seen: list[Progress] = []
    outcome = train_all(
        path, [bad, *good, good[0]], tmp_path / "two", jobs=2, threads=1, on_progress=lambda state: seen.append(state)
    )
    assert list(outcome.failed) == [bad] and "training loss is" in outcome.failed[bad]
    assert outcome.unfinished == []
    assert {state.run for state in seen} == {bad, *good} and len(seen) == 4
    assert [state.left for state in seen] == [3, 2, 1, 0]
    assert [state.error is None for state in seen] == [state.run != bad for state in seen]
    assert seen[-1].expected_minutes == 0 and seen[0].expected_minutes == pytest.approx(1.5 * seen[0].minutes)

    set_threads(1)
    for run in good:
        one, two = (run.folder(tmp_path / jobs) for jobs in ("one", "two"))
        train(path, one.path, run.config, run.options, device="cpu")
        assert one.result() == two.result()
        assert (one.path / "model.safetensors").read_bytes() == (two.path / "model.safetensors").read_bytes()
        assert training_minutes(one) > 0

    # finished runs are not touched, and need no process
    before = good[0].folder(tmp_path / "one").result_file.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr("rearec.experiments.pool._Training", None)
        again = train_all(path, good, tmp_path / "one", budget_minutes=1)
    assert again.failed == {} and again.unfinished == []
    assert good[0].folder(tmp_path / "one").result_file.stat().st_mtime_ns == before

    other = generate(1, planted=Planted(users=60, themes=3, items_per_theme=6), out=tmp_path / "other")
    assert other.num_items == items
    with pytest.raises(UserError, match="not the dataset of"):
        train_all(tmp_path / "other", good, tmp_path / "one")


def test_a_process_that_dies_takes_only_its_own_run_with_it(data: tuple[Path, int], tmp_path: Path) -> None:
    path, items = data
    endless, short = make_run(items, epochs=10_000, patience=10_000), make_run(items, "rpe")

    def kill_the_other(state: Progress) -> None:
        if state.run == short:
            wait_for(endless.folder(tmp_path).last_checkpoint.is_file)
            for child in children_of(os.getpid()):
                if "train_run" in Path(f"/proc/{child}/cmdline").read_text():
                    os.kill(child, signal.SIGKILL)

    outcome = train_all(path, [endless, short], tmp_path, jobs=2, threads=1, on_progress=kill_the_other)
    assert list(outcome.failed) == [endless] and "died (exit code -9)" in outcome.failed[endless]
    assert short.folder(tmp_path).finished and not endless.folder(tmp_path).finished


def test_the_reason_of_a_failure_is_not_mixed_with_what_libraries_print() -> None:
    program = (
        "import os, sys\n"
        "import rearec.experiments.train_run as train_run\n"
        "def fail(**_):\n"
        "    print('a note')\n"
        "    os.write(1, b'a native note\\n')\n"
        "    return 'no such folder: donn\u00e9es'\n"
        "train_run._train = fail\n"
        "train_run.main()\n"
    )
    command = [sys.executable, "-c", program, "{}"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}
    ended = subprocess.run(command, capture_output=True, env=env, timeout=PATIENCE)
    assert ended.returncode == 1 and ended.stdout.decode() == "no such folder: donn\u00e9es\n"
    assert b"a note" in ended.stderr and b"a native note" in ended.stderr


def test_a_budget_stops_what_is_being_trained_and_leaves_it_to_be_resumed(
    data: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, items = data
    endless, never = make_run(items, epochs=10_000, patience=10_000), make_run(items, seed=5)
    checkpoint = endless.folder(tmp_path).last_checkpoint
    # Time stands still until there is something to resume, however slow this machine is, and then the budget is over.
    clock = SimpleNamespace(monotonic=lambda: 3600.0 * checkpoint.is_file())
    monkeypatch.setattr("rearec.experiments.pool.time", clock)
    outcome = train_all(path, [endless, never], tmp_path, threads=1, budget_minutes=0.005)
    assert outcome.failed == {} and outcome.unfinished == [endless, never]
    assert checkpoint.is_file() and not endless.folder(tmp_path).finished
    assert not never.folder(tmp_path).options_file.is_file()


@contextmanager
def pool(tmp_path: Path, data: tuple[Path, int], *epochs: int) -> Iterator[subprocess.Popen[str]]:
    """A pool that trains in a process group of its own, with a checkpoint of each of its runs."""
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    path, items = data
    command = [sys.executable, script, path, tmp_path / "runs", *map(str, (items, *epochs))]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(list((tmp_path / "runs").glob("*/checkpoints/last.ckpt"))) == len(epochs))
        yield process
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_ends_all_that_is_trained(data: tuple[Path, int], tmp_path: Path) -> None:
    with pool(tmp_path, data, 10_000, 10_001) as process:
        children = children_of(process.pid)
        assert len(children) == 2
        # As a terminal does: to the whole group.
        os.killpg(process.pid, signal.SIGINT)
        _, printed = process.communicate(timeout=PATIENCE)
    assert not any(map(is_running, children))
    # Nothing but the interruption of the pool itself.
    assert printed.count("Traceback") == 1 and printed.endswith("KeyboardInterrupt\n")


def test_a_killed_pool_leaves_no_process_behind_and_resumes(data: tuple[Path, int], tmp_path: Path) -> None:
    path, items = data
    runs = tmp_path / "runs"
    with pool(tmp_path, data, 20) as process:
        with pytest.raises(UserError, match="another process trains here"):
            train_all(path, [make_run(items)], runs)
        children = children_of(process.pid)
        assert children
    wait_for(lambda: not any(map(is_running, children)))
    (folder,) = runs.glob("sasrec-rpe-*")
    with (folder / "metrics.csv").open() as file:
        before = list(csv.DictReader(file))
    assert 0 < len(before) < 20
    config = ReaRecConfig(items, method="rpe", dim=8, ffn=8, layers=1, heads=1, max_len=8)
    run = Run(config, TrainingOptions(epochs=20, patience=20, batch_rows=64))
    assert folder.name == run.name and not run.folder(runs).finished

    assert train_all(path, [run], runs, threads=1).failed == {}
    assert run.folder(runs).result()["epochs"] == 20
    with (folder / "metrics.csv").open() as file:
        after = list(csv.DictReader(file))
    assert len(after) == 20 and after[: len(before)] == before


def test_a_training_whose_pool_is_gone_before_it_begins_ends_too(data: tuple[Path, int], tmp_path: Path) -> None:
    path, items = data
    run = make_run(items, epochs=10_000, patience=10_000)
    arguments = json.loads(arguments_of(run, path, tmp_path, "cpu", False))
    command = [
        sys.executable,
        "-c",
        program("rearec.experiments.train_run"),
        ":".join(sys.path),
        json.dumps({**arguments, "parent": 1}),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout) == (1, "") and "Traceback" not in ended.stderr
    assert run.folder(tmp_path).options_file.is_file() and not run.folder(tmp_path).finished
