"""Recommendations for raw histories: the ids of the data's source in, the ids of the source out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.engine import Engine
from rearec.engine.words import StatePrecision
from rearec.errors import UserError
from rearec.inference.answers import Item, Recommendation, SimilarItems, as_frame
from rearec.inference.explaining import explain
from rearec.inference.explanation import Explanation
from rearec.inference.filters import ItemFilter
from rearec.inference.ids import check_count, few, read_histories, read_ids
from rearec.inference.opening import open_run
from rearec.inference.questions import Question, answer_questions, final_states
from rearec.inference.scoring import top_rows
from rearec.models.backbone import Backbone
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog
from rearec_kernels import PreparedCatalog, prepare_catalog

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Recommender", "in_words"]


class Recommender:
    """Answers raw histories with a trained model; on a GPU its passes are replayed as CUDA graphs.

    It answers with the model as it was when the recommender was made: after training it further, or changing it in any
    other way, call `refresh` (see `rearec.engine.Engine`). Any number of threads may call the methods of one instance
    at the same time, and get what one thread would get; on a GPU they take turns. `refresh` is for one thread while no
    other calls.

    Ids are texts as the data's source wrote them, or integers, which are taken as their digits. Histories are a list of
    lists, or a column of lists of polars or pandas.

    Args:
        model: a finished RUN folder, the name ``owner/name`` of one on the Hugging Face Hub, or a `ReaRec` model
            together with ``catalog``.
        catalog: the model's items; read from the RUN folder where ``model`` is one.
        backbone: for a RUN folder of a model with an encoder of one's own, that encoder; its weights are replaced.
        trust_code: whether the code may be run that the model names for its encoder (``module:factory``).
        device: where to compute; the device of the model where ``model`` is one and this is None.
        batch_rows: histories per pass of the model.
        precision: in which the vectors of histories are computed, "fp32" or "bf16", which pays where the processor has
            products of bfloat16 (see `rearec.engine.Engine`); items are scored in float32 with either.

    Raises:
        UserError: the RUN folder is missing, unfinished or damaged, or its model needs a ``backbone`` or takes none;
            an unknown precision.
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
        >>> recommender.recommend([["tea"]], deny=["rice"], exclude_seen=True, frame=True)["item"].to_list()
        ['salt']
    """

    def __init__(
        self,
        model: str | Path | ReaRec,
        catalog: Catalog | None = None,
        *,
        backbone: Backbone | str | None = None,
        trust_code: bool = False,
        device: torch.device | str | None = None,
        batch_rows: int = 256,
        precision: StatePrecision = "fp32",
    ) -> None:
        if isinstance(model, ReaRec):
            if catalog is None:
                raise ValueError("catalog: missing; a ReaRec model does not know the ids of its items")
            model = model if device is None else model.to(device)
        else:
            model, catalog = open_run(model, device=device or "cpu", backbone=backbone, trust_code=trust_code)
        if len(catalog.item_ids) != model.config.num_items:
            raise ValueError(
                f"catalog: has {len(catalog.item_ids)} items, expected {model.config.num_items} as the model has"
            )
        if batch_rows < 1:
            raise ValueError(f"batch_rows: got {batch_rows}, expected 1 or more")
        self.catalog = catalog
        self.batch_rows = batch_rows
        self._engine = Engine(model, precision=precision)
        self._directions: PreparedCatalog | None = None
        self._item_number = {item: number for number, item in enumerate(catalog.item_ids)}
        popularity = np.asarray(catalog.popularity)
        self._by_popularity = np.argsort(-popularity, kind="stable")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({in_words(self.model.config)}; on {self._engine.device})"

    @property
    def model(self) -> ReaRec:
        """The model that answers."""
        return self._engine.model

    @property
    def engine(self) -> Engine:
        """The frozen view of the model by which it answers."""
        return self._engine

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        """float32 [items, dim], a copy: the vector of each item, in the order of ``catalog.item_ids``.

        A score of `recommend` is the dot product of a history's vector (`encode`) with the item's: a search for the
        largest inner product over these vectors, exact or approximate, finds the items that `recommend` finds. The
        temperature of the training changes no order; where a probability is wanted, it is the softmax of
        ``scores / model.config.temperature``.

        Of a model with a prior the dot product is not all of the score: what the item graph adds depends on the pair
        of history and item and is in no vector. `recommend` answers by all of it; ``model.prior = None`` and
        `refresh` switch it off, and the dot products are the scores again.
        """
        return self._engine.weight.detach().float().cpu().numpy().copy()

    def refresh(self) -> None:
        """Take the model as it is now: to be called after it was trained or changed in any other way."""
        self._engine.refresh()
        self._directions = None

    @overload
    def recommend(
        self,
        histories: Iterable[object],
        k: int = ...,
        *,
        allow: object = ...,
        deny: object = ...,
        exclude_seen: bool = ...,
        steps: int | None = ...,
        frame: Literal[False] = ...,
    ) -> list[Recommendation]: ...

    @overload
    def recommend(
        self,
        histories: Iterable[object],
        k: int = ...,
        *,
        allow: object = ...,
        deny: object = ...,
        exclude_seen: bool = ...,
        steps: int | None = ...,
        frame: Literal[True],
    ) -> pl.DataFrame: ...

    def recommend(
        self,
        histories: Iterable[object],
        k: int = 10,
        *,
        allow: object = None,
        deny: object = None,
        exclude_seen: bool = False,
        steps: int | None = None,
        frame: bool = False,
    ) -> list[Recommendation] | pl.DataFrame:
        """The best k items after each history.

        Of a model with a prior (`rearec.models.prior.GraphPrior`), the items that its graph links with the history
        score higher by that; the whole history counts, known items beyond ``max_len`` too.

        Args:
            histories: ids of items, oldest first. Unknown ids are skipped and reported. A history without a known item
                is answered by the most popular items, and says so.
            k: items per answer, at least 1.
            allow: ids of the only items to recommend: one list for all histories, or a list of lists, one for each. A
                short list is quick: only its items are scored.
            deny: ids of items not to recommend, in the same forms.
            exclude_seen: leave out the items of the history, those before the last ``max_len`` too.
            steps: reasoning steps, at most the trained number; None for the trained number. With fewer than a prior was
                fitted for it does not take part, which a warning says.
            frame: answer with a polars DataFrame, a row for each recommended item: row (of the history, from 0), rank
                (from 1), item, title, score, source.

        Raises:
            ValueError: k or steps out of range, another number of allow or deny lists than of histories.
            TypeError: a history is a text, or holds something else than texts and integers.
            UserError: no item of allow or deny is in the catalogue. (Where only some are not, a warning names them.)
        """
        question = self.question(histories, k, allow=allow, deny=deny, exclude_seen=exclude_seen, steps=steps)
        for name, ids in question.skipped.items():
            warnings.warn(f"{name}: skipped, not in the catalogue: {few(ids)}", stacklevel=2)
        (answers,) = self.answers([question])
        return as_frame(answers) if frame else answers

    def question(
        self,
        histories: Iterable[object],
        k: int = 10,
        *,
        allow: object = None,
        deny: object = None,
        exclude_seen: bool = False,
        steps: int | None = None,
    ) -> Question:
        """Reads and checks the arguments of `recommend`, and raises what it raises; `answers` answers them later."""
        check_count(k, "k", 1)
        if steps is not None:
            check_count(steps, "steps", 0)
        self.model.number_of_steps(steps)
        known, unknown = self._numbers(histories)
        may = ItemFilter(allow, deny, len(known), self._item_number)
        if exclude_seen:  # once for each row of a batch, a long list is longer than the catalogue
            may.denies_at_most(self.model.config.num_items // max(1, min(self.batch_rows, len(known))))
        return Question(known, unknown, may, k, exclude_seen, steps)

    def answers(self, questions: Sequence[Question]) -> list[list[Recommendation]]:
        """The answers to several calls of `recommend` at once, in as few passes of the model as they allow.

        Args:
            questions: made by `question` of this recommender. Those with the same number of steps share passes.

        Examples:
            >>> import rearec
            >>> from rearec.models import ReaRecConfig
            >>> from rearec.run_folder import Catalog
            >>> model = rearec.ReaRec(ReaRecConfig(num_items=3, method="prl", dim=8))
            >>> recommender = rearec.Recommender(model, Catalog(["tea", "rice", "salt"], popularity=[5, 9, 1]))
            >>> one = recommender.question([["tea"]], k=1, exclude_seen=True)
            >>> two = recommender.question([["rice", "tea"], ["unheard of"]], k=2, deny=["rice"])
            >>> [[len(answer.items) for answer in answers] for answers in recommender.answers([one, two])]
            [[1], [2, 2]]
        """
        return answer_questions(self._engine, self.catalog, self._by_popularity, questions, self.batch_rows)

    def item(self, item: str | int) -> Item:
        """What the catalogue says of an item.

        Raises:
            TypeError: item is neither a text nor an integer.
            UserError: item is not in the catalogue.
        """
        number = self._number(item, "item")
        (title,) = self._titles([number]) or [None]
        return Item(self.catalog.item_ids[number], title, self.catalog.popularity[number])

    def numbers(self, ids: Iterable[str]) -> list[int]:
        """The places in ``catalog.item_ids`` of those of these ids that are there, in their order."""
        number_of = self._item_number
        return [number_of[item] for item in ids if item in number_of]

    def encode(self, histories: Iterable[object], *, steps: int | None = None) -> NDArray[np.float32]:
        """float32 [histories, dim]: the vector of each history, the model's final state; see `item_vectors`.

        Unknown ids are skipped, as in `recommend`. A prior of the model is in no vector, see there too.

        Raises:
            ValueError: a history holds no known item, or steps is out of range.
            TypeError: as in `recommend`.
        """
        if steps is not None:
            check_count(steps, "steps", 0)
        known, _ = self._numbers(histories)
        vectors = np.empty((len(known), self.model.config.dim), np.float32)
        for row, items in enumerate(known):
            if not items:
                raise ValueError(f"histories[{row}]: holds no known item, so it has no vector")
        with torch.inference_mode():
            for rows in self._batches(known):
                states = final_states(self._engine, [known[row] for row in rows], steps)
                vectors[rows] = states.float().cpu().numpy()
        return vectors

    def similar(self, items: object, k: int = 10) -> list[SimilarItems]:
        """The k items whose vectors have the largest cosine with each item's; the item itself is left out.

        A prior of the model has no part in it: these are the vectors alone. What follows an item by model and item
        graph, `recommend` answers to the history of this one item.

        Args:
            items: ids.
            k: items per answer, at least 1.

        Raises:
            ValueError: k is out of range.
            TypeError: items is a text, or holds something else than texts and integers.
            UserError: an item is not in the catalogue.
        """
        check_count(k, "k", 1)
        numbers = [self._number(token, "items") for token in read_ids(items, "items")]
        found = []
        with torch.inference_mode():
            if self._directions is None:
                weight = self._engine.weight.detach().float()
                self._directions = prepare_catalog(torch.nn.functional.normalize(weight, dim=1))
            directions = self._directions
            for begin in range(0, len(numbers), self.batch_rows):
                asked = numbers[begin : begin + self.batch_rows]
                bars = [np.array([number]) for number in asked]
                best = top_rows(directions.weight[asked], directions, bars, k)
                for number, (places, scores) in zip(asked, best, strict=True):
                    (title,) = self._titles([number]) or [None]
                    ids = [self.catalog.item_ids[place] for place in places]
                    item = self.catalog.item_ids[number]
                    found.append(SimilarItems(item, title, ids, scores, self._titles(places)))
        return found

    def explain(
        self, history: Iterable[object], k: int = 5, *, item: str | int | None = None, exclude_seen: bool = False
    ) -> Explanation:
        """How the model comes to its answer to one history: its ranking step by step, and what each item adds.

        The last step is what `recommend` answers; of a model with a prior, that is one more, "with the item graph".

        Args:
            history: ids of items, oldest first; unknown ids are skipped and reported.
            k: items of each ranking, at least 1.
            item: the id whose score is explained; None for the first item of the answer.
            exclude_seen: leave the items of the history out of the rankings.

        Raises:
            ValueError: k is out of range.
            TypeError: as in `recommend`.
            UserError: the history holds no known item, or item is not in the catalogue.
        """
        check_count(k, "k", 1)
        (known,), (unknown,) = self._of([read_ids(history, "history")])
        if not known:
            raise UserError("history: holds no known item, so the model does not reason over it")
        target = None if item is None else self._number(item, "item")
        seen = known if exclude_seen else []
        return explain(self._engine, self.catalog, known, unknown, k, target, seen, self.batch_rows)

    def _numbers(self, histories: Iterable[object]) -> tuple[list[list[int]], list[list[str]]]:
        """The known items of each history by number, and the ids that are unknown."""
        return self._of(read_histories(histories))

    def _of(self, histories: Sequence[Sequence[str]]) -> tuple[list[list[int]], list[list[str]]]:
        number_of = self._item_number
        known: list[list[int]] = []
        unknown: list[list[str]] = []
        for history in histories:
            known.append(self.numbers(history))
            unknown.append([item for item in history if item not in number_of])
        return known, unknown

    def _batches(self, known: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """The rows that hold an item, in batches of similar length, so that little of a batch is padding."""
        waiting = sorted((row for row, items in enumerate(known) if items), key=lambda row: len(known[row]))
        for begin in range(0, len(waiting), self.batch_rows):
            yield waiting[begin : begin + self.batch_rows]

    def _titles(self, items: Sequence[int]) -> list[str | None] | None:
        titles = self.catalog.titles
        return None if titles is None else [titles[item] for item in items]

    def _number(self, item: object, where: str) -> int:
        """Of one item, by its id; UserError where it is not in the catalogue."""
        (token,) = read_ids([item], where)
        if token not in self._item_number:
            raise UserError(f"{where}: {token!r} is not in the catalogue")
        return self._item_number[token]


def in_words(config: ReaRecConfig) -> str:
    """What a model is, in a line."""
    steps = f", {config.steps} steps" if config.steps else ""
    return f"{config.method} on {config.backbone}{steps}, dim {config.dim}, {config.num_items:,} items"
