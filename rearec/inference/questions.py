"""What callers ask, read and checked, and the answers to several of them in few passes of the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from rearec.data.batches import collate_histories
from rearec.engine import Engine, GrowingHistory
from rearec.inference.answers import Recommendation
from rearec.inference.filters import IntArray, ItemFilter
from rearec.inference.scoring import barred, best_items, bonus_of
from rearec.run_folder import Catalog

__all__ = ["Question", "answer_questions", "final_states"]


@dataclass(frozen=True)
class Question:
    """The arguments of one call of `Recommender.recommend`, read and checked; made by `Recommender.question`.

    It is for the recommender that made it: items are the numbers of its catalogue.

    known: the items of each history that the catalogue has; unknown: the ids that it has not.
    may: which items the answers may hold.
    k, exclude_seen, steps: as `Recommender.recommend` takes them.
    grown: of a question with one history, what has been encoded of it (`rearec.inference.session`).

    Examples:
        >>> import rearec
        >>> from rearec.models import ReaRecConfig
        >>> from rearec.run_folder import Catalog
        >>> model = rearec.ReaRec(ReaRecConfig(num_items=3, method="prl", dim=8))
        >>> recommender = rearec.Recommender(model, Catalog(["tea", "rice", "salt"], popularity=[5, 9, 1]))
        >>> question = recommender.question([["salt", "unheard of"]], k=1)
        >>> question.known, question.unknown
        ([[2]], [['unheard of']])
    """

    known: Sequence[list[int]]
    unknown: Sequence[list[str]]
    may: ItemFilter
    k: int
    exclude_seen: bool = False
    steps: int | None = None
    grown: GrowingHistory | None = None

    @property
    def skipped(self) -> Mapping[str, list[str]]:
        """By "allow" and "deny", the ids of the list that are not in the catalogue; empty where all are."""
        return self.may.skipped


class _Row(NamedTuple):
    """One history of one of several questions."""

    question: int
    row: int
    items: list[int]


def answer_questions(
    engine: Engine, catalog: Catalog, by_popularity: IntArray, questions: Sequence[Question], batch_rows: int
) -> list[list[Recommendation]]:
    """The answers to each question: for each of its histories one.

    Histories of all questions with one number of steps share passes, whatever else differs. Of those in one pass the
    largest k is searched for, and each question gets as many as it asked for: the best of the best are the best.

    by_popularity: all items, most popular first.
    """
    answers: list[list[Recommendation | None]] = [
        [None if items else _popular(catalog, by_popularity, question, row) for row, items in enumerate(question.known)]
        for question in questions
    ]
    model, prior = engine.model, engine.prior
    tables: dict[int, torch.Tensor] = {}
    with torch.inference_mode():
        for steps, rows in _batches(questions, model.number_of_steps, batch_rows):
            asked = [each.items for each in rows]
            of = [questions[each.question] for each in rows]
            states = _states(engine, asked, [question.grown for question in of], steps)
            bonus = bonus_of(engine, asked, steps)
            if bonus is None and prior is not None:
                warnings.warn(prior.left_out(steps), stacklevel=4)
                prior = None  # said once
            allowed = [question.may.allowed(each.row) for question, each in zip(of, rows, strict=True)]
            bars = [
                barred(each.items if question.exclude_seen else [], question.may.denied(each.row))
                for question, each in zip(of, rows, strict=True)
            ]
            most = max(question.k for question in of)
            best = best_items(engine, states, allowed, bars, most, tables, bonus)
            for each, question, (items, scores) in zip(rows, of, best, strict=True):
                answers[each.question][each.row] = _answer(
                    catalog,
                    items[: question.k],
                    scores[: question.k],
                    question.unknown[each.row],
                    "model",
                    bonus is not None,
                )
    return [[answer for answer in given if answer is not None] for given in answers]


def _states(
    engine: Engine, histories: Sequence[list[int]], grown: Sequence[GrowingHistory | None], steps: int
) -> torch.Tensor:
    """[R, d], the final states of one batch, of which some histories may have been encoded already."""
    anew = [row for row, encoded in enumerate(grown) if encoded is None]
    if len(anew) == len(histories):
        return final_states(engine, histories, steps)
    states = engine.weight.new_empty(len(histories), engine.weight.shape[1])
    if anew:
        states[anew] = final_states(engine, [histories[row] for row in anew], steps)
    for row, encoded in enumerate(grown):
        if encoded is not None:
            states[row] = engine.model.final_state(encoded.states(steps))[0]
    return states


def final_states(engine: Engine, histories: Sequence[list[int]], steps: int | None) -> torch.Tensor:
    """[R, d], of one batch."""
    batch = collate_histories(histories, engine.model.config.max_len)
    return engine.model.final_state(engine(batch, steps).states)


def _batches(
    questions: Sequence[Question], number_of_steps: Callable[[int | None], int], batch_rows: int
) -> Iterator[tuple[int, list[_Row]]]:
    """The histories that hold an item, in batches of one depth and similar length, so that little is padding."""
    by_steps: dict[int, list[_Row]] = {}
    for place, question in enumerate(questions):
        rows = [_Row(place, row, items) for row, items in enumerate(question.known) if items]
        by_steps.setdefault(number_of_steps(question.steps), []).extend(rows)
    for steps, waiting in by_steps.items():
        waiting.sort(key=lambda each: len(each.items))
        for begin in range(0, len(waiting), batch_rows):
            yield steps, waiting[begin : begin + batch_rows]


def _popular(catalog: Catalog, by_popularity: IntArray, question: Question, row: int) -> Recommendation:
    best = question.may.passing(row, by_popularity)[: question.k].tolist()
    counts = [float(catalog.popularity[item]) for item in best]
    return _answer(catalog, best, counts, question.unknown[row], "popularity")


def _answer(
    catalog: Catalog,
    items: Sequence[int],
    scores: list[float],
    unknown: list[str],
    source: Literal["model", "popularity"],
    prior: bool = False,
) -> Recommendation:
    ids = [catalog.item_ids[item] for item in items]
    titles = None if catalog.titles is None else [catalog.titles[item] for item in items]
    return Recommendation(ids, scores, unknown, source, titles, prior)
