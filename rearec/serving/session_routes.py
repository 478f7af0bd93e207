"""The routes of users' sessions: events that are added, and answers to all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query
from fastapi.responses import Response

from rearec.inference import Recommendation
from rearec.serving.answering import Group, OfUser
from rearec.serving.models import ServedModels
from rearec.serving.replies import as_json, failures
from rearec.serving.schema import LONGEST_ID, EventsRequest, SessionRequest, SessionResponse, SessionState
from rearec.serving.sessions import Sessions

__all__ = ["add_session_routes"]

User = Annotated[str, Path(min_length=1, max_length=LONGEST_ID, description="Any name of the user; it is only data.")]


def add_session_routes(
    app: FastAPI,
    models: ServedModels,
    sessions: Sessions,
    ask: Callable[[Group, OfUser, int], Awaitable[Any]],
    answered: Callable[[str, list[Recommendation]], None],
) -> None:
    """Add the routes to the application.

    ask: what the engine's thread makes of a request. answered: told of each answer, with the model's name.
    """

    @app.post(
        "/v1/sessions/{user:path}/events",
        response_model=SessionState,
        responses=failures(400, 404, 408, 413, 422, 503),
    )
    async def events(user: User, request: EventsRequest) -> Response:
        """Add events to a user's session, which begins with the first ones; only new items are encoded."""
        model = models.get(request.model)
        session = await ask(Group("events", model, sessions), OfUser(user, request), 1)
        state = {"events": len(session.history), "encoded_anew": session.encoded_anew}
        return as_json({"model": model.name, "version": model.version, "user": user, **state})

    @app.post(
        "/v1/sessions/{user:path}/recommend",
        response_model=SessionResponse,
        responses=failures(400, 404, 408, 413, 422, 503),
    )
    async def recommend(user: User, request: SessionRequest) -> Response:
        """The best items after all events of a user."""
        model = models.get(request.model)
        found = await ask(Group("session", model, sessions), OfUser(user, request), 1)
        answered(model.name, found.answers)
        (answer,) = found.answers
        return as_json({"model": model.name, "version": model.version, "answer": answer, "skipped": found.skipped})

    @app.delete("/v1/sessions/{user:path}", status_code=204, responses=failures(404, 422, 503))
    async def end(
        user: User,
        model: Annotated[str | None, Query(max_length=LONGEST_ID, description="The first one if left out.")] = None,
    ) -> Response:
        """Forget a user's session."""
        await ask(Group("end", models.get(model), sessions), OfUser(user, None), 1)
        return Response(status_code=204)
