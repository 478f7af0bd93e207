"""How a model comes to an answer: its ranking at every reasoning step, and what each item of the history adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rearec.data.batches import collate_histories
from rearec.data.item_graph import RowScores
from rearec.engine import Engine
from rearec.engine.retrieval import top
from rearec.inference.explanation import Explanation, Influence, Step
from rearec.inference.scoring import bonus_of, concatenated
from rearec.models.prior import GraphPrior
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog

__all__ = ["explain", "named_states"]

FloatArray = NDArray[np.float64]
WITH_GRAPH = "with the item graph"


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
    barred = torch.tensor(sorted(set(seen)), dtype=torch.int64, device=engine.device)
    exclude = barred if len(barred) else None
    k = min(k, engine.model.config.num_items)
    with torch.inference_mode():
        whole = _Ranked.of(engine, [history])
        final, bonus = whole.only_row()
        top_scores, best = top(final, engine.catalog, k, exclude=exclude, bonus=bonus)
        if target is None:
            # where all items are seen, there is no first one: explain the last item of the history
            target = int(best[-1, 0]) if int(best[-1, 0]) >= 0 else history[-1]
        (score,) = whole.scores_of(engine, target)
        linked = added = None
        looks_back = engine.model.config.max_len
        if whole.bonus is not None and engine.prior is not None:
            added = float(_of_item(whole.bonus, target)[0])
            linked = added * _shares(engine.prior, history, target)
            looks_back = max(looks_back, engine.prior.settings.last)
        read = min(len(history), looks_back)
        without = [[*history[:place], *history[place + 1 :]] for place in range(len(history) - read, len(history))]
        without = [rest for rest in without if rest]
        drops: list[list[float]] = []
        kept: list[int] = []
        for begin in range(0, len(without), batch_rows):
            left = _Ranked.of(engine, without[begin : begin + batch_rows])
            drops += (score - left.scores_of(engine, target)).tolist()
            still = top(left.states[:, -1], engine.catalog, k, exclude=exclude, bonus=left.bonus)[1]
            kept += ((still[:, :, None] == best[-1]) & (still[:, :, None] >= 0)).any(1).sum(1).tolist()
        places = [
            Influence(
                *_named(catalog, history[len(history) - read + place]),
                drop=drops[place][-1] if drops else None,
                by_step=drops[place] if drops else None,
                kept=kept[place] if drops else None,
                linked=None if linked is None else float(linked[len(history) - read + place]),
            )
            for place in range(read)
        ]
        cosine = torch.nn.functional.cosine_similarity
        final = final.float()
        to_final = cosine(final, final[-1:], dim=1).tolist()
        to_previous = [None, *cosine(final[1:], final[:-1], dim=1).tolist()]
        entropy = _entropy(engine, final, bonus).tolist()
    steps = []
    for step, name in enumerate(whole.names):
        items = [item for item in best[step].tolist() if item >= 0]
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
    return Explanation(places, unknown, item, title, float(score[-1]), steps, added)


class _Ranked(NamedTuple):
    """What ranks the items after each of R histories: states [R, T, d], then, by the last state, what a graph adds."""

    names: list[str]
    states: Tensor
    bonus: RowScores | None

    @classmethod
    def of(cls, engine: Engine, histories: Sequence[Sequence[int]]) -> _Ranked:
        batch = collate_histories([np.array(history) for history in histories], engine.model.config.max_len)
        names, states = named_states(engine.model, engine(batch).states)
        bonus = bonus_of(engine, histories)
        return cls(names if bonus is None else [*names, WITH_GRAPH], states, bonus)

    def only_row(self) -> tuple[Tensor, RowScores | None]:
        """Of one history, its rankings as rows: [names, d], and the bonus of the last one."""
        (states,), bonus = self.states, self.bonus
        if bonus is None:
            return states, None
        offsets = np.array([0] * len(self.names) + [len(bonus.items)])
        return torch.cat([states, states[-1:]]), RowScores(offsets, bonus.items, bonus.scores)

    def scores_of(self, engine: Engine, item: int) -> Tensor:
        """float32 [R, names], of one item."""
        scores = self.states.float() @ engine.weight[item].float()
        if self.bonus is None:
            return scores
        added = torch.from_numpy(_of_item(self.bonus, item)).to(scores)
        return torch.cat([scores, scores[:, -1:] + added[:, None]], dim=1)


def _of_item(scores: RowScores, item: int) -> FloatArray:
    """float64 [R], of one item: 0 in the rows that do not have it."""
    found = np.zeros(len(scores.offsets) - 1)
    mine = scores.items == item
    found[scores.rows[mine]] = scores.scores[mine]
    return found


def _shares(prior: GraphPrior, history: Sequence[int], item: int) -> FloatArray:
    """float64 [L], in proportion to the edges from each place of one history to an item: 1 in all, or all 0."""
    last = history[-prior.settings.last :]
    # what the sum loses where the history begins one place later is that place's own part
    later = [last[begin:] for begin in range(len(last))]
    offsets, items = concatenated(later)
    sums = _of_item(prior.graph.scores(offsets, items, last=len(last), decay=prior.settings.decay), item)
    shares = np.zeros(len(history))
    if sums[0] > 0:
        shares[len(history) - len(last) :] = -np.diff(sums, append=0) / sums[0]
    return shares


def _entropy(engine: Engine, states: Tensor, bonus: RowScores | None) -> Tensor:
    """[T], in bits."""
    scores = states.float() @ engine.weight.float().T
    if bonus is not None:
        scores[torch.from_numpy(bonus.rows), torch.from_numpy(bonus.items)] += torch.from_numpy(bonus.scores).to(scores)
    log = torch.log_softmax(scores / engine.model.config.temperature, dim=1)
    return -(log.exp() * log).sum(1) / math.log(2)


def _named(catalog: Catalog, item: int) -> tuple[str, str | None]:
    return catalog.item_ids[item], None if catalog.titles is None else catalog.titles[item]
