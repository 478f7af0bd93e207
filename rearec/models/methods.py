"""The paper's methods, and what a model has to know of the one that trains it; no torch is needed to tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["METHODS", "TRAITS", "Method", "Readout", "Traits"]

Method = Literal["base", "naive", "rpe", "erl", "prl"]
METHODS: tuple[Method, ...] = get_args(Method)
Readout = Literal["last", "mean"]


@dataclass(frozen=True)
class Traits:
    """What a model has to know of a method; how it is trained, `rearec.objectives` knows.

    help: a line about it.
    readout: the state that ranks items: the last one, or the mean of all.
    positions: whether reasoning tokens get a position embedding of their own.
    reasons: whether there are steps at all.
    most_steps: a limit of its kernel, None where there is none.
    """

    help: str = ""
    readout: Readout = "last"
    positions: bool = True
    reasons: bool = True
    most_steps: int | None = None


TRAITS: Mapping[str, Traits] = {
    "base": Traits("no reasoning, steps becomes 0", positions=False, reasons=False),
    "naive": Traits("feeds the state back as it is, trained on the last state only", positions=False),
    "rpe": Traits("adds reasoning position embeddings, trained on the last state only"),
    # The ensemble loss takes 64 states; h_0 is one of them.
    "erl": Traits("ensemble reasoning learning (section 3.3)", readout="mean", most_steps=63),
    "prl": Traits("progressive reasoning learning (section 3.4)"),
}
