"""What the engine's thread does with a batch of requests to one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from rearec.errors import UserError
from rearec.inference import Explanation, Question, Recommendation, Session
from rearec.serving.models import ServedModel
from rearec.serving.schema import EventsRequest, RecommendRequest, SessionRequest, SimilarRequest
from rearec.serving.sessions import Sessions

__all__ = ["Group", "OfUser", "Recommended", "answer_batch", "work_of"]


class Group(NamedTuple):
    """Requests that are answered together."""

    kind: Literal["recommend", "similar", "events", "session", "end"]
    model: ServedModel
    sessions: Sessions | None = None


class OfUser(NamedTuple):
    """What a user's session is asked; None to end it."""

    user: str
    request: EventsRequest | SessionRequest | None


class Recommended(NamedTuple):
    """The answers to one request."""

    answers: list[Recommendation]
    skipped: Mapping[str, list[str]]
    explanations: list[Explanation | None] | None


def work_of(request: RecommendRequest, model: ServedModel) -> int:
    """How many histories the model reads for a request: an explanation leaves out each item of a history in turn."""
    of_one = 2 + model.recommender.model.config.max_len if request.explain else 1
    return len(request.histories) * of_one


def answer_batch(group: Group, requests: list[Any]) -> Sequence[Any]:
    """For each request its answers, or the error that its sender made.

    Of a `RecommendRequest` they are `Recommended`, of a `SimilarRequest` a list of `SimilarItems`; of events of a
    session the `Session`, of what it is asked `Recommended`.
    """
    if group.sessions is None:
        answer = _recommend if group.kind == "recommend" else _similar
        return answer(group.model, requests)
    if group.kind == "session":
        return _of_sessions(group.sessions, group.model, requests)
    return [_change(group.sessions, group.model, asked) for asked in requests]


def _change(sessions: Sessions, model: ServedModel, asked: OfUser) -> Session | Exception | None:
    try:
        if isinstance(asked.request, EventsRequest):
            return sessions.extend(model, asked.user, asked.request.items)
        sessions.drop(model, asked.user)
    except UserError as error:
        return error
    return None


def _of_sessions(sessions: Sessions, model: ServedModel, requests: Sequence[OfUser]) -> list[Recommended | Exception]:
    """The answers to several users at once."""
    read: list[Question | Exception] = []
    for user, request in requests:
        assert isinstance(request, SessionRequest)
        try:
            read.append(_asked(model, request, sessions.get(model, user).question))
        except UserError as error:
            read.append(error)
    answers = iter(model.recommender.answers([question for question in read if isinstance(question, Question)]))
    return [
        question if isinstance(question, Exception) else Recommended(next(answers), question.skipped, None)
        for question in read
    ]


def _recommend(model: ServedModel, requests: Sequence[RecommendRequest]) -> list[Recommended | Exception]:
    recommender = model.recommender
    read = [_question(model, request) for request in requests]
    answers = iter(recommender.answers([question for question in read if isinstance(question, Question)]))
    found: list[Recommended | Exception] = []
    for request, question in zip(requests, read, strict=True):
        if isinstance(question, Exception):
            found.append(question)
            continue
        mine = next(answers)
        why = _explanations(model, request, question, mine) if request.explain else None
        found.append(Recommended(mine, question.skipped, why))
    return found


def _question(model: ServedModel, request: RecommendRequest) -> Question | Exception:
    return _asked(model, request, partial(model.recommender.question, request.histories))


def _asked(
    model: ServedModel, request: RecommendRequest | SessionRequest, question: Callable[..., Question]
) -> Question | Exception:
    exclude = model.excludes_seen if request.exclude_seen is None else request.exclude_seen
    try:
        return question(request.k, allow=request.allow, deny=request.deny, exclude_seen=exclude, steps=request.steps)
    except (UserError, ValueError, TypeError) as error:
        return UserError(str(error))


def _explanations(
    model: ServedModel, request: RecommendRequest, question: Question, answers: Sequence[Recommendation]
) -> list[Explanation | None]:
    return [
        model.recommender.explain(
            history, request.k, item=answer.items[0] if answer.items else None, exclude_seen=question.exclude_seen
        )
        if answer.source == "model"
        else None
        for history, answer in zip(request.histories, answers, strict=True)
    ]


def _similar(model: ServedModel, requests: Sequence[SimilarRequest]) -> list[Any]:
    """As many as the largest k asks for are found for all of them, and cut: the best of the best are the best."""
    known = [_unknown_item(model, request) for request in requests]
    asked = [item for request, error in zip(requests, known, strict=True) if error is None for item in request.items]
    if not asked:
        return known
    most = max(request.k for request, error in zip(requests, known, strict=True) if error is None)
    found = iter(model.recommender.similar(asked, most))
    return [
        [next(found).first(request.k) for _ in request.items] if error is None else error
        for request, error in zip(requests, known, strict=True)
    ]


def _unknown_item(model: ServedModel, request: SimilarRequest) -> UserError | None:
    for item in request.items:
        try:
            model.recommender.item(item)
        except UserError as error:
            return UserError(f"items: {str(error).removeprefix('item: ')}")
    return None
