"""What `rearec serve` can be told: where it listens, how it gathers requests, what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from rearec.errors import UserError
from rearec.fields import check_options, documented, setting

__all__ = ["ServeOptions"]

GATHERING = "Gathering requests"
SAFETY = "What is refused"
SESSIONS = "Sessions"
HIGHEST_PORT = 65_535


@documented
@dataclass(frozen=True)
class ServeOptions:
    """How a service listens, gathers and refuses.

    Raises:
        UserError: a value is out of its range.

    Examples:
        >>> from rearec.serving import ServeOptions
        >>> ServeOptions(port=0).max_batch
        256
    """

    host: str = setting("The address to listen at; 0.0.0.0 for all of the machine.", default="127.0.0.1")
    port: int = setting("0: any that is free.", default=8000, at_least=0)
    watch: float | None = setting(
        "Look every so many seconds whether a RUN was trained anew, and load it then.",
        metavar="SECONDS",
        at_least=0.01,
        shown="only POST /v1/reload loads anew",
    )
    max_wait_ms: float = setting(
        "How long a request waits for others while the model is busy; at an idle model it does not wait.",
        default=2.0,
        at_least=0,
        panel=GATHERING,
    )
    max_batch: int = setting("Histories that are answered together.", default=256, at_least=1, panel=GATHERING)
    max_queue: int = setting(
        "Histories that may wait; further requests get 503.", default=2048, at_least=1, panel=GATHERING
    )
    max_body_kb: int = setting("Larger requests get 413.", default=1024, at_least=1, panel=SAFETY)
    read_timeout: float = setting(
        "A request has to arrive, and its answer to be taken, within so many seconds; else 408.",
        default=10.0,
        metavar="SECONDS",
        at_least=0.01,
        panel=SAFETY,
    )
    drain_timeout: float = setting(
        "At SIGTERM, how long requests that are under way may take.",
        default=30.0,
        metavar="SECONDS",
        at_least=0.01,
        panel=SAFETY,
    )
    session_memory: float = setting(
        "Megabytes for what is kept of users' sessions; those that were not used for longest make room.",
        default=256.0,
        metavar="MB",
        at_least=0.01,
        panel=SESSIONS,
    )
    session_ttl: float = setting(
        "A session is forgotten after so many seconds without a request.",
        default=3600.0,
        metavar="SECONDS",
        at_least=0.01,
        panel=SESSIONS,
    )
    session_dir: str | None = setting(
        "Keep the ids of sessions' events in this folder, so that they survive a restart.",
        metavar="DIR",
        panel=SESSIONS,
        shown="they are lost",
    )
    api_key_file: str | None = setting(
        "A file of keys, one per line; a request has to name one of them (Authorization: Bearer KEY).",
        metavar="FILE",
        panel=SAFETY,
        shown="no key is needed",
    )
    cors: tuple[str, ...] = setting(
        "An origin whose pages may call the service from a browser; may be repeated.",
        default=(),
        metavar="ORIGIN",
        panel=SAFETY,
        shown=False,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.port > HIGHEST_PORT:
            raise UserError(f"--port must be at most {HIGHEST_PORT}, got {self.port}")
