"""What stands before the routes: keys, the size of a request and the time it takes to arrive, and the clock."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rearec.errors import UserError, visible
from rearec.serving.metrics import Metrics

__all__ = ["Gate", "GateState", "failure", "read_keys"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
# What anybody may ask: whether the service is there.
OPEN = frozenset({"/health", "/ready"})
ITEMS = "/v1/items/"
SESSIONS = "/v1/sessions/"
ROUTES = frozenset({"/v1/recommend", "/v1/similar", "/v1/models", "/v1/reload", "/metrics", "/openapi.json", *OPEN})
LONGEST_ERROR = 400
log = logging.getLogger("rearec.serving")


class _Refused(Exception):
    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.headers = status, reason, message, headers or {}


class _Gone(Exception):
    """The client has left in the middle of its request, or was left as it took no answer."""


def read_keys(path: str | Path) -> list[bytes]:
    """Digests of the keys of a file, one key per line; UserError where it holds none or cannot be read."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise UserError(f"{path}: holds no key; expected one per line")
    return [_digest(key.encode()) for key in keys]


def failure(message: str) -> bytes:
    """The body of an answer that is none, with its one line."""
    line = visible(message)
    return json.dumps({"error": line if len(line) <= LONGEST_ERROR else f"{line[:LONGEST_ERROR]}..."}).encode()


@dataclass
class GateState:
    """draining: whether new requests are refused, as the service is about to end."""

    draining: bool = False


class Gate:
    """ASGI middleware: refuses what is not to reach the routes, and hands them requests that have arrived whole.

    Args:
        app: what comes behind.
        metrics: told of every request.
        keys: digests (`read_keys`), one of which a request has to name; None: none is needed.
        max_body: in bytes.
        read_timeout: in seconds, from the headers to the end of the request.
        state: looked at for every request.
    """

    def __init__(
        self,
        app: Any,
        *,
        state: GateState,
        metrics: Metrics,
        keys: Sequence[bytes] | None,
        max_body: int,
        read_timeout: float,
    ) -> None:
        self.app, self.state, self.metrics = app, state, metrics
        self.keys, self.max_body, self.read_timeout = keys, max_body, read_timeout

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begin, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            try:
                await send(message)
            except (OSError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "closed" not in str(error):
                    raise
                raise _Gone from error

        try:
            try:
                self._admit(scope)
                body = await self._read(scope, receive)
            except _Refused as refused:
                self.metrics.rejected.labels(refused.reason).inc()
                return await _refuse(answer, refused)
            await self.app(scope, _received(body, receive), answer)
        except _Gone:
            self.metrics.rejected.labels("client_gone").inc()
        except Exception:
            log.exception("%s failed", _route(scope["path"]))
            if status:
                raise
            await _refuse(answer, _Refused(500, "", "internal error; the log of the service has it"))
        finally:
            if status:
                self.metrics.requests.labels(_route(scope["path"]), status).observe(time.perf_counter() - begin)

    def _admit(self, scope: Mapping[str, Any]) -> None:
        if scope["path"] in OPEN:
            return
        if self.state.draining:
            raise _Refused(503, "draining", "the service is shutting down", {"retry-after": "1", "connection": "close"})
        if self.keys is not None and not self._has_key(scope):
            raise _Refused(
                401, "no_key", "no valid key; expected Authorization: Bearer KEY", {"www-authenticate": "Bearer"}
            )

    def _has_key(self, scope: Mapping[str, Any]) -> bool:
        value = _header(scope, b"authorization") or b""
        kind, _, key = value.partition(b" ")
        given = _digest(key.strip() if kind.lower() == b"bearer" else _header(scope, b"x-api-key") or b"")
        # each is compared, and in the same time, whether the first one fits or none
        return sum(hmac.compare_digest(given, known) for known in self.keys or ()) > 0

    async def _read(self, scope: Mapping[str, Any], receive: Receive) -> bytes:
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return b""
        length = _header(scope, b"content-length")
        if length is not None and (not length.isdigit() or len(length) > 18 or int(length) > self.max_body):
            raise self._too_large()
        try:
            return await asyncio.wait_for(self._whole(receive), self.read_timeout)
        except asyncio.TimeoutError:
            message = f"the request did not arrive within {self.read_timeout:g} seconds"
            raise _Refused(408, "too_slow", message, {"connection": "close"}) from None

    async def _whole(self, receive: Receive) -> bytes:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            body += message.get("body", b"")
            if len(body) > self.max_body:
                raise self._too_large()
            if not message.get("more_body", False):
                return body

    def _too_large(self) -> _Refused:
        message = f"the request is too large: at most {self.max_body // 1024:,} KB are taken"
        return _Refused(413, "too_large", message, {"connection": "close"})


def _received(body: bytes, receive: Receive) -> Receive:
    """What the routes receive: the whole body, then what else the connection says."""
    is_given = False

    async def give() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give


async def _refuse(send: Send, refused: _Refused) -> None:
    body = failure(refused.message)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    await send(
        {
            "type": "http.response.start",
            "status": refused.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})


def _header(scope: Mapping[str, Any], name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


def _digest(key: bytes) -> bytes:
    """Keys of all lengths are compared in the same time by their digests."""
    return hashlib.sha256(key).digest()


def _route(path: str) -> str:
    """One of few words: a client shall not fill the memory with names."""
    if path.startswith(SESSIONS):
        what = path.rpartition("/")[2]
        return f"{SESSIONS}{{user}}/{what}" if what in ("events", "recommend") else f"{SESSIONS}{{user}}"
    return path if path in ROUTES else "/v1/items/{item}" if path.startswith(ITEMS) else "other"
