"""The benchmark of the start of a training: its datasets are prepared ones, and what it measures is of the command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import big_table
import numpy as np
import pytest
import training_start

from rearec.data import load_dataset, save_dataset

SHAPE = big_table.Shape(interactions=20_000, users=400, items=150)


def test_what_is_written_is_a_prepared_dataset(tmp_path: Path) -> None:
    save_dataset(training_start.generate(SHAPE), tmp_path / "data")
    dataset = load_dataset(tmp_path / "data")
    assert abs(dataset.num_interactions - SHAPE.interactions) < 1000 and dataset.num_items == SHAPE.items
    length = np.diff(dataset.offsets)
    assert length.max() > 5 * length.mean()  # few users have many
    counts = np.bincount(dataset.items, minlength=dataset.num_items)
    assert counts[0] > 0.1 * len(dataset.items)  # a tenth and more are of the first item
    held_out = np.flatnonzero(length >= 3)
    assert dataset.rows("test").tolist() == np.stack([held_out, length[held_out] - 1], axis=1).tolist()
    assert dataset.rows("valid").tolist() == np.stack([held_out, length[held_out] - 2], axis=1).tolist()
    assert len(dataset.rows("train")) == np.where(length >= 3, length - 3, length - 1).sum()


@pytest.mark.skipif(sys.platform != "linux", reason="memory from /proc")
def test_a_start_is_measured(tmp_path: Path) -> None:
    options = argparse.Namespace(steps=2, options=training_start.OPTIONS)
    found = training_start.measure(SHAPE, tmp_path, options)
    assert found["steps"] == 2 and found["batches"] >= found["training_rows"] / 512
    assert 0 < found["own_mb"] < found["peak_mb"] and found["cpu_s"] > 0 and found["wall_s"] > 0
    assert not list(tmp_path.iterdir())
