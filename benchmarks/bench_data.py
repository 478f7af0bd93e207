"""Data of the end-to-end benchmarks: synthetic sets of real sets' shape, and the real sets where they are.

The shapes: users, items and mean length as in Table 1 of the paper or in the statistics of the set; lengths are skewed
and popularity falls by a power law (`rearec.data.synthetic.paper_shaped`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from rearec.data import SequenceDataset, prepare
from rearec.data.synthetic import paper_shaped

# Not part of the repository: public data, laid out as its README says.
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# name: (users, items, mean length)
SHAPES = {
    "Beauty-like": (22_363, 12_101, 8.9),
    "Video-Games-like": (89_021, 22_933, 6.0),
    "CDs-like": (35_238, 87_969, 14.6),
    "ml-100k-like": (943, 1_682, 106.0),
}
# name: (format, file)
REAL = {
    "Beauty 2014": ("lines", "amazon2014_beauty/Beauty.txt.gz"),
    "ml-100k": ("recbole", "ml-100k/ml-100k.inter.gz"),
}


@cache
def synthetic(name: str, tiny: bool = False) -> SequenceDataset:
    """The set of that shape, always the same one; tiny: so small that nothing can be measured with it."""
    users, items, mean_length = (80, 60, 9.0) if tiny else SHAPES[name]
    return paper_shaped(users, items, mean_length)


def real(name: str, out: Path) -> SequenceDataset | None:
    """The real set, prepared into `out`; None where it is not there."""
    form, file = REAL[name]
    if not (REAL_DATA / file).is_file():
        return None
    return prepare(form, [REAL_DATA / file], out, split="leave-one-out")


def histories(dataset: SequenceDataset, rows: int) -> list[list[int]]:
    """Test histories of `rows` users drawn at random, always the same ones: item ids, oldest first."""
    chosen = np.random.default_rng(0).choice(len(dataset.rows("test")), rows, replace=False)
    pairs = np.asarray(dataset.rows("test"))[chosen]
    return [dataset.history(int(sequence), int(position)).tolist() for sequence, position in pairs]
