"""Buffers change hands in order and once, whichever threads ask, and nothing waits."""

from __future__ import annotations

import ctypes
import platform
import threading

import pytest

from obsray.gpu.exchange import BUFFERS, Exchange, Finished, NotHereError
from tests.unit.gpu.fake_cupti import COMPLETED, REQUESTED

SIZE = 1 << 12


class Other:
    """The other side: what CUPTI does."""

    def __init__(self, exchange: Exchange) -> None:
        self._requested, self._completed = REQUESTED(exchange.requested), COMPLETED(exchange.completed)

    def request(self) -> tuple[int, int]:
        address, size, most = ctypes.c_uint64(5), ctypes.c_size_t(5), ctypes.c_size_t(5)
        self._requested(ctypes.byref(address), ctypes.byref(size), ctypes.byref(most))
        assert most.value == 0
        return address.value, size.value

    def complete(self, address: int, valid: int, context: int = 9, stream: int = 0xFFFFFFFF) -> None:
        self._completed(context, stream, address, SIZE, valid)


def test_a_buffer_goes_out_and_comes_back_as_it_is() -> None:
    exchange = Exchange(SIZE)
    other = Other(exchange)
    assert exchange.take() is None
    address, size = other.request()
    assert size == SIZE
    ctypes.memset(address, 7, SIZE)
    other.complete(address, 100)
    assert exchange.take() == Finished(address, 100, 9, 0xFFFFFFFF)
    assert exchange.take() is None


def test_when_none_is_left_none_is_given_and_that_is_counted() -> None:
    exchange = Exchange(SIZE)
    other = Other(exchange)
    out = [other.request()[0] for _ in range(BUFFERS)]
    assert len(set(out)) == BUFFERS
    assert other.request() == (0, 0) and other.request() == (0, 0)
    assert exchange.refused == 2
    exchange.give(out[3])
    assert other.request() == (out[3], SIZE)


def test_the_rings_go_round() -> None:
    exchange = Exchange(SIZE)
    other = Other(exchange)
    for number in range(5 * BUFFERS + 3):
        address, _ = other.request()
        other.complete(address, number)
        finished = exchange.take()
        assert finished is not None and finished.valid == number and finished.address == address
        exchange.give(address)


def test_many_threads_lose_nothing_and_share_no_buffer() -> None:
    exchange = Exchange(SIZE)
    other = Other(exchange)
    rounds, threads = 100, 4
    held: set[int] = set()
    clashes: list[int] = []

    def use(number: int) -> None:
        done = 0
        while done < rounds:
            address, _ = other.request()
            if not address:
                continue
            if address in held:
                clashes.append(address)
            held.add(address)
            held.discard(address)
            other.complete(address, number * rounds + done + 1)
            done += 1

    running = [threading.Thread(target=use, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    seen: list[int] = []
    while len(seen) < rounds * threads and (any(thread.is_alive() for thread in running) or len(seen) < rounds):
        finished = exchange.take()
        if finished is not None:
            seen.append(finished.valid)
            exchange.give(finished.address)
    while (finished := exchange.take()) is not None:
        seen.append(finished.valid)
    assert sorted(seen) == list(range(1, rounds * threads + 1))
    assert not clashes


def test_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(NotHereError, match="x86_64 only, not on aarch64"):
        Exchange(SIZE)
