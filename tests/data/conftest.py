"""What the data tests share: datasets decoded back to tokens, source files written from Python values."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from rearec.data import SequenceDataset

Rows = list[tuple[str, tuple[str, ...], str]]


def decode_rows(dataset: SequenceDataset, split: str) -> Rows:
    """(user, history, target) of each row of a split, as tokens."""
    result = []
    for sequence, position in dataset.rows(split).tolist():  # type: ignore[arg-type]
        items = [dataset.item_ids[item] for item in dataset.sequence(sequence)]
        user = dataset.user_ids[dataset.sequence_user[sequence]]
        result.append((user, tuple(items[:position]), items[position]))
    return result


@pytest.fixture
def rows_of() -> Callable[[SequenceDataset, str], Rows]:
    """The rows of a split as (user, history, target) tokens."""
    return decode_rows


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file of the test's folder, gzipped if its name ends in .gz."""

    def write_file(name: str, content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write_file
