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
        _reading: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._expect_headers()

        def on_headers_complete(self) -> None:
            self._expect_headers(False)
            super().on_headers_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._expect_reading()

        def resume_writing(self) -> None:
            self._expect_reading(False)
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._expect_headers(False)
            self._expect_reading(False)
            super().connection_lost(exc)

        def _expect_headers(self, expected: bool = True) -> None:
            """Time runs until they are here; more of them does not make it run anew."""
            if not expected and self._headers is not None:
                self._headers.cancel()
                self._headers = None
            elif expected and self._headers is None:
                self._headers = self.loop.call_later(seconds, self.transport.close)

        def _expect_reading(self, expected: bool = True) -> None:
            """Time runs until the client has taken what waits for it."""
            if self._reading is not None:
                self._reading.cancel()
            self._reading = self.loop.call_later(seconds, self.transport.abort) if expected else None

    return TimedProtocol
