"""What options of a training can be chosen: as enumerations, so that no library is imported to list them.

The library checks the values again.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "Backbone",
    "Form",
    "Method",
    "NoisedPrefix",
    "Pairing",
    "Precision",
    "Schedule",
    "TrainingTask",
]


class Backbone(str, Enum):
    sasrec = "sasrec"
    bert4rec = "bert4rec"
    unisrec = "unisrec"
    morec = "morec"


class TrainingTask(str, Enum):
    next_item = "next-item"
    cloze = "cloze"


class Method(str, Enum):
    base = "base"
    naive = "naive"
    rpe = "rpe"
    erl = "erl"
    prl = "prl"


class Form(str, Enum):
    official = "official"
    paper = "paper"


class Pairing(str, Enum):
    shared = "shared"
    overlapping = "overlapping"
    separate = "separate"


class Precision(str, Enum):
    fp32 = "fp32"
    bf16 = "bf16"
    bf16x3 = "bf16x3"


class NoisedPrefix(str, Enum):
    shared = "shared"
    own = "own"


class Schedule(str, Enum):
    constant = "constant"
    cosine = "cosine"
    linear = "linear"
