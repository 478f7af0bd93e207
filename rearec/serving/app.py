"""The routes of the service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from rearec.errors import UserError
from rearec.inference import Item
from rearec.serving.answering import Group, answer_batch, work_of
from rearec.serving.batching import Batcher, QueueClosedError, QueueFullError
from rearec.serving.limits import Gate, GateState, failure, read_keys
from rearec.serving.metrics import CONTENT_TYPE, Metrics
from rearec.serving.models import BusyError, ServedModel, ServedModels, Stamp, UnknownModelError
from rearec.serving.options import ServeOptions
from rearec.serving.replies import as_json, failures
from rearec.serving.schema import (
    ID_BRANCHES,
    LONGEST_ID,
    MOST_EXPLAINED,
    Failure,
    ModelInfo,
    ModelList,
    RecommendRequest,
    RecommendResponse,
    ReloadRequest,
    ReloadResponse,
    SimilarRequest,
    SimilarResponse,
    State,
)
from rearec.serving.session_routes import add_session_routes
from rearec.serving.sessions import KeepingError, Sessions, UnknownSessionError

__all__ = ["make_app"]

log = logging.getLogger("rearec.serving")
ABOUT = """Recommendations of trained models. Every answer that is none is `{"error": "one line"}`.

Where the service was started with `--api-key-file`, all but /health and /ready take a key: `Authorization: Bearer KEY`.
"""


def make_app(models: ServedModels, options: ServeOptions | None = None) -> FastAPI:
    """The service as an ASGI application, for a server of one's own; `rearec.serving.serve` is one that runs it.

    Args:
        models: what answers.
        options: those that do not concern the address; None for the defaults.

    Raises:
        UserError: the file of keys cannot be read.

    Examples:
        >>> from rearec.serving import ServedModels, make_app
        >>> app = make_app(ServedModels({"shop": "run"}))  # doctest: +SKIP
    """
    options = options or ServeOptions()
    metrics = Metrics()
    folder = None if options.session_dir is None else FilePath(options.session_dir)
    sessions = Sessions(memory=int(1e6 * options.session_memory), ttl=options.session_ttl, folder=folder)
    metrics.watch_sessions(sessions)
    batcher: Batcher

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        nonlocal batcher
        batcher = Batcher(
            answer_batch,
            max_batch=options.max_batch,
            max_wait=options.max_wait_ms / 1e3,
            max_queue=options.max_queue,
            observe=metrics.batch,
        )
        metrics.watch_queue(lambda: batcher.waiting)
        watch = asyncio.create_task(_watch(models, options.watch, reload)) if options.watch else None
        yield
        if watch is not None:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        await batcher.close()

    app = FastAPI(
        title="rearec",
        description=ABOUT,
        version="1",
        lifespan=life,
        # their pages take scripts from other sites
        docs_url=None,
        redoc_url=None,
    )
    keys = None if options.api_key_file is None else read_keys(options.api_key_file)
    app.state.gate = GateState()
    app.add_middleware(
        Gate,
        state=app.state.gate,
        metrics=metrics,
        keys=keys,
        max_body=1024 * options.max_body_kb,
        read_timeout=options.read_timeout,
    )
    if options.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "x-api-key"],
        )
    _add_failures(app, metrics)
    add_session_routes(app, models, sessions, lambda *asked: batcher.ask(*asked), metrics.answered)

    async def reload(name: str | None) -> tuple[ServedModel, bool]:
        """The model as it is now, and whether it is another one."""
        before = models.get(name)
        try:
            model = await asyncio.to_thread(models.reload, name)
        except UserError:
            metrics.reloads.labels(before.name, "failed").inc()
            raise
        metrics.reloads.labels(before.name, "loaded").inc()
        log.info("%s: loaded anew, version %s", model.name, model.version)
        return model, model.version != before.version

    @app.post("/v1/recommend", response_model=RecommendResponse, responses=failures(400, 404, 408, 413, 422, 503))
    async def recommend(request: RecommendRequest) -> Response:
        """The best items after each history."""
        model = models.get(request.model)
        if request.explain and (len(request.histories) > MOST_EXPLAINED or request.steps is not None):
            raise UserError(f"explain: is for at most {MOST_EXPLAINED} histories, and for all reasoning steps")
        found = await batcher.ask(Group("recommend", model), request, work_of(request, model))
        metrics.answered(model.name, found.answers)
        return as_json({"model": model.name, "version": model.version, **found._asdict()})

    @app.post("/v1/similar", response_model=SimilarResponse, responses=failures(400, 404, 408, 413, 422, 503))
    async def similar(request: SimilarRequest) -> Response:
        """The items most like each item, by the model's vectors."""
        model = models.get(request.model)
        answers = await batcher.ask(Group("similar", model), request, len(request.items))
        return as_json({"model": model.name, "version": model.version, "answers": answers})

    @app.get("/v1/items/{item:path}", response_model=Item, responses=failures(404, 422))
    async def item(
        item: Annotated[str, Path(max_length=LONGEST_ID, description="Its id.")],
        model: Annotated[str | None, Query(max_length=LONGEST_ID, description="The first one if left out.")] = None,
    ) -> Response:
        """What the catalogue of a model says of an item."""
        found = models.get(model).recommender
        try:
            return as_json(found.item(item))
        except UserError as error:
            raise HTTPException(404, str(error)) from error

    @app.get("/v1/models", responses=failures())
    async def list_models() -> ModelList:
        """The models of the service."""
        return ModelList(models=[_info(model) for model in models])

    @app.post("/v1/reload", responses=failures(400, 404, 408, 409, 413, 422, 503))
    async def load_anew(request: ReloadRequest) -> ReloadResponse:
        """Load a model anew from its folder; requests that are under way are answered by the old one."""
        name = models.get(request.model).name
        try:
            model, changed = await reload(name)
        except UserError as error:
            raise HTTPException(409, str(error)) from error
        return ReloadResponse(model=model.name, version=model.version, changed=changed)

    @app.get("/health")
    async def health() -> State:
        """Whether the process is alive."""
        return State(status="alive")

    @app.get("/ready", responses={503: {"model": Failure, "description": "The service is shutting down."}})
    async def ready() -> State:
        """Whether the service takes requests."""
        if app.state.gate.draining:
            raise HTTPException(503, "the service is shutting down")
        return State(status="ready")

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **failures()}, response_class=Response)
    async def page() -> Response:
        """What the service counts, for Prometheus."""
        return Response(metrics.page(), media_type=CONTENT_TYPE)

    return app


