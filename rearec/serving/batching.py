"""Gathers what many callers ask into batches for one thread, so that nobody's event loop waits for a model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Batch", "Batcher", "QueueClosedError", "QueueFullError"]

Answer = Callable[[Any, list[Any]], Sequence[Any]]
"""A group, and what was asked of it -> for each its answer, or the exception that its caller gets."""


class QueueFullError(Exception):
    """As much is waiting as may."""


class QueueClosedError(Exception):
    """Nothing is answered any more."""


@dataclass(frozen=True)
class Batch:
    """What was answered together: how many requests of how many histories, and how long it took in seconds."""

    requests: int
    size: int
    seconds: float


@dataclass
class _Asked:
    group: Hashable
    what: Any
    size: int
    future: asyncio.Future[Any]
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """One thread that answers, and the queue before it.

    What is asked while the thread is idle is answered at once. What is asked while it is busy is gathered: when the
    thread is free again it takes all that waits of one group, and where that is less than a full batch, it first waits
    for more until the oldest has waited ``max_wait``.

    An answer function that fails for several requests is asked again for each of them alone, so that nobody gets an
    error that another one caused.

    Args:
        answer: called in the thread with a group and all that was asked of it.
        max_batch: the largest sum of sizes that is answered together; what is larger is answered alone.
        max_wait: in seconds.
        max_queue: the largest sum of sizes that waits.
        observe: told of each batch, in the thread.

    Examples:
        >>> import asyncio
        >>> from rearec.serving import Batcher
        >>> async def three():
        ...     batcher = Batcher(lambda group, asked: [group * each for each in asked])
        ...     answers = await asyncio.gather(*(batcher.ask(10, each) for each in (1, 2, 3)))
        ...     await batcher.close()
        ...     return answers
        >>> asyncio.run(three())
        [10, 20, 30]
    """

    def __init__(
        self,
        answer: Answer,
        *,
        max_batch: int = 256,
        max_wait: float = 0.002,
        max_queue: int = 2048,
        observe: Callable[[Batch], None] | None = None,
    ) -> None:
        self._answer = answer
        self._max_batch, self._max_wait, self._max_queue = max_batch, max_wait, max_queue
        self._observe = observe
        self._waiting: deque[_Asked] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="rearec-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The sum of the sizes of what waits."""
        return self._size

    async def ask(self, group: Hashable, what: Any, size: int = 1) -> Any:
        """The answer to what is asked, together with what others ask of the same group.

        Raises:
            QueueFullError: too much is waiting. Something larger than the queue may wait alone.
            QueueClosedError: after `close`.
        """
        asked = _Asked(group, what, size, asyncio.get_running_loop().create_future())
        with self._changed:
            if self._closed:
                raise QueueClosedError
            if self._waiting and self._size + size > self._max_queue:
                raise QueueFullError
            self._waiting.append(asked)
            self._size += size
            self._changed.notify()
        return await asked.future

    async def close(self) -> None:
        """Takes nothing more, answers what waits, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while batch := self._next():
            begin = time.perf_counter()
            answers = self._answers(batch)
            if self._observe is not None:
                size = sum(asked.size for asked in batch)
                self._observe(Batch(len(batch), size, time.perf_counter() - begin))
            try:
                # one call for all of them: each wakes the loop
                batch[0].future.get_loop().call_soon_threadsafe(_deliver, batch, answers)
            except RuntimeError:  # the loop has ended, and with it whoever asked
                continue

    def _next(self) -> list[_Asked]:
        """What is to be answered together; empty once all is answered and the queue is closed."""
        with self._changed:
            was_idle = False
            while True:
                while not self._waiting and not self._closed:
                    was_idle = True
                    self._changed.wait()
                while self._waiting and not was_idle and not self._closed and self._size < self._max_batch:
                    left = self._waiting[0].arrived + self._max_wait - time.monotonic()
                    if left <= 0 or not self._changed.wait(left):
                        break
                batch = self._take()
                if batch or (self._closed and not self._waiting):
                    return batch

    def _take(self) -> list[_Asked]:
        """The oldest, and what else of its group goes with it; without those whose callers are gone."""
        taken: list[_Asked] = []
        left: deque[_Asked] = deque()
        size = 0
        for asked in self._waiting:
            if asked.future.cancelled():
                self._size -= asked.size
            elif not taken or (asked.group == taken[0].group and size + asked.size <= self._max_batch):
                taken.append(asked)
                size += asked.size
            else:
                left.append(asked)
        self._waiting = left
        self._size -= size
        return taken

    def _answers(self, batch: list[_Asked]) -> Sequence[Any]:
        try:
            return self._answer(batch[0].group, [asked.what for asked in batch])
        except Exception as error:
            if len(batch) == 1:
                return [error]
        return [answer for asked in batch for answer in self._answers([asked])]


def _deliver(batch: list[_Asked], answers: Sequence[Any]) -> None:
    for asked, answer in zip(batch, answers, strict=True):
        if asked.future.done():
            continue
        if isinstance(answer, Exception):
            asked.future.set_exception(answer)
        else:
            asked.future.set_result(answer)
