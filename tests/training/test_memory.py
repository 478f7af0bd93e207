"""Memory of a training: free memory goes back to the system, epoch by epoch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rearec.data import load_dataset
from rearec.training import fitting_config, train
from rearec.training import recorder as checkpointing
from rearec.training.module import TrainingOptions

GAPS = """
import torch
from rearec.training.memory import return_free_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

del_me = torch.ones(7 << 20)  # from here on glibc takes blocks of up to 28 MB from its heap
del del_me
before = resident()
blocks, pins = [], []
for _ in range(500):
    blocks.append(torch.ones(100_000))
    pins.append(torch.ones(200))
peak = resident()
del blocks
kept = resident()
return_free_memory()
print(before, peak, kept, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_gaps_between_what_lives_on_go_back_to_the_system() -> None:
    out = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, timeout=60, check=True).stdout
    before, peak, kept, after = map(float, out.split())
    assert peak - before > 180  # MB: the blocks were there
    if kept - before < 90:
        pytest.skip("this C library gives gaps back by itself")
    assert after - before < 20


def test_every_epoch_ends_with_it(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(checkpointing, "return_free_memory", lambda: calls.append("memory"))
    data = load_dataset(prepared)
    config = fitting_config(data, method="base", steps=0, dim=8, ffn=8, layers=1, heads=1, max_len=8)
    options = TrainingOptions(epochs=3, patience=3)
    train(data, tmp_path / "run", config, options, on_epoch=lambda row: calls.append("epoch"))
    assert calls == ["memory", "epoch"] * 3