def _add_failures(app: FastAPI, metrics: Metrics) -> None:
    """Whatever goes wrong is told in one line."""

    def told(
        status: int, say: Callable[[Any], str] = str, reason: str = "", headers: dict[str, str] | None = None
    ) -> Any:
        async def tell(_: Request, error: Exception) -> Response:
            if reason:
                metrics.rejected.labels(reason).inc()
            return Response(failure(say(error)), status, headers, media_type="application/json")

        return tell

    async def tell_http(_: Request, error: Any) -> Response:
        return Response(failure(str(error.detail)), error.status_code, error.headers, media_type="application/json")

    app.add_exception_handler(RequestValidationError, told(422, _first_fault, "invalid"))
    app.add_exception_handler(HTTPException, tell_http)
    app.add_exception_handler(UnknownModelError, told(404))
    app.add_exception_handler(UnknownSessionError, told(404))
    app.add_exception_handler(KeepingError, told(503, str, "session_dir", {"retry-after": "1"}))
    app.add_exception_handler(BusyError, told(409))
    app.add_exception_handler(UserError, told(422, str, "invalid"))
    later = {"retry-after": "1"}
    app.add_exception_handler(
        QueueFullError, told(503, lambda _: "too many requests are waiting; try again later", "queue_full", later)
    )
    app.add_exception_handler(QueueClosedError, told(503, lambda _: "the service is shutting down", "draining", later))


def _first_fault(error: RequestValidationError) -> str:
    """What pydantic says of the first thing that is wrong; of an id, what an id is."""
    faults = error.errors()
    kind, where, message = faults[0]["type"], [*faults[0]["loc"][1:]], faults[0]["msg"]
    if kind == "json_invalid":
        return f"request: not json, at character {where[0]}"
    if not where:
        return "request: expected a json object, and Content-Type: application/json"
    # behind the field's name, places in lists; words name the branches of what may be of several kinds
    path = [str(where[0]), *(str(part) for part in where[1:] if isinstance(part, int))]
    if len(path) < len(where) and where[-1] in ID_BRANCHES:
        message = f"expected an id, a text of at most {LONGEST_ID:,} characters or an integer"
    return f"{'.'.join(path)}: {message}"


def _info(model: ServedModel) -> ModelInfo:
    config = model.recommender.model.config
    return ModelInfo(
        name=model.name,
        version=model.version,
        loaded=model.loaded,
        items=config.num_items,
        steps=config.steps,
        max_len=config.max_len,
        excludes_seen=model.excludes_seen,
        description=repr(model.recommender),
    )


async def _watch(models: ServedModels, seconds: float, reload: Callable[[str], Any]) -> None:
    """Load what was trained anew, once its files have stayed as they are from one look to the next."""
    known = await asyncio.to_thread(models.stamps)
    seen: dict[str, Stamp] = {}
    while True:
        await asyncio.sleep(seconds)
        now = await asyncio.to_thread(models.stamps)
        for name, stamp in now.items():
            if stamp == known.get(name) or stamp != seen.get(name):
                continue
            try:
                await reload(name)
            except BusyError:  # perhaps of the files from before: at the next look
                continue
            except UserError as error:
                log.warning("%s: not loaded anew: %s", name, error)
            known[name] = stamp
        seen = now
