"""Histories that the service keeps of users: what was computed of them in memory, their ids on disk where asked for."""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rearec.errors import UserError
from rearec.files import write_aside
from rearec.inference import Session
from rearec.serving.models import ServedModel

__all__ = ["KeepingError", "Sessions", "UnknownSessionError"]

# A longer history loses its older half: more changes no answer but what exclude_seen leaves out.
MOST_EVENTS = 5_000
# Of a session beside what the model has computed: an id, and its place in a list.
EVENT_BYTES = 100


class UnknownSessionError(UserError):
    """No events of this user are known, or not any more."""


class KeepingError(UserError):
    """The disk does not take what a session is to keep."""


@dataclass
class _Kept:
    """A session, the model that it was begun with, and when somebody last asked for it."""

    session: Session
    model: ServedModel
    used: float
    nbytes: int = 0


class Sessions:
    """The sessions of users, each of one model; for one thread at a time, the engine's.

    Those that were not used for longest make room for others. A session of a model that was loaded anew begins again
    with the events that it has, and so does one that only the disk still knows.

    Args:
        memory: bytes that all sessions together may have; one of them may have more.
        ttl: seconds without a request after which a session is forgotten.
        folder: where the ids of events are kept, a file for each session; None: they are lost with the process.
        clock: seconds, for the memory; files are as old as the time of day says.

    Attributes:
        nbytes: of all sessions in memory.
        counts: how many events were taken ("events"), how many items were encoded one by one or for the first time
            ("encoded"), how many windows anew ("encoded_anew"), and sessions that left the memory ("evicted").

    Raises:
        UserError: the folder cannot be made.
    """

    def __init__(
        self, *, memory: int, ttl: float, folder: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._memory, self._ttl, self._folder, self._clock = memory, ttl, folder, clock
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self.nbytes = 0
        self.counts = dict.fromkeys(("events", "encoded", "encoded_anew", "evicted"), 0)
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for file in folder.glob("*.jsonl"):
                    if self._is_old(file):
                        file.unlink()
            except OSError as error:
                raise UserError(f"--session-dir: {folder}: {error.strerror}") from error

    def __len__(self) -> int:
        return len(self._kept)

    def extend(self, model: ServedModel, user: str, items: Sequence[str | int]) -> Session:
        """Adds events to the session of a user, which begins with them where there is none.

        KeepingError where the disk does not take them; then none has been added.
        """
        ids = [str(item) for item in items]
        kept = self._find(model, user)
        history = ids if kept is None else [*kept.session.history, *ids]
        if kept is None or len(history) > MOST_EVENTS:
            history = history if len(history) <= MOST_EVENTS else history[-MOST_EVENTS // 2 :]
            self._write(model, user, history, anew=True)
            kept = self._begin(model, user, history)
        else:
            self._write(model, user, ids, anew=False)
            self._told(kept, lambda session: session.extend(ids))
        self.counts["events"] += len(ids)
        self._make_room()
        return kept.session

    def get(self, model: ServedModel, user: str) -> Session:
        """The session of a user; UnknownSessionError where there is none."""
        kept = self._find(model, user)
        if kept is None:
            raise UnknownSessionError(f"session: there are no events of the user {user[:100]!r}")
        self._make_room()
        return kept.session

    def drop(self, model: ServedModel, user: str) -> None:
        """Forgets a session, on disk too; UnknownSessionError where there is none."""
        self.get(model, user)
        self._forget((model.name, user))
        if self._folder is not None:
            self._file(model, user).unlink(missing_ok=True)

    def _find(self, model: ServedModel, user: str) -> _Kept | None:
        """The session as one of this very model, now the one that was used last."""
        key, now = (model.name, user), self._clock()
        for old in [key for key, kept in self._kept.items() if now - kept.used > self._ttl]:
            self._forget(old)
        kept = self._kept.get(key)
        if kept is None:
            history = self._read(model, user)
            return None if history is None else self._begin(model, user, history)
        if kept.model is not model:  # it was loaded anew
            return self._begin(model, user, kept.session.history)
        kept.used = now
        self._kept.move_to_end(key)
        return kept

    def _begin(self, model: ServedModel, user: str, history: Sequence[str]) -> _Kept:
        self._forget((model.name, user))
        kept = _Kept(Session(model.recommender), model, self._clock())
        self._kept[model.name, user] = kept
        self._told(kept, lambda session: session.extend(history))
        return kept

    def _told(self, kept: _Kept, change: Callable[[Session], None]) -> None:
        """Changes a session, and counts what that took."""
        session = kept.session
        before = session.encoded, session.encoded_anew
        change(session)
        self.counts["encoded"] += session.encoded - before[0]
        self.counts["encoded_anew"] += session.encoded_anew - before[1]
        size = session.nbytes + EVENT_BYTES * len(session.history)
        self.nbytes += size - kept.nbytes
        kept.nbytes = size

    def _make_room(self) -> None:
        """The sessions that were not used for longest leave, until the others fit; the last one stays."""
        while self.nbytes > self._memory and len(self._kept) > 1:
            self._forget(next(iter(self._kept)))
            self.counts["evicted"] += 1

    def _forget(self, key: tuple[str, str]) -> None:
        if key in self._kept:
            self.nbytes -= self._kept.pop(key).nbytes

    def _is_old(self, file: Path) -> bool:
        return time.time() - file.stat().st_mtime > self._ttl

    def _file(self, model: ServedModel, user: str) -> Path:
        """Ids are data: no part of a user's becomes a part of a path."""
        assert self._folder is not None
        name = hashlib.sha256(json.dumps([model.name, user]).encode()).hexdigest()
        return self._folder / f"{name}.jsonl"

    def _write(self, model: ServedModel, user: str, ids: Sequence[str], *, anew: bool) -> None:
        """A line for the events of one request, behind those that are there or in their place."""
        if self._folder is None:
            return
        line = json.dumps([*ids]) + "\n"
        file = self._file(model, user)
        try:
            if anew:
                write_aside(file, line)
            else:
                with file.open("a", encoding="utf-8") as there:
                    there.write(line)
        except OSError as error:
            raise KeepingError(f"session: its events cannot be kept now: {error.strerror}") from error

    def _read(self, model: ServedModel, user: str) -> list[str] | None:
        """The events on disk, None without; a last line that was cut off was never answered."""
        if self._folder is None:
            return None
        file = self._file(model, user)
        try:
            if self._is_old(file):
                file.unlink()
                return None
            lines = file.read_text(encoding="utf-8").split("\n")[:-1]
        except FileNotFoundError:
            return None
        history: list[str] = []
        for line in lines:
            history += json.loads(line)
        return history or None
