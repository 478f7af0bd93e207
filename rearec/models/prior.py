"""What a model's scores gain from the item graph: a bonus for the items that are linked with the last of a history.

The score of item i is ``h . w_i + temperature * weight * log(1 + s_i / scale)``, where s_i is the sum of the graph's
weights from the history's last items to i, each place back counting ``decay`` times less. As a product of experts: the
model's probability times a power of the graph's. Items that the graph does not link keep their score, all bonuses are
above 0; so only few items move. How little the graph says of rarely seen items its shrinkage decides.

Pairwise rules alone are strong (Petrov et al., arXiv 2608.19833); a graph as the prior of latent reasoning is
ManCAR's idea (arXiv 2602.20093), which trains with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.item_graph import ItemGraph, RowScores
from rearec.errors import UserError, in_one_line
from rearec.fields import checked_values, documented, setting
from rearec.models.config import ReaRecConfig

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset

__all__ = ["GraphPrior", "PriorSettings", "unit_bonus"]

FloatArray = NDArray[np.float64]


@documented
@dataclass(frozen=True)
class PriorSettings:
    """The numbers of a `GraphPrior`; a wrong value raises ValueError naming it.

    Examples:
        >>> from rearec.models.prior import PriorSettings
        >>> PriorSettings(weight=1.5).last
        20
    """

    last: int = setting("Items of the history that count.", default=20, at_least=1)
    decay: float = setting("What a place further back counts less.", default=0.85, above=0)
    scale: float = setting("Of the graph's scores.", default=0.01, above=0)
    weight: float = setting("Of the bonus, beside the model's logits.", default=1.0, at_least=0)

    def __post_init__(self) -> None:
        for name, value in checked_values(self).items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class GraphPrior:
    """An item graph and how much it adds to the scores of one model.

    Attributes:
        graph: of the data that the model was trained on.
        settings: fitted on validation rows (`rearec.training.fit_prior`).
        method, steps, temperature: of the model that it was fitted for.
        fit: what the fit found: metrics on the validation rows, without and with the prior.

    Examples:
        >>> import numpy as np
        >>> from rearec.data import ItemGraph
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.models.prior import GraphPrior, PriorSettings
        >>> graph = ItemGraph.of(generate(0, planted=Planted(users=50)))
        >>> prior = GraphPrior(graph, PriorSettings(weight=0.5), method="prl", steps=2, temperature=0.07)
        >>> bonus = prior.bonus(np.array([0, 2]), np.array([3, 1]))
        >>> len(bonus.offsets), bool((bonus.scores > 0).all())
        (2, True)
    """

    graph: ItemGraph
    settings: PriorSettings
    method: str
    steps: int
    temperature: float
    fit: Mapping[str, Any] = field(default_factory=dict)

    def bonus(self, offsets: NDArray[np.int64], items: NDArray[np.int64]) -> RowScores:
        """What is added to the scores of each history's items.

        offsets: int64 [R + 1]; items: the histories one after the other, oldest first.
        """
        settings = self.settings
        found = self.graph.scores(offsets, items, last=settings.last, decay=settings.decay)
        added = settings.weight * unit_bonus(found.scores, self.temperature, settings.scale)
        return RowScores(found.offsets, found.items, added)

    def serves(self, steps: int) -> bool:
        """Whether it was fitted for answers after so many reasoning steps."""
        return steps == self.steps

    def left_out(self, steps: int) -> str:
        """The line for whoever answers after other steps than it was fitted for."""
        return f"answered without the graph prior: it was fitted for {_steps(self.steps)}, not {steps}"

    def counted_in(self, dataset: SequenceDataset) -> GraphPrior:
        """The same numbers with a graph that is counted in another dataset of the same items (a refit's)."""
        return replace(self, graph=ItemGraph.of(dataset, self.graph.options))

    def check(self, config: ReaRecConfig, source: str | Path = "prior") -> None:
        """UserError naming ``source`` where it was not fitted for a model of this configuration."""
        for name, got, expected in (
            ("items", self.graph.num_items, config.num_items),
            ("method", self.method, config.method),
            ("steps", self.steps, config.steps),
            ("temperature", self.temperature, config.temperature),
        ):
            if got != expected:
                raise UserError(f"{source}: a graph prior for another model: {name} {got}, expected {expected}")

    @classmethod
    def load(cls, path: str | Path) -> GraphPrior:
        """What `save` wrote, memory-mapped. UserError where there is no such file, or it is damaged."""
        graph, noted = ItemGraph.load(path)
        try:
            settings = PriorSettings(**noted.pop("settings"))
            noted = {"temperature": float(noted.pop("temperature")), "fit": dict(noted.pop("fit")), **noted}
            return cls(graph, settings, **noted)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged: no prior of a model ({in_one_line(error)})") from error

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file. UserError where it cannot be written."""
        noted = {name: value for name, value in vars(self).items() if name not in ("graph", "settings")}
        self.graph.save(path, {"settings": asdict(self.settings), **noted})


def unit_bonus(scores: FloatArray, temperature: float, scale: float) -> FloatArray:
    """What the graph's scores, of any shape, add to the model's with weight 1."""
    added: FloatArray = temperature * np.log1p(scores / scale)
    return added


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"
