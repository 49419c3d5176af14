"""However many ask, the telemetry is read by one thread, seldom."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from obsray.dashboard.source import WAITING_MAX, Busy, Source, is_alive


class CountingViews:
    def __init__(self) -> None:
        self.refreshed = self.released = 0
        self.threads: set[int] = set()

    def refresh(self) -> int:
        self.refreshed += 1
        self.threads.add(threading.get_ident())
        return 0

    def release(self) -> None:
        self.released += 1
        self.threads.add(threading.get_ident())


def test_a_hundred_questions_at_once_refresh_once(tmp_path):
    views = CountingViews()

    async def crowd() -> list[int]:
        source = Source(tmp_path, lambda _: views)
        found: list[int] = []
        for _ in range(10):
            found += await asyncio.gather(*(source.ask(lambda _: threading.get_ident()) for _ in range(10)))
        source.close()
        return found

    asked_in = set(asyncio.run(crowd()))
    assert views.refreshed == 1 and asked_in == views.threads
    assert threading.get_ident() not in asked_in


def test_the_next_refresh_comes_when_the_last_one_is_old(tmp_path, monkeypatch):
    views, now = CountingViews(), [100.0]
    monkeypatch.setattr("obsray.dashboard.source.time.monotonic", lambda: now[0])

    async def twice() -> None:
        source = Source(tmp_path, lambda _: views)
        for moment in (100.0, 100.4, 100.6, 100.9, 101.2):
            now[0] = moment
            await source.ask(lambda _: None)
        source.close()

    asyncio.run(twice())
    assert views.refreshed == 3


def test_when_nobody_asks_any_more_the_memory_of_answers_is_let_go(tmp_path, monkeypatch):
    views, over = CountingViews(), threading.Event()
    monkeypatch.setattr("obsray.dashboard.source.RELEASE_SECONDS", 0.05)
    monkeypatch.setattr(views, "release", lambda: (CountingViews.release(views), over.set()))

    async def some() -> None:
        source = Source(tmp_path, lambda _: views)
        for _ in range(20):
            await source.ask(lambda _: None)
        while not over.is_set():
            await asyncio.sleep(0.01)
        source.close()

    asyncio.run(some())
    assert views.released >= 1 and len(views.threads) == 1


def test_answers_with_the_same_key_are_computed_once_between_refreshes(tmp_path):
    computed: list[int] = []

    async def several() -> list[int]:
        source = Source(tmp_path, lambda _: CountingViews())
        found = await asyncio.gather(*(source.ask(lambda _: computed.append(1) or 7, key="x") for _ in range(20)))
        source.close()
        return found

    assert asyncio.run(several()) == [7] * 20 and computed == [1]


def test_a_crowd_beyond_the_limit_is_refused_and_not_kept_waiting(tmp_path):
    gate = threading.Event()

    async def crowd() -> tuple[int, int]:
        source = Source(tmp_path, lambda _: CountingViews())
        waiting = [asyncio.ensure_future(source.ask(lambda _: gate.wait(30))) for _ in range(WAITING_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await source.ask(lambda _: None)
        gate.set()
        answered = len(await asyncio.gather(*waiting))
        again = await source.ask(lambda _: 1)
        source.close()
        return answered, again

    assert asyncio.run(crowd()) == (WAITING_MAX, 1)


def test_a_failed_question_does_not_keep_its_place(tmp_path):
    async def failing() -> int:
        source = Source(tmp_path, lambda _: CountingViews())
        for _ in range(2 * WAITING_MAX):
            with pytest.raises(ZeroDivisionError):
                await source.ask(lambda _: 1 // 0)
        found = await source.ask(lambda _: 1)
        source.close()
        return found

    assert asyncio.run(failing()) == 1


def test_a_session_without_telemetry_says_so_until_there_is_some(tmp_path):
    tries: list[Path] = []

    def opener(directory: Path) -> CountingViews:
        tries.append(directory)
        if len(tries) == 1:
            raise FileNotFoundError(directory)
        return CountingViews()

    async def early() -> int:
        source = Source(tmp_path, opener)
        with pytest.raises(FileNotFoundError):
            await source.ask(lambda _: 1)
        found = await source.ask(lambda _: 1)
        source.close()
        return found

    assert asyncio.run(early()) == 1


@pytest.mark.parametrize("pid", [None, 0, -1, "1", (1 << 22) + 1])
def test_what_is_no_running_process_is_not_alive(pid):
    assert not is_alive(pid)
