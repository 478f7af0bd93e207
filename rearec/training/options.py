"""How to train: every setting of a training that is not the model's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from rearec.data.words import PAIRINGS, Pairing

__all__ = ["PRECISIONS", "SCHEDULES", "TrainingOptions"]

SCHEDULES = ("constant", "cosine", "linear")
PRECISIONS = ("fp32", "bf16", "bf16x3")


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; every value is checked when the object is made, a wrong one raises ValueError naming it.

    epochs: at most so many. patience: stop after so many epochs without a better validation NDCG@20.
    batch_rows: predictions per batch. pairing: ``shared`` encodes a user's history once for all its rows, ``separate``
        once per row (same numbers without dropout, several times slower). A row that needs more than ``max_len`` items
        is encoded by itself by both; ``overlapping`` lets such rows share encodings, each of them seeing between half
        and all of its last ``max_len`` items, which is several times faster where histories are long.
    lr, weight_decay: of Adam (decay as an L2 term). encoder_lr: that of what comes trained already, a text encoder;
        None: a twentieth of lr. clip: largest gradient norm, 0 for no limit.
    schedule: ``constant``, ``cosine`` or ``linear`` (both fall to 0 at the last epoch) after ``lr_warmup`` steps of
        linear rise.
    precision: of the losses, which are most of the work: ``fp32``, ``bf16`` (operands rounded to bfloat16, sums
        float32), or on CPUs ``bf16x3`` (nearly float32, fast where there is AMX). Under ``bf16`` all the rest runs in
        autocast on a GPU; on a CPU, where that is slower, it stays float32. The weights are float32.
    exclude_seen: whether validation ranks among the items that are not in a row's history; None: as the data says
        (`rearec.evaluation.seen_items`).
    seed: of the initial weights and of every epoch.
    """

    epochs: int = 200
    patience: int = 10
    batch_rows: int = 2048
    pairing: Pairing = "shared"
    lr: float = 1e-3
    encoder_lr: float | None = None
    weight_decay: float = 0.0
    clip: float = 0.0
    schedule: str = "constant"
    lr_warmup: int = 0
    precision: str = "fp32"
    exclude_seen: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_rows"):
            self._check(name, self._is(Integral, name) and getattr(self, name) >= 1, "an integer, 1 or more")
        self._check("lr_warmup", self._is(Integral, "lr_warmup") and self.lr_warmup >= 0, "an integer, 0 or more")
        self._check("seed", self._is(Integral, "seed") and 0 <= self.seed < 2**63, "an integer in [0, 2**63)")
        self._check("lr", self._is(Real, "lr") and 0 < self.lr < math.inf, "a finite number above 0")
        if self.encoder_lr is not None:
            valid = self._is(Real, "encoder_lr") and 0 < self.encoder_lr < math.inf
            self._check("encoder_lr", valid, "a finite number above 0")
        for name in ("weight_decay", "clip"):
            valid = self._is(Real, name) and 0 <= getattr(self, name) < math.inf
            self._check(name, valid, "a finite number, 0 or more")
        self._check("exclude_seen", isinstance(self.exclude_seen, bool | None), "True, False or None")
        for name, choices in (("pairing", PAIRINGS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            self._check(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")

    def _is(self, kind: type, name: str) -> bool:
        value = getattr(self, name)
        return isinstance(value, kind) and not isinstance(value, bool)

    def _check(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise ValueError(f"{name}: got {getattr(self, name)!r}, expected {expected}")
