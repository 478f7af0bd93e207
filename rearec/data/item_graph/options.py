"""How an item graph is counted (`rearec.data.item_graph.graph` says what the kinds are)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rearec.fields import checked_values, documented, setting

__all__ = ["GraphOptions"]

GraphKind = Literal["transitions", "cooccurrence", "swing"]


@documented
@dataclass(frozen=True)
class GraphOptions:
    """How an `ItemGraph` is counted; a wrong value raises ValueError naming it.

    Examples:
        >>> from rearec.data.item_graph import GraphOptions
        >>> GraphOptions(window=1, reverse=0.0).decay
        0.6
        >>> GraphOptions(window=0)
        Traceback (most recent call last):
        ValueError: window: got 0, expected an integer, 1 or more
    """

    kind: GraphKind = setting("What counts as an edge.", default="transitions")
    window: int = setting("Places from one item to the other at most; swing has no such limit.", default=4, at_least=1)
    decay: float = setting("Of the weight, for each place more.", default=0.6, above=0)
    reverse: float = setting("Share at which a transition counts backwards.", default=0.5, at_least=0)
    shrinkage: float = setting("Added to the sum of an item's transitions.", default=1.0, at_least=0)
    popularity: float = setting("Exponent of the popularity that weights are divided by.", default=0.3, at_least=0)
    neighbors: int = setting("Kept of each item.", default=100, at_least=1)

    def __post_init__(self) -> None:
        for name, value in checked_values(self).items():
            object.__setattr__(self, name, value)
        for name in ("decay", "reverse"):
            if (value := getattr(self, name)) > 1:
                raise ValueError(f"{name}: got {value}, expected a number of at most 1")
