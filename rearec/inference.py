"""Recommendations for raw histories: the ids of the data's source in, the ids of the source out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from rearec.data.batches import collate_histories
from rearec.engine.graphed import GraphedRollout
from rearec.errors import UserError
from rearec.models.backbone import Backbone
from rearec.models.weight_sample import WeightSample
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog, RunFolder
from rearec_kernels import PreparedCatalog as PreparedTable
from rearec_kernels import catalog_topk, prepare_catalog

__all__ = ["Recommendation", "Recommender"]


@dataclass(frozen=True)
class Recommendation:
    """The answer to one history.

    items: ids of the source, best first; fewer than k where the catalogue has no more to offer.
    scores: the model's score of each item (dot product of final state and item embedding; comparable within one answer
        only), or for an answer by popularity the item's training count.
    unknown: ids of the history that the model does not know, in order; they were skipped.
    source: "model", or "popularity" where no known item was left in the history.
    """

    items: list[str]
    scores: list[float]
    unknown: list[str]
    source: Literal["model", "popularity"]


class Recommender:
    """Answers raw histories with a trained model; on a GPU its passes are replayed as CUDA graphs.

    Any number of threads may call one instance at the same time; on a GPU they take turns. Weights that were written,
    trained or replaced count from the next call on; a call that runs while they are written may see a part of them.

    Args:
        model: a finished RUN folder, or a `ReaRec` model together with ``catalog``.
        catalog: the model's items; read from the RUN folder where ``model`` is one.
        backbone: for a RUN folder of a model with an encoder of one's own, that encoder; its weights are replaced.
        device: where to compute; the device of the model where ``model`` is one and this is None.
        batch_rows: histories per pass of the model.

    Raises:
        UserError: the RUN folder is missing, unfinished or damaged, or its model needs a ``backbone`` or takes none.
        ValueError: a model without a catalogue, or with one of another size.
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
        self._rollout = GraphedRollout(model)
        # The table and how it was, replaced together: other threads may look at it.
        self._table: tuple[PreparedTable, WeightSample] | None = None
        self._evaluation = _EvaluationMode(model)
        self._item_number = {item: number for number, item in enumerate(catalog.item_ids)}
        popularity = np.asarray(catalog.popularity)
        self._by_popularity = np.argsort(-popularity, kind="stable")

    @property
    def model(self) -> ReaRec:
        """The model that answers."""
        return self._rollout.model

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
        with self._evaluation, torch.inference_mode():
            for begin in range(0, len(waiting), self.batch_rows):
                rows = waiting[begin : begin + self.batch_rows]
                best = self._best([known[row] for row in rows], k, exclude_seen, steps)
                for row, (items, scores) in zip(rows, best, strict=True):
                    answers[row] = Recommendation(items, scores, unknown[row], "model")
        return [answer for answer in answers if answer is not None]

    def _prepared_table(self) -> PreparedTable:
        """What retrieval derives from the item table, anew only where that is another or was written to."""
        weight = self.model.weight.detach()
        kept = self._table
        if kept is not None:
            table, sample = kept
            if weight.is_set_to(table.weight) and sample.is_current():
                return table
        # The sample first: what is written meanwhile makes it another table's.
        sample = WeightSample(weight)
        table = prepare_catalog(weight)
        self._table = table, sample
        return table

    def _best(
        self, histories: list[list[int]], k: int, exclude_seen: bool, steps: int | None
    ) -> list[tuple[list[str], list[float]]]:
        """Ids and scores of the best k items after each history of one batch."""
        device = self.model.weight.device
        batch = collate_histories(histories, self.model.config.max_len)
        exclude = None
        if exclude_seen:
            seen = [sorted(set(history)) for history in histories]
            offsets = np.concatenate(([0], np.cumsum([len(items) for items in seen])))
            exclude = (
                torch.from_numpy(offsets).to(device),
                torch.tensor([item for items in seen for item in items], dtype=torch.int64, device=device),
            )
        hidden = self.model.final_state(self._rollout(batch, steps).states)
        count = min(k, self.model.config.num_items)
        scores, items = self._topk(hidden, count, exclude)
        answers = []
        for row_scores, row_items in zip(scores.tolist(), items.tolist(), strict=True):
            # Where fewer than k items are left, the rest is -1.
            left = sum(item >= 0 for item in row_items)
            answers.append(([self.catalog.item_ids[item] for item in row_items[:left]], row_scores[:left]))
        return answers

    def _topk(self, hidden: Tensor, count: int, exclude: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Scores and items, by the table as it is now."""
        return catalog_topk(hidden, self._prepared_table(), count, exclude=exclude)

    def _popular(self, k: int, unknown: list[str]) -> Recommendation:
        best = self._by_popularity[:k].tolist()
        return Recommendation(
            items=[self.catalog.item_ids[item] for item in best],
            scores=[float(self.catalog.popularity[item]) for item in best],
            unknown=unknown,
            source="popularity",
        )


class _EvaluationMode:
    """A model in evaluation mode as long as any thread is inside; the last one out puts its mode back."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._inside = 0
        self._switched = self._was_training = False

    def __reduce__(self) -> tuple[type[_EvaluationMode], tuple[nn.Module]]:
        return _EvaluationMode, (self._model,)

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            # Switching the mode of all modules takes longer than looking at it.
            if self._inside == 1 and _is_any_trained(self._model):
                self._switched, self._was_training = True, self._model.training
                self._model.eval()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._switched:
                self._switched = False
                self._model.train(self._was_training)


def _is_any_trained(model: nn.Module) -> bool:
    """Whether the model or a part of it is in training mode; `model.modules()` takes twenty times as long."""
    parts: list[nn.Module | None] = [model]
    while parts:
        part = parts.pop()
        if part is not None:
            if part.training:
                return True
            parts += part._modules.values()
    return False
