"""The process of a service: its socket, its signals, and its end, at which nobody loses an answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from rearec.errors import UserError
from rearec.serving.app import make_app
from rearec.serving.models import ServedModels
from rearec.serving.options import ServeOptions
from rearec.serving.protocol import timed_protocol

__all__ = ["address_of", "bind", "serve"]

KEEP_ALIVE = 30
# Python's own 5 ms are as long as a whole answer: what two threads wait for each other at most.
SWITCH_SECONDS = 0.0005
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def bind(options: ServeOptions) -> socket.socket:
    """A socket that has the address, and does not listen yet.

    Raises:
        UserError: the address does not exist here, or is taken.
    """
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"{options.host}:{options.port}: {error.strerror or error}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        why = error.strerror or error
        raise UserError(f"{options.host}:{options.port}: {why}; --port names another port, 0 any free one") from error
    return sock


def address_of(sock: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    models: ServedModels,
    options: ServeOptions | None = None,
    *,
    sock: socket.socket | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer requests until SIGTERM or SIGINT, then those that are under way, and return.

    Args:
        models: what answers.
        options: None for the defaults.
        sock: as `bind` makes it; None: it is made of the options.
        ready: told the address once requests are taken.

    Raises:
        UserError: the address cannot be had, or the file of keys not be read.
    """
    options = options or ServeOptions()
    app = make_app(models, options)
    sock = sock or bind(options)
    config = uvicorn.Config(
        app,
        http=timed_protocol(options.read_timeout),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",  # faults of ours are told by `Gate`, and what uvicorn tells beside is what clients do
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(options.drain_timeout)),
    )
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # a model and its catalogue stay; no need to look at them again
    try:
        _Server(config, app, lambda: ready(address_of(sock))).run(sockets=[sock])
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)
        sock.close()


class _Server(uvicorn.Server):
    """uvicorn's, which says when it is ready, and whose end by a signal is an end like any other."""

    def __init__(self, config: uvicorn.Config, app: Any, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._ready = app, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:
            await self.lifespan.shutdown()
            raise UserError(f"cannot listen: {error.strerror or error}") from error
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for each in SIGNALS:
            loop.add_signal_handler(each, self._end, each)
        try:
            yield
        finally:
            for each in SIGNALS:
                loop.remove_signal_handler(each)

    def _end(self, which: signal.Signals) -> None:
        self._app.state.gate.draining = True
        logging.getLogger("rearec.serving").info("%s: answering what is under way", which.name)
        self.handle_exit(which, None)
