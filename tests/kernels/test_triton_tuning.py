"""Which config of a Triton kernel is used: measured once, kept on disk, and never more than the device has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rearec_kernels import triton_support

if not triton_support.INSTALLED:
    pytest.skip("triton is not installed", allow_module_level=True)

import triton

from rearec_kernels.environment import SWITCHES
from rearec_kernels.triton import tuning
from rearec_kernels.triton.launch import Config, config, parts

SLOW, FAST, TOO_LARGE, SMALL = (config(4, 2, ROWS=rows) for rows in (32, 64, 128, 16))
TIMES = {SLOW: 2.0, FAST: 1.0, SMALL: 3.0}
CUDA = torch.device("cuda", 0)
Run = Callable[[Config], Config]


def run(chosen: Config) -> Config:
    if chosen == TOO_LARGE:
        raise tuning.OutOfResources(300_000, 232_448, "shared memory")
    return chosen


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The times taken so far by a clock that knows them; the cache is empty, the device a GPU."""
    taken: list[float] = []

    def do_bench(call: Callable[[], Config], **_: float) -> float:
        taken.append(TIMES[call()])
        return taken[-1]

    monkeypatch.setattr(triton.testing, "do_bench", do_bench)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(tuning, "architecture", lambda device: 90)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    monkeypatch.setattr(tuning, "_chosen", {})
    monkeypatch.setitem(SWITCHES, "REAREC_TRITON_AUTOTUNE", True)
    tuning._device_name.cache_clear()
    return taken


def best(candidates: tuple[Config, ...] = (SLOW, TOO_LARGE, FAST, SMALL), device: torch.device = CUDA) -> Config:
    return tuning.run_best("kernel", ("bf16", 256), candidates, device, run)


def test_the_fastest_is_measured_once_and_kept_on_disk(
    measured: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert best() == FAST and measured == [2.0, 1.0, 3.0]
    assert best() == FAST and len(measured) == 3
    monkeypatch.setattr(tuning, "_chosen", {})  # as in a new process
    assert best() == FAST and len(measured) == 3
    assert best((SLOW, SMALL)) == SLOW and len(measured) == 5  # other candidates are another question
    assert all(path.suffix == ".json" for path in (tmp_path / "rearec").iterdir())


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"key": "another", "chosen": 1}), '{"chosen": 99}'])
def test_a_damaged_file_is_measured_again(
    text: str, measured: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    best()
    (path,) = (tmp_path / "rearec").iterdir()
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(tuning, "_chosen", {})
    assert best() == FAST and len(measured) == 6


def test_a_cache_that_cannot_be_written_is_no_error(measured: list[float], tmp_path: Path) -> None:
    (tmp_path / "rearec").touch()
    assert best() == FAST


def test_switched_off_it_takes_the_first_that_fits(measured: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SWITCHES, "REAREC_TRITON_AUTOTUNE", False)
    assert best() == SLOW
    assert best((TOO_LARGE, SMALL)) == SMALL
    assert measured == []


def test_nothing_is_timed_while_a_graph_is_captured(measured: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert best() == SLOW and measured == []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert best() == FAST


def test_nothing_is_timed_where_some_configs_compile_to_nothing(
    measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "architecture", lambda device: 100)
    assert best() == SLOW and measured == []


def test_nothing_is_timed_on_a_cpu(measured: list[float]) -> None:
    assert best(device=torch.device("cpu")) == SLOW and measured == []


def test_problems_of_one_magnitude_are_tuned_together() -> None:
    assert len({tuning.magnitude(count) for count in range(1025, 4096)}) <= 2
    assert tuning.magnitude(22_933) < tuning.magnitude(1_000_000)
    assert tuning.magnitude(0) == tuning.magnitude(1)


@pytest.mark.parametrize(("tiles", "work"), [(1, 1), (1, 100), (48, 700), (132, 700), (0, 5), (1000, 3)])
def test_work_is_split_where_multiprocessors_would_be_idle(
    tiles: int, work: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rearec_kernels.triton import launch

    monkeypatch.setattr(launch, "multiprocessors", lambda device: 132)
    count = parts(tiles, work, CUDA)
    assert 1 <= count <= min(8, work)
    if tiles >= 132:
        assert count == 1
    if tiles == 48:
        assert -(-tiles * count // 132) / count < 0.7 * 1.0  # waves of blocks, each of a `count`th of the work
