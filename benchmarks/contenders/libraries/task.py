"""What every contender is given: the same sequences, the same sizes, the same budget."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Split = Literal["valid", "test"]
BACK: dict[Split, int] = {"valid": 2, "test": 1}  # how far from a sequence's end its target is


@dataclass(frozen=True, eq=False)
class Sequences:
    """Users' items in time order, leave-one-out: the last one is the test target, the one before it validation's.

    items: int64 [total], one sequence after the other; ids are 0..num_items-1. offsets: int64 [users + 1].
    """

    items: IntArray
    offsets: IntArray
    num_items: int

    def __post_init__(self) -> None:
        if len(self.offsets) < 2 or int(np.diff(self.offsets).min()) < 3:
            raise ValueError("sequences: expected at least one, each of 3 items or more")

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def train_targets(self) -> int:
        """Predictions of an epoch: every training item that has a history."""
        return len(self.items) - 3 * self.num_users

    def training(self, user: int) -> IntArray:
        """What may be learnt from."""
        return self.items[self.offsets[user] : self.offsets[user + 1] - 2]

    def history(self, user: int, split: Split = "test") -> IntArray:
        """What precedes the target of a split: before the test target, the validation item too."""
        return self.items[self.offsets[user] : self.offsets[user + 1] - BACK[split]]

    def targets(self, split: Split = "test") -> IntArray:
        """int64 [users]"""
        return self.items[self.offsets[1:] - BACK[split]]

    def some(self, users: int, seed: int = 0) -> Sequences:
        """The sequences of so many users drawn at random, over the items that occur in them."""
        chosen = np.sort(np.random.default_rng(seed).choice(self.num_users, min(users, self.num_users), replace=False))
        parts = [self.items[self.offsets[user] : self.offsets[user + 1]] for user in chosen]
        kept, items = np.unique(np.concatenate(parts), return_inverse=True)
        offsets = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
        return Sequences(items.astype(np.int64), offsets.astype(np.int64), len(kept))

    def save(self, path: Path) -> None:
        np.savez(path, items=self.items, offsets=self.offsets, num_items=self.num_items)

    @classmethod
    def load(cls, path: Path) -> Sequences:
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["items"], arrays["offsets"], int(arrays["num_items"]))


@dataclass(frozen=True)
class Sizes:
    """The model and its training, as far as every library lets one choose; the rest is each library's default.

    rows: of a batch. users: of a batch, None for as many as have about so many rows.
    """

    dim: int = 64
    layers: int = 2
    heads: int = 2
    ffn: int = 256
    max_len: int = 50
    lr: float = 1e-3
    rows: int = 768
    users: int | None = None
    seed: int = 0

    def batch_users(self, sequences: Sequences) -> int:
        """Users of a batch, for the libraries that count so: the power of two (RePlay wants one) nearest to `rows`.

        Fewer where there are few users: an epoch has eight batches at least.
        """
        if self.users is not None:
            return self.users
        wanted = round(math.log2(self.rows / self._rows_of_a_user(sequences)))
        most = math.floor(math.log2(max(1.0, sequences.num_users / 8)))
        return 2 ** max(0, min(wanted, most))

    def batch_rows(self, sequences: Sequences) -> int:
        """The predictions that so many users have, for the libraries that count batches so."""
        return round(self.batch_users(sequences) * self._rows_of_a_user(sequences))

    def _rows_of_a_user(self, sequences: Sequences) -> float:
        """On average; of long histories some libraries learn the last `max_len` items alone."""
        return max(1.0, float(np.minimum(np.diff(sequences.offsets) - 3, self.max_len).mean()))


@dataclass(frozen=True)
class Task:
    """What one process does.

    contender: the module of this package that does it, with its options. sequences: file of the data. folder: to write
    in. epochs: 0 measures speed, another number trains so many at most and writes lists.
    patience, cpu_seconds: of a training for quality: epochs without a better validation, processor seconds of training
    after which no further epoch begins (None: no limit).
    seconds, least_steps, skipped_steps: of a speed measurement: processor seconds of training and steps at least, after
    so many that do not count. answered_users: in one call; single_requests: calls for one user. top: items of an
    answer. gains: what a target adds to the metric that chooses the best epoch, by its place in such a list.
    """

    contender: str
    sequences: Path
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    sizes: Sizes = Sizes()
    epochs: int = 0
    patience: int = 10
    cpu_seconds: float | None = None
    seconds: float = 8.0
    least_steps: int = 3
    skipped_steps: int = 3
    answered_users: int = 4096
    single_requests: int = 30
    top: int = 20
    gains: tuple[float, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Task:
        values = json.loads(text)
        paths = {name: Path(values.pop(name)) for name in ("sequences", "folder")}
        gains = tuple(values.pop("gains"))
        return cls(sizes=Sizes(**values.pop("sizes")), gains=gains, **paths, **values)
