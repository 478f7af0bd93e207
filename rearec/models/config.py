"""The configuration of a ReaRec model: everything that config.json holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

__all__ = [
    "BACKBONES",
    "ID_BACKBONES",
    "KL_FORMS",
    "METHODS",
    "NOISED_PREFIXES",
    "OWN_BACKBONE",
    "STEP_WEIGHTS",
    "TEXT_BACKBONES",
    "ReaRecConfig",
]

ID_BACKBONES = ("sasrec", "bert4rec")
TEXT_BACKBONES = ("unisrec", "morec")
BACKBONES = (*ID_BACKBONES, *TEXT_BACKBONES)
# A backbone of the user's own, see `rearec.models.backbone`.
OWN_BACKBONE = "own"
METHODS = ("base", "naive", "rpe", "erl", "prl")
KL_FORMS = ("official", "paper")
STEP_WEIGHTS = ("official", "paper")
NOISED_PREFIXES = ("shared", "own")
# Limits of the kernels: the width of an attention head, and the states of the ensemble loss (h_0 is one of them).
MOST_HEAD_WIDTH = 1024
MOST_ENSEMBLE_STEPS = 63


@dataclass(frozen=True)
class ReaRecConfig:
    """Shape, method and objective of a model. The defaults are the paper's size and the official code's settings.

    Every value is checked when the object is made; a wrong one raises ValueError naming the field, what it got and
    what is expected. Integers are accepted where a float is expected.

    num_items: catalogue size N; item ids are 0..N-1.
    backbone: how histories are encoded, one of ``BACKBONES``, or ``own`` for an encoder of one's own.
    method: ``base`` (no reasoning; steps becomes 0), ``naive`` (feeds the state back as it is), ``rpe`` (adds reasoning
        position embeddings), both trained on the last state only, ``erl`` (ensemble reasoning learning, section 3.3),
        ``prl`` (progressive reasoning learning, section 3.4).
    steps: reasoning steps K the model is trained for; 0 makes every method equal to ``base``.
    dim, ffn, layers, heads: model width d, inner width of the feed-forward layer, Transformer layers, attention heads.
    max_len: longest history, in items, that the model sees at once.
    dropout: on attention probabilities and on the output of every sublayer. input_dropout: on the input of the first
        layer, items and reasoning tokens alike.
    temperature: τ of the softmax, in training and at inference. alpha: PRL's annealing factor, τ_t = τ·α^(K-t).
    kl_weight, kl_form: λ of ERL's diversity term and its form (``official``: mean over ordered pairs, gradient stopped
        on one side; ``paper``: sum over i < j).
    step_weights: PRL's cross-entropy weights. ``official``: 1 for the last state, pl_weight / K for each other;
        ``paper``: 1 for every state.
    cl_weight, noise, warmup: weight of PRL's contrastive term, standard deviation γ of its noise, and the epochs before
        it is switched on.
    noised_prefix: what the noised branch's steps attend to: the encoding of the clean branch (``shared``), or one of
        their ``own``, which differs from it by its dropout masks alone and costs a second pass over the windows.
    feature_dim: width of the items' features, for the backbones that read texts; 0 for the others.
    adaptor_dropout: dropout within what makes item vectors of features.
    experts, transductive: UniSRec's number of whitenings, and whether it adds embeddings of item ids.
    adaptor_layers: MoRec's layers after the first one.
    """

    num_items: int
    backbone: str = "sasrec"
    method: str = "prl"
    steps: int = 2
    dim: int = 256
    ffn: int = 300
    layers: int = 2
    heads: int = 2
    max_len: int = 50
    dropout: float = 0.5
    input_dropout: float = 0.2
    temperature: float = 0.07
    alpha: float = 5.0
    kl_weight: float = 0.05
    kl_form: str = "official"
    step_weights: str = "official"
    pl_weight: float = 1.0
    cl_weight: float = 1.0
    noise: float = 0.01
    warmup: int = 2
    noised_prefix: str = "shared"
    feature_dim: int = 0
    adaptor_dropout: float = 0.2
    experts: int = 8
    transductive: bool = False
    adaptor_layers: int = 1

    def __post_init__(self) -> None:
        self._choose("backbone", (*BACKBONES, OWN_BACKBONE))
        self._choose("method", METHODS)
        self._choose("kl_form", KL_FORMS)
        self._choose("step_weights", STEP_WEIGHTS)
        self._choose("noised_prefix", NOISED_PREFIXES)
        for name in ("num_items", "dim", "ffn", "layers", "heads", "max_len", "experts"):
            self._integer(name, least=1)
        for name in ("steps", "warmup", "feature_dim", "adaptor_layers"):
            self._integer(name, least=0)
        for name in ("dropout", "input_dropout", "adaptor_dropout"):
            self._number(name, "a number in [0, 1)", lambda value: 0 <= value < 1)
        for name in ("temperature", "alpha"):
            self._number(name, "a finite number above 0", lambda value: 0 < value < math.inf)
        for name in ("kl_weight", "pl_weight", "cl_weight", "noise"):
            self._number(name, "a finite number, 0 or more", lambda value: 0 <= value < math.inf)
        if not isinstance(self.transductive, bool):
            raise ValueError(f"transductive: got {self.transductive!r}, expected true or false")
        if self.reads_features != (self.feature_dim > 0) and self.backbone != OWN_BACKBONE:
            expected = "the width of the items' features" if self.reads_features else "0: it reads no features"
            raise ValueError(f"feature_dim: got {self.feature_dim} for {self.backbone}, expected {expected}")
        if self.dim % self.heads:
            raise ValueError(f"dim: got {self.dim}, expected a multiple of heads ({self.heads})")
        if self.dim > MOST_HEAD_WIDTH * self.heads:
            raise ValueError(
                f"dim: got {self.dim}, expected at most {MOST_HEAD_WIDTH * self.heads}: "
                f"{MOST_HEAD_WIDTH} for each of the heads ({self.heads})"
            )
        if self.method == "base":
            object.__setattr__(self, "steps", 0)
        if self.method == "erl" and self.steps > MOST_ENSEMBLE_STEPS:
            raise ValueError(f"steps: got {self.steps}, expected at most {MOST_ENSEMBLE_STEPS} with the method erl")

    @property
    def reads_features(self) -> bool:
        """Whether item vectors are made of features of their texts."""
        return self.backbone in TEXT_BACKBONES

    @property
    def has_reasoning_positions(self) -> bool:
        """Whether reasoning tokens get a position embedding of their own."""
        return self.method in ("rpe", "erl", "prl") and self.steps > 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReaRecConfig:
        """The configuration that `dataclasses.asdict` wrote; fields that are missing take their default.

        Raises ValueError for a field this version does not know, for a missing ``num_items`` and for wrong values.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"{name}: not a field of a ReaRec configuration, expected one of {', '.join(known)}")
        if "num_items" not in values:
            raise ValueError("num_items: missing, expected the number of items in the catalogue")
        return cls(**values)

    def _choose(self, name: str, choices: Collection[str]) -> None:
        value = getattr(self, name)
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(choices)}")

    def _integer(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) < 2**31:
            raise ValueError(f"{name}: got {value!r}, expected an integer in [{least}, 2**31)")
        object.__setattr__(self, name, int(value))

    def _number(self, name: str, expected: str, accepts: Callable[[float], bool]) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Real) or not accepts(float(value)):
            raise ValueError(f"{name}: got {value!r}, expected {expected}")
        object.__setattr__(self, name, float(value))
