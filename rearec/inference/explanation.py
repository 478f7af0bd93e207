"""How a model comes to an answer: its ranking at every reasoning step, and what each item of the history adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from rearec.data.batches import collate_histories
from rearec.engine import Engine
from rearec.inference.answers import listed, named
from rearec.reasoning import ReaRec
from rearec.report.notebook import html_table
from rearec.run_folder import Catalog
from rearec_kernels import catalog_topk

__all__ = ["Explanation", "Influence", "Step", "explain", "named_states"]

SHOWN = 5


@dataclass(frozen=True)
class Step:
    """The ranking by one state of the model.

    name: "step 0" (the state of the last item), "step 1", ..., and "mean of the steps" where the model answers with
        that (as erl does). The last of an explanation's steps is the model's answer.
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


@dataclass(frozen=True, repr=False)
class Explanation:
    """How a model answers one history.

    history: a record for each place that the model reads, oldest first: at most its ``max_len``.
    unknown: ids that were skipped.
    item, title: the explained item, the answer's first unless another was asked for.
    score: of it.
    steps: the ranking by each state, the answer's last.

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
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = zip_longest(*(_cells(step) for step in self.steps))
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
            "the history (oldest first)",
            ["place", "item", "title", "drop", "items of the answer kept"],
            [[place, each.item, each.title or "", each.drop, each.kept] for place, each in enumerate(self.history, 1)],
        )


def named_states(model: ReaRec, states: Tensor) -> tuple[list[str], Tensor]:
    """The states [R, T, d] that rank items, with their names; the last one is the model's answer.

    Beside those of the steps that is their mean where the model answers with it, as erl does.
    """
    names = [f"step {step}" for step in range(states.shape[1])]
    final = model.final_state(states)
    if torch.equal(final, states[:, -1]):
        return names, states
    return [*names, "mean of the steps"], torch.cat([states, final[:, None]], dim=1)


def explain(
    engine: Engine,
    catalog: Catalog,
    history: Sequence[int],
    unknown: list[str],
    k: int,
    target: int | None,
    seen: Sequence[int],
    batch_rows: int,
) -> Explanation:
    """The explanation of the answer to one history of known items, by number.

    target: the item whose score is explained; None for the answer's first.
    seen: items that no ranking holds.
    """
    read = min(len(history), engine.model.config.max_len)
    without = [[*history[:place], *history[place + 1 :]] for place in range(len(history) - read, len(history))]
    without = [rest for rest in without if rest]
    barred = torch.tensor(sorted(set(seen)), dtype=torch.int64, device=engine.device)
    exclude = barred if len(barred) else None
    k = min(k, engine.model.config.num_items)
    with torch.inference_mode():
        names, states = _states(engine, [history])
        top_scores, top = catalog_topk(states[0], engine.catalog, k, exclude=exclude)
        if target is None:
            # where all items are seen, there is no first one: explain the last item of the history
            target = int(top[-1, 0]) if int(top[-1, 0]) >= 0 else history[-1]
        weight = engine.weight[target].float()
        score = states[0].float() @ weight
        drops: list[list[float]] = []
        kept: list[int] = []
        for begin in range(0, len(without), batch_rows):
            _, left = _states(engine, without[begin : begin + batch_rows])
            drops += (score - left.float() @ weight).tolist()
            still = catalog_topk(left[:, -1], engine.catalog, k, exclude=exclude)[1]
            kept += ((still[:, :, None] == top[-1]) & (still[:, :, None] >= 0)).any(1).sum(1).tolist()
        places = [
            Influence(
                *_named(catalog, history[len(history) - read + place]),
                drop=drops[place][-1] if drops else None,
                by_step=drops[place] if drops else None,
                kept=kept[place] if drops else None,
            )
            for place in range(read)
        ]
        cosine = torch.nn.functional.cosine_similarity
        final = states[0].float()
        to_final = cosine(final, final[-1:], dim=1).tolist()
        to_previous = [None, *cosine(final[1:], final[:-1], dim=1).tolist()]
        entropy = _entropy(engine, states[0]).tolist()
    steps = []
    for step, name in enumerate(names):
        items = [item for item in top[step].tolist() if item >= 0]
        steps.append(
            Step(
                name,
                [catalog.item_ids[item] for item in items],
                top_scores[step, : len(items)].tolist(),
                None if catalog.titles is None else [catalog.titles[item] for item in items],
                to_previous[step],
                to_final[step],
                entropy[step],
            )
        )
    item, title = _named(catalog, target)
    return Explanation(places, unknown, item, title, float(score[-1]), steps)


def _states(engine: Engine, histories: Sequence[Sequence[int]]) -> tuple[list[str], Tensor]:
    batch = collate_histories([np.array(history) for history in histories], engine.model.config.max_len)
    return named_states(engine.model, engine(batch).states)


def _entropy(engine: Engine, states: Tensor) -> Tensor:
    """[T], in bits."""
    log = torch.log_softmax(states.float() @ engine.weight.float().T / engine.model.config.temperature, dim=1)
    return -(log.exp() * log).sum(1) / math.log(2)


def _named(catalog: Catalog, item: int) -> tuple[str, str | None]:
    return catalog.item_ids[item], None if catalog.titles is None else catalog.titles[item]


def _cells(step: Step) -> list[str]:
    return [
        f"{named(item, title)} {score:.4f}"
        for item, title, score in zip(step.items, step.titles or [None] * len(step.items), step.scores, strict=True)
    ]
