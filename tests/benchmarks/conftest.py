"""A small task for the contenders of benchmarks/peers.py."""

from __future__ import annotations

from pathlib import Path

import peers
import pytest
from contenders.libraries.quality import gains_of_places
from contenders.libraries.task import Sequences, Sizes, Task

from rearec.data.synthetic import paper_shaped

SMALL = Sizes(dim=16, layers=1, heads=2, ffn=16, max_len=8, rows=64)


@pytest.fixture(scope="session")
def sequences() -> Sequences:
    return peers.sequences_of(paper_shaped(60, 80, 9.0))


@pytest.fixture
def task(sequences: Sequences, tmp_path: Path) -> Task:
    sequences.save(tmp_path / "sequences.npz")
    small = {"sizes": SMALL, "seconds": 0, "least_steps": 2, "single_requests": 2, "gains": gains_of_places()}
    return Task("ours", tmp_path / "sequences.npz", tmp_path, **small)  # type: ignore[arg-type]
