"""Recommendations for raw histories: the ids of the data's source in, the ids of the source out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from rearec.data.batches import collate_histories
from rearec.engine import Engine
from rearec.errors import UserError
from rearec.models.backbone import Backbone
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog, RunFolder
from rearec_kernels import catalog_topk

__all__ = ["Recommendation", "Recommender"]


@dataclass(frozen=True)
class Recommendation:
    """The answer to one history.

    items: ids of the source, best first; fewer than k where the catalogue has no more to offer.
    scores: the model's score of each item (dot product of final state and item embedding; comparable within one answer
        only), or for an answer by popularity the item's training count.
    unknown: ids of the history that the model does not know, in order; they were skipped.
    source: "model", or "popularity" where no known item was left in the history.

    Examples:
        >>> from rearec.inference import Recommendation
        >>> answer = Recommendation(items=["tea", "rice"], scores=[1.5, 0.5], unknown=["?"], source="model")
        >>> answer.items[0]
        'tea'
    """

    items: list[str]
    scores: list[float]
    unknown: list[str]
    source: Literal["model", "popularity"]


class Recommender:
    """Answers raw histories with a trained model; on a GPU its passes are replayed as CUDA graphs.

    It answers with the model as it was when the recommender was made: after training it further, or changing it in any
    other way, call `refresh` (see `rearec.engine.Engine`). Any number of threads may call `recommend` of one instance
    at the same time; on a GPU they take turns.

    Args:
        model: a finished RUN folder, or a `ReaRec` model together with ``catalog``.
        catalog: the model's items; read from the RUN folder where ``model`` is one.
        backbone: for a RUN folder of a model with an encoder of one's own, that encoder; its weights are replaced.
        device: where to compute; the device of the model where ``model`` is one and this is None.
        batch_rows: histories per pass of the model.

    Raises:
        UserError: the RUN folder is missing, unfinished or damaged, or its model needs a ``backbone`` or takes none.
        ValueError: a model without a catalogue, or with one of another size.

    Examples:
        A model in memory, untrained; after `rearec train`, ``Recommender("run")`` is all it takes.

        >>> import rearec
        >>> from rearec.models import ReaRecConfig
        >>> from rearec.run_folder import Catalog
        >>> model = rearec.ReaRec(ReaRecConfig(num_items=3, method="prl", dim=8))
        >>> recommender = rearec.Recommender(model, Catalog(["tea", "rice", "salt"], popularity=[5, 9, 1]))
        >>> known, new = recommender.recommend([["tea", "rice"], ["unheard of"]], k=2)
        >>> known.source, len(known.items)
        ('model', 2)
        >>> new.source, new.items, new.unknown
        ('popularity', ['rice', 'tea'], ['unheard of'])
    """

    def __init__(
        self,
        model: str | Path | ReaRec,
        catalog: Catalog | None = None,
        *,
        backbone: Backbone | None = None,
        device: torch.device | str | None = None,
        batch_rows: int = 256,
    ) -> None:
        if isinstance(model, ReaRec):
            if catalog is None:
                raise ValueError("catalog: missing; a ReaRec model does not know the ids of its items")
            model = model if device is None else model.to(device)
        else:
            run = RunFolder(model)
            run.check_finished()
            catalog = run.catalog()
            model = ReaRec.from_pretrained(run.path, map_location=device or "cpu", backbone=backbone)
            if len(catalog.item_ids) != model.config.num_items:
                raise UserError(
                    f"{run.catalog_file}: damaged: {len(catalog.item_ids)} items, but the model has "
                    f"{model.config.num_items}"
                )
        if len(catalog.item_ids) != model.config.num_items:
            raise ValueError(
                f"catalog: has {len(catalog.item_ids)} items, expected {model.config.num_items} as the model has"
            )
        if batch_rows < 1:
            raise ValueError(f"batch_rows: got {batch_rows}, expected 1 or more")
        self.catalog = catalog
        self.batch_rows = batch_rows
        self._engine = Engine(model)
        self._item_number = {item: number for number, item in enumerate(catalog.item_ids)}
        popularity = np.asarray(catalog.popularity)
        self._by_popularity = np.argsort(-popularity, kind="stable")

    @property
    def model(self) -> ReaRec:
        """The model that answers."""
        return self._engine.model

    def refresh(self) -> None:
        """Take the model as it is now: to be called after it was trained or changed in any other way."""
        self._engine.refresh()

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        exclude_seen: bool = False,
        steps: int | None = None,
    ) -> list[Recommendation]:
        """The best k items after each history.

        Args:
            histories: ids of items as the data's source wrote them, oldest first. Unknown ids are skipped and reported.
                A history without a known item is answered by the most popular items, and says so.
            k: items per answer, at least 1.
            exclude_seen: leave out the items of the history, those before the last ``max_len`` too.
            steps: reasoning steps, at most the trained number; None for the trained number.

        Raises:
            ValueError: k or steps out of range.
            TypeError: a history is a string, or holds something else than strings.
        """
        if k < 1:
            raise ValueError(f"k: got {k}, expected 1 or more")
        known: list[list[int]] = []
        unknown: list[list[str]] = []
        for index, history in enumerate(histories):
            if isinstance(history, str) or not all(isinstance(item, str) for item in history):
                raise TypeError(f"histories[{index}]: expected a sequence of item ids (strings)")
            known.append([self._item_number[item] for item in history if item in self._item_number])
            unknown.append([item for item in history if item not in self._item_number])
        answers: list[Recommendation | None] = [
            None if items else self._popular(k, missing) for items, missing in zip(known, unknown, strict=True)
        ]
        # Histories of similar length share a batch, so that little of it is padding.
        waiting = sorted((row for row, items in enumerate(known) if items), key=lambda row: len(known[row]))
        with torch.inference_mode():
            for begin in range(0, len(waiting), self.batch_rows):
                rows = waiting[begin : begin + self.batch_rows]
                best = self._best([known[row] for row in rows], k, exclude_seen, steps)
                for row, (items, scores) in zip(rows, best, strict=True):
                    answers[row] = Recommendation(items, scores, unknown[row], "model")
        return [answer for answer in answers if answer is not None]

    def _best(
        self, histories: list[list[int]], k: int, exclude_seen: bool, steps: int | None
    ) -> list[tuple[list[str], list[float]]]:
        """Ids and scores of the best k items after each history of one batch."""
        device = self._engine.device
        batch = collate_histories(histories, self.model.config.max_len)
        exclude = None
        if exclude_seen:
            seen = [sorted(set(history)) for history in histories]
            offsets = np.concatenate(([0], np.cumsum([len(items) for items in seen])))
            exclude = (
                torch.from_numpy(offsets).to(device),
                torch.tensor([item for items in seen for item in items], dtype=torch.int64, device=device),
            )
        hidden = self.model.final_state(self._engine(batch, steps).states)
        count = min(k, self.model.config.num_items)
        scores, items = catalog_topk(hidden, self._engine.catalog, count, exclude=exclude)
        answers = []
        for row_scores, row_items in zip(scores.tolist(), items.tolist(), strict=True):
            # Where fewer than k items are left, the rest is -1.
            left = sum(item >= 0 for item in row_items)
            answers.append(([self.catalog.item_ids[item] for item in row_items[:left]], row_scores[:left]))
        return answers

    def _popular(self, k: int, unknown: list[str]) -> Recommendation:
        best = self._by_popularity[:k].tolist()
        return Recommendation(
            items=[self.catalog.item_ids[item] for item in best],
            scores=[float(self.catalog.popularity[item]) for item in best],
            unknown=unknown,
            source="popularity",
        )
