"""A model with a graph prior, and what it should answer, computed item by item in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rearec import Recommender
from rearec.data import ItemGraph, collate_histories
from rearec.data.item_graph import GraphOptions
from rearec.models.config import ReaRecConfig
from rearec.models.prior import GraphPrior, PriorSettings
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog

N, MAX_LEN = 40, 6
IDS = [f"i{number}" for number in range(N)]
# These have no neighbours, and are none.
ALONE = (0, 7, 8)


def random_graph(seed: int = 0) -> ItemGraph:
    """Of N items, 0 to 12 neighbours each."""
    draw = np.random.default_rng(seed)
    others = [item for item in range(N) if item not in ALONE]
    neighbors, weights, offsets = [], [], [0]
    for item in range(N):
        near = [] if item in ALONE else draw.choice(others, draw.integers(1, 13), replace=False)
        neighbors.append(np.array(near, np.int32))
        weights.append(np.sort(draw.uniform(0.001, 0.2, len(near)).astype(np.float32))[::-1])
        offsets.append(offsets[-1] + len(near))
    return ItemGraph(np.array(offsets), np.concatenate(neighbors), np.concatenate(weights), GraphOptions(), "some data")


def model_with_prior(method: str = "prl", *, last: int = 9, weight: float = 1.0) -> ReaRec:
    """Untrained, its prior as strong as its scores; ``last`` is more than it reads itself."""
    torch.manual_seed(0)
    model = ReaRec(ReaRecConfig(N, method=method, steps=2, dim=16, ffn=16, max_len=MAX_LEN, temperature=0.1)).eval()
    config = model.config
    settings = PriorSettings(last=last, decay=0.8, scale=0.02, weight=weight)
    model.prior = GraphPrior(random_graph(), settings, config.method, config.steps, config.temperature)
    return model


def recommender_with_prior(method: str = "prl", *, batch_rows: int = 256, last: int = 9) -> Recommender:
    """Of all items, the first the most popular."""
    return Recommender(model_with_prior(method, last=last), Catalog(IDS, list(range(N, 0, -1))), batch_rows=batch_rows)


def known(history: Sequence[str]) -> list[int]:
    """The known items by number."""
    return [IDS.index(item) for item in history if item in IDS]


def states(model: ReaRec, history: Sequence[str]) -> NDArray[np.float64]:
    """[T, d], those that rank items, the answer's last."""
    with torch.no_grad():
        found = model(collate_histories([known(history)], MAX_LEN)).states
        final = model.final_state(found)
    rows = found[0] if model.config.method != "erl" else torch.cat([found[0], final])
    return rows.double().numpy()


def places(model: ReaRec, history: Sequence[str]) -> NDArray[np.float64]:
    """[known items, N]: what each place of the history brings to the graph's sum of each item."""
    prior, items = model.prior, known(history)
    assert prior is not None
    found = np.zeros((len(items), N))
    for place, source in enumerate(items):
        back = len(items) - 1 - place
        if back < prior.settings.last:
            near, weights = prior.graph.edges(source)
            found[place, near] = weights * prior.settings.decay**back
    return found


def bonus(model: ReaRec, history: Sequence[str]) -> NDArray[np.float64]:
    """[N]: what the prior adds to the score of each item."""
    prior = model.prior
    assert prior is not None
    sums = places(model, history).sum(0)
    return np.array([prior.temperature * prior.settings.weight * math.log(1 + s / prior.settings.scale) for s in sums])


def dense_scores(model: ReaRec, history: Sequence[str]) -> NDArray[np.float64]:
    """[N], of all items."""
    return model.weight.detach().double().numpy() @ states(model, history)[-1] + bonus(model, history)


def dense_answer(
    model: ReaRec, history: Sequence[str], k: int, *, allow: Sequence[str] = IDS, deny: Sequence[str] = ()
) -> tuple[list[str], list[float]]:
    """The best k items that may be answered, and their scores."""
    scores = dense_scores(model, history)
    may = [number for number, item in enumerate(IDS) if item in allow and item not in deny]
    best = sorted(may, key=lambda item: (-scores[item], item))[:k]
    return [IDS[item] for item in best], [float(scores[item]) for item in best]
