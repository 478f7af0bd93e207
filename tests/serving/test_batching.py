"""The queue before the engine's thread: what goes together, what waits, what is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rearec.serving.batching import Batch, Batcher, QueueClosedError, QueueFullError


class Held:
    """Doubles what is asked, once `go` is set; keeps what came together."""

    def __init__(self) -> None:
        self.go, self.began = threading.Event(), threading.Event()
        self.batches: list[tuple[Any, list[Any]]] = []

    def __call__(self, group: Any, asked: list[Any]) -> list[Any]:
        self.batches.append((group, asked))
        self.began.set()
        assert self.go.wait(60)
        return [2 * each for each in asked]


async def busy(batcher: Batcher, held: Held) -> asyncio.Task[Any]:
    """The first question, which the thread is busy with until `held.go`."""
    first = asyncio.create_task(batcher.ask("a", 0))
    await asyncio.to_thread(held.began.wait, 60)
    return first


def with_batcher(body: Callable[[Batcher, Held], Awaitable[None]], **options: Any) -> Held:
    held = Held()

    async def run() -> None:
        batcher = Batcher(held, **options)
        try:
            await body(batcher, held)
        finally:
            held.go.set()
            await batcher.close()

    asyncio.run(run())
    return held


def test_what_comes_while_the_thread_is_busy_goes_together() -> None:
    async def body(batcher: Batcher, held: Held) -> None:
        first = await busy(batcher, held)
        others = [asyncio.create_task(batcher.ask("a", each)) for each in range(1, 21)]
        await asyncio.sleep(0)
        assert batcher.waiting == 20
        held.go.set()
        assert await asyncio.gather(first, *others) == [2 * each for each in range(21)]
        assert batcher.waiting == 0

    assert with_batcher(body).batches == [("a", [0]), ("a", [*range(1, 21)])]


def test_at_an_idle_thread_nobody_waits() -> None:
    async def body(batcher: Batcher, held: Held) -> None:
        held.go.set()
        begin = time.monotonic()
        for each in range(3):
            await batcher.ask("a", each)
            await asyncio.sleep(0.05)  # the thread is idle again
        assert time.monotonic() - begin < 50

    assert len(with_batcher(body, max_wait=60.0).batches) == 3


def test_a_busy_thread_waits_for_a_full_batch_but_not_for_more() -> None:
    async def body(batcher: Batcher, held: Held) -> None:
        first = await busy(batcher, held)
        second = asyncio.create_task(batcher.ask("a", 1))
        await asyncio.sleep(0)
        held.go.set()
        await first
        assert not (await asyncio.wait([second], timeout=0.2))[0]  # it waits for another one
        assert await asyncio.wait_for(batcher.ask("a", 2), 30) == 4
        assert await second == 2

    held = with_batcher(body, max_wait=60.0, max_batch=2)
    assert held.batches == [("a", [0]), ("a", [1, 2])]


def test_groups_and_full_batches_stay_apart_and_in_order() -> None:
    async def body(batcher: Batcher, held: Held) -> None:
        first = await busy(batcher, held)
        asked = [("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5)]
        others = [asyncio.create_task(batcher.ask(group, each)) for group, each in asked]
        await asyncio.sleep(0)
        held.go.set()
        assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10]

    held = with_batcher(body, max_batch=2, max_wait=0)
    assert held.batches == [("a", [0]), ("a", [1, 3]), ("b", [2, 4]), ("a", [5])]


def test_sizes_count() -> None:
    async def body(batcher: Batcher, held: Held) -> None:
        first = await busy(batcher, held)
        others = [asyncio.create_task(batcher.ask("a", each, size)) for each, size in ((1, 9), (2, 2), (3, 1), (4, 1))]
        await asyncio.sleep(0)
        held.go.set()
        await asyncio.gather(first, *others)

    assert [asked for _, asked in with_batcher(body, max_batch=3, max_wait=0).batches] == [[0], [1], [2, 3], [4]]


def test_a_full_queue_refuses_and_takes_again() -> None:
    async def body(batcher: Batcher, held: Held) -> None:
        first = await busy(batcher, held)
        waiting = [asyncio.create_task(batcher.ask("a", each)) for each in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await batcher.ask("a", 3)
        held.go.set()
        await asyncio.gather(first, *waiting)
        assert await batcher.ask("a", 4, size=99) == 8  # larger than the queue: alone it may

    with_batcher(body, max_queue=2)


def test_one_question_that_fails_fails_alone() -> None:
    def answer(group: str, asked: list[int]) -> list[int]:
        return [100 // each for each in asked]

    async def run() -> None:
        batcher = Batcher(answer)
        answers = await asyncio.gather(*(batcher.ask("a", each) for each in (1, 0, 5)), return_exceptions=True)
        assert answers[0] == 100 and isinstance(answers[1], ZeroDivisionError) and answers[2] == 20
        await batcher.close()

    asyncio.run(run())


def test_who_is_gone_gets_no_answer_and_leaves_his_place() -> None:
    async def body(batcher: Batcher, held: Held) -> None:
        first = await busy(batcher, held)
        gone, stays = (asyncio.create_task(batcher.ask("a", each)) for each in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        held.go.set()
        assert await asyncio.gather(first, stays) == [0, 4]
        assert batcher.waiting == 0

    assert with_batcher(body).batches == [("a", [0]), ("a", [2])]


def test_closing_answers_what_waits_and_refuses_the_rest() -> None:
    async def body(batcher: Batcher, held: Held) -> None:
        first = await busy(batcher, held)
        second = asyncio.create_task(batcher.ask("a", 1))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(QueueClosedError):
            await batcher.ask("a", 2)
        held.go.set()
        assert await asyncio.gather(first, second) == [0, 2]
        await closing

    with_batcher(body, max_wait=60.0)


def test_each_batch_is_told() -> None:
    told: list[Batch] = []

    async def body(batcher: Batcher, held: Held) -> None:
        held.go.set()
        await batcher.ask("a", 1, size=3)

    with_batcher(body, observe=told.append)
    assert [(batch.requests, batch.size) for batch in told] == [(1, 3)] and told[0].seconds >= 0
