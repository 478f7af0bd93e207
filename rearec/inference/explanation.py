"""What an explanation says: the ranking at every reasoning step, and what each item of the history adds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from rearec.inference.answers import listed, named
from rearec.report.notebook import html_table

__all__ = ["Explanation", "Influence", "Step"]

SHOWN = 5


@dataclass(frozen=True)
class Step:
    """The ranking by one state of the model.

    name: "step 0" (the state of the last item), "step 1", ..., "mean of the steps" where the model answers with that
        (as erl does), and "with the item graph" of a model with a prior: by the state before and what the graph adds.
        The last of an explanation's steps is the model's answer.
    items, scores: the best items by this state alone, best first; scores are comparable within one step only.
    titles: of each item, None where it has none; None where the catalogue has no titles.
    to_previous: cosine with the state before, None for the first.
    to_final: cosine with the state that answers.
    entropy: of the softmax of all items' scores over the temperature of the last step, in bits: 0 where one item takes
        all, log2(items) where the state knows nothing.

    Examples:
        >>> from rearec.inference import Step
        >>> Step("step 0", ["tea"], [1.5], None, to_previous=None, to_final=0.9, entropy=2.0).items
        ['tea']
    """

    name: str
    items: list[str]
    scores: list[float]
    titles: list[str | None] | None
    to_previous: float | None
    to_final: float
    entropy: float


@dataclass(frozen=True)
class Influence:
    """What one place of the history adds to the score of the explained item.

    item, title: which item stands there; title: None where there is none.
    drop: how much lower the item's score is without this place; below 0: higher. None for the only item of a history,
        without which there is no answer.
    by_step: the same by each of the explanation's steps, in their order.
    kept: how many of the answer's items are still among its best k without this place.
    linked: how much of ``Explanation.bonus`` comes from this place: the item graph's bonus shared out in proportion to
        the edges that make it, 0 where there is none. None for a model without a prior.

    Examples:
        >>> from rearec.inference import Influence
        >>> Influence("tea", None, drop=0.5, by_step=[0.25, 0.5], kept=4).drop
        0.5
    """

    item: str
    title: str | None
    drop: float | None
    by_step: list[float] | None
    kept: int | None
    linked: float | None = None


@dataclass(frozen=True, repr=False)
class Explanation:
    """How a model answers one history.

    history: a record for each place that the model reads, oldest first: at most its ``max_len``, or more where the
        item graph looks further back.
    unknown: ids that were skipped.
    item, title: the explained item, the answer's first unless another was asked for.
    score: of it.
    steps: the ranking by each state, the answer's last.
    bonus: how much of the score the item graph adds; None for a model without a prior.

    A place's influence is found by leaving it out: the history without it goes through the whole model again. Where
    the history is longer than the model reads, an older item moves up in its place.

    Examples:
        >>> import rearec
        >>> from rearec.models import ReaRecConfig
        >>> from rearec.run_folder import Catalog
        >>> model = rearec.ReaRec(ReaRecConfig(num_items=3, method="prl", steps=2, dim=8))
        >>> recommender = rearec.Recommender(model, Catalog(["tea", "rice", "salt"], popularity=[5, 9, 1]))
        >>> why = recommender.explain(["tea", "rice"], k=2)
        >>> [step.name for step in why.steps], [place.item for place in why.history]
        (['step 0', 'step 1', 'step 2'], ['tea', 'rice'])
        >>> why.item == recommender.recommend([["tea", "rice"]])[0].items[0]
        True
    """

    history: list[Influence]
    unknown: list[str]
    item: str
    title: str | None
    score: float
    steps: list[Step]
    bonus: float | None = None

    def __repr__(self) -> str:
        lines = [f"Explanation of {named(self.item, self.title)}, score {self.score:.4f}"]
        lines += [
            f"  {step.name} (cosine with the answer {step.to_final:.3f}): "
            f"{listed(step.items, step.scores, step.titles)}"
            for step in self.steps
        ]
        most = sorted(self.history, key=lambda place: -abs(place.drop or 0))[:SHOWN]
        shown = [f"{named(place.item, place.title)} {place.drop:+.4f}" for place in most if place.drop is not None]
        lines.append(f"  most influence: {', '.join(shown) or 'the only item of the history'}")
        if self.bonus is not None:
            linked = sorted((place for place in self.history if place.linked), key=lambda place: -(place.linked or 0))
            edges = ", ".join(f"{named(place.item, place.title)} {place.linked:+.4f}" for place in linked[:SHOWN])
            lines.append(
                f"  the item graph adds {self.bonus:.4f}: {edges or 'it links no item of the history with it'}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = zip_longest(*(_cells(step) for step in self.steps))
        linked = [] if self.bonus is None else ["by the item graph"]
        similarity: list[list[object]] = [
            ["cosine with the step before", *(step.to_previous for step in self.steps)],
            ["cosine with the answer", *(step.to_final for step in self.steps)],
            ["entropy, bits", *(step.entropy for step in self.steps)],
        ]
        return html_table(
            "ranking by step; the last one is the answer",
            ["", *(step.name for step in self.steps)],
            [*([rank, *cells] for rank, cells in enumerate(rows, 1)), *similarity],
        ) + html_table(
            f"how much lower the score of {named(self.item, self.title)}, {self.score:.4f}, is without each place of "
            f"the history (oldest first){'' if self.bonus is None else f'; the item graph adds {self.bonus:.4f}'}",
            ["place", "item", "title", "drop", "items of the answer kept", *linked],
            [
                [place, each.item, each.title or "", each.drop, each.kept, *([each.linked] if linked else [])]
                for place, each in enumerate(self.history, 1)
            ],
        )


def _cells(step: Step) -> list[str]:
    return [
        f"{named(item, title)} {score:.4f}"
        for item, title, score in zip(step.items, step.titles or [None] * len(step.items), step.scores, strict=True)
    ]
