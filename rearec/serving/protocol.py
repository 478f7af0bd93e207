"""HTTP/1.1 by uvicorn: headers have to arrive, and answers to be taken, in time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["timed_protocol"]


def timed_protocol(seconds: float) -> type[HttpToolsProtocol]:
    """A protocol that ends connections whose headers take longer, or that do not read their answer for longer.

    The body of a request is watched by `rearec.serving.limits.Gate`, the time between requests by uvicorn.
    """

    class TimedProtocol(HttpToolsProtocol):
        _headers: asyncio.TimerHandle | None = None
        _writing: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._expect_headers()

        def on_headers_complete(self) -> None:
            self._headers = _end(self._headers)
            super().on_headers_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._writing = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._writing = _end(self._writing)
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._headers, self._writing = _end(self._headers), _end(self._writing)
            super().connection_lost(exc)

        def _expect_headers(self) -> None:
            if self._headers is None:
                self._headers = self.loop.call_later(seconds, self.transport.close)

    return TimedProtocol


def _end(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
