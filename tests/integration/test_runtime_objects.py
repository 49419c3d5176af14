"""Objects live as long as somebody refers to them, move to disk when room is short, and are read without copies."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import obsray
from obsray import exceptions
from tests.integration.programs import eventually, views

pytestmark = pytest.mark.timeout(120)
MB = 1 << 20


@pytest.fixture(scope="module")
def session() -> Iterator[Path]:
    context = obsray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=64 * MB,
        _system_config={"spill_bytes_max": 128 * MB, "store_wait_seconds_max": 1.0},
    )
    yield Path(context.address_info["session_dir"])
    obsray.shutdown()


def used_bytes() -> int:
    gc.collect()
    return int(obsray.core.api.session().request("store")["used_bytes"])


@pytest.fixture(autouse=True)
def nothing_is_left(session: Path) -> Iterator[None]:
    """Whatever a test did, the store is empty when its references are gone."""
    yield
    eventually(lambda: used_bytes() == 0)
    eventually(lambda: not list((session / "spill").iterdir()))


def ones(megabytes: int) -> np.ndarray:
    return np.ones(megabytes * MB // 8)


@obsray.remote
def make(megabytes: int) -> Any:
    return ones(megabytes)


@obsray.remote
def total(array: Any) -> float:
    return float(array.sum())


@pytest.mark.parametrize(("size", "unit"), [(1 << 20, 4096), ((1 << 20) - 8, 64)])
def test_arrays_begin_on_cache_lines_and_large_ones_on_pages(session, size, unit):
    for each in obsray.get(obsray.put([np.ones(size // 8), np.ones(3), np.ones(size // 8)])):
        begin = each.ctypes.data
        assert begin % (unit if each.nbytes == size else 64) == 0 and each.sum() == each.size


def test_what_a_wait_has_left_is_looked_at_anew_where_the_program_has_changed_it_and_lives_no_longer_for_it(session):
    references = [obsray.put(ones(1)) for _ in range(12)]
    ready, rest = obsray.wait(references)
    assert (ready, rest) == (references[:1], references[1:])
    ready, rest = obsray.wait(rest, num_returns=3)
    assert (ready, rest) == (references[1:4], references[4:])
    rest[0] = rest[1]
    with pytest.raises(ValueError, match="each reference only once"):
        obsray.wait(rest)
    rest[0] = 1
    with pytest.raises(TypeError, match="the list has a int"):
        obsray.wait(rest)
    ready, rest = obsray.wait(references[4:])
    with pytest.raises(ValueError, match="num_returns=8"):
        obsray.wait(rest, num_returns=8)


def test_room_is_free_again_when_the_last_reference_goes(session):
    put, made = obsray.put(ones(4)), make.remote(4)
    obsray.wait([made])
    assert used_bytes() >= 8 * MB
    alias = put
    del put, made
    assert 4 * MB <= eventually(lambda: (used := used_bytes()) < 8 * MB and used) < 8 * MB
    value = obsray.get(alias)
    del alias
    assert used_bytes() >= 4 * MB and value.sum() == 4 * MB // 8  # the view keeps what it shows
    del value


def test_references_inside_values_keep_what_they_refer_to(session):
    inner = obsray.put(ones(2))
    outer = obsray.put({"deep": [inner]})
    del inner
    gc.collect()
    again = obsray.get(outer)["deep"][0]
    del outer
    assert obsray.get(total.remote(again)) == 2 * MB // 8

    @obsray.remote
    def nest():
        return [obsray.put(ones(2)), make.remote(2)]

    first, second = obsray.get(nest.remote())
    assert obsray.get(first).sum() == obsray.get(second).sum() == 2 * MB // 8


def test_what_a_process_returns_to_itself_lives_as_long_as_somebody_refers_to_it(session):
    @obsray.remote
    class Maker:
        def made(self):
            return [obsray.put(np.ones(MB, np.uint8))]

        def ask_yourself(self):
            return [obsray.get_runtime_context().current_actor.made.remote()]

        def stream(self):
            yield [obsray.put(np.ones(MB, np.uint8))]

        def stream_to_yourself(self):
            return [next(obsray.get_runtime_context().current_actor.stream.options(num_returns="streaming").remote())]

    maker = Maker.options(max_concurrency=2).remote()
    before = used_bytes()
    for ask in (maker.ask_yourself, maker.stream_to_yourself):
        value = obsray.get(obsray.get(obsray.get(ask.remote())[0], timeout=60)[0], timeout=60)
        assert value.sum() == MB and used_bytes() >= before + MB
        del value
        eventually(lambda: used_bytes() == before)


def test_a_reference_an_actor_keeps_outlives_the_call_that_brought_it(session):
    @obsray.remote
    class Keeper:
        def keep(self, box):
            self.reference = box[0]

        def read(self):
            return float(obsray.get(self.reference).sum())

        def forget(self):
            del self.reference

    keeper = Keeper.remote()
    reference = obsray.put(ones(3))
    obsray.get(keeper.keep.remote([reference]))
    del reference
    assert used_bytes() >= 3 * MB
    assert obsray.get(keeper.read.remote()) == 3 * MB // 8
    obsray.get(keeper.forget.remote())
    eventually(lambda: used_bytes() == 0)


def test_arguments_stay_while_a_task_needs_them(session):
    reference = total.remote(make.remote(4))
    assert obsray.get(reference) == 4 * MB // 8


def test_what_does_not_fit_goes_to_disk_and_comes_back_whole(session):
    chance = np.random.default_rng(7)
    arrays = [chance.integers(0, 255, 16 * MB, dtype=np.uint8) for _ in range(7)]
    references = [obsray.put(array) for array in arrays]
    on_disk = list((session / "spill").iterdir())
    assert on_disk
    for array, reference in zip(arrays, references, strict=True):
        assert np.array_equal(array, obsray.get(reference))
    view = views(session)
    events = {event["event"] for reference in references for event in view.story(reference.hex())}
    assert {"object_spilled", "object_restored"} <= events


@obsray.remote(num_cpus=0)
class Maker:
    async def make(self, megabytes: int) -> Any:
        return ones(megabytes)


def test_values_that_do_not_fit_together_are_awaited_one_after_the_other(session):
    maker = Maker.remote()
    references = [maker.make.remote(40) for _ in range(3)]

    async def main() -> list[float]:
        # While one is asked for, the loop still holds what the one before it came to.
        return [float((await reference)[0]) for reference in references]

    assert asyncio.run(main()) == [1.0] * 3


def test_a_loop_goes_on_while_what_one_awaits_has_no_room(session):
    first, second = make.remote(40), make.remote(40)
    held = obsray.get(first)

    async def main() -> Any:
        nonlocal held
        waits = asyncio.ensure_future(second)
        await asyncio.sleep(0)
        assert await obsray.put(1) == 1 and not waits.done()
        held = None
        return await waits

    assert asyncio.run(main()).size == 40 * MB // 8


@obsray.remote(num_cpus=0)
class Gate:
    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def open(self) -> None:
        self.opened.set()

    async def passed(self, value: Any = None) -> Any:
        await self.opened.wait()
        return value


def test_a_future_of_a_stored_value_is_set_while_the_program_waits_for_something_else(session):
    gate, array = Gate.remote(), make.remote(1)
    # When it is set, the main thread is in `get` and drives the sockets; what follows needs them, too.
    array.future().add_done_callback(lambda done: obsray.get(gate.open.remote(), timeout=60))
    assert obsray.get(gate.passed.remote(5), timeout=60) == 5


def test_a_spilled_object_that_was_damaged_on_disk_is_lost_and_says_where(session):
    references = [obsray.put(ones(16)) for _ in range(7)]
    path = eventually(lambda: sorted((session / "spill").iterdir()))[0]
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    lost = []
    for reference in references:
        try:
            assert obsray.get(reference).sum() == 16 * MB // 8
        except exceptions.ObjectLostError as error:
            lost.append(str(error))
    assert len(lost) == 1 and path.name in lost[0], lost


def test_when_store_and_disk_are_full_the_error_has_the_sizes_and_the_holders(session):
    references = []
    with pytest.raises(exceptions.ObjectStoreFullError) as caught:
        for _ in range(20):
            references.append(obsray.put(ones(16)))
    text = str(caught.value)
    me = obsray.get_runtime_context().get_worker_id()[:8]
    assert "of 64.0 MiB free" in text and "limit of 128.0 MiB on disk" in text and f"most belongs to {me}" in text
    del caught
    assert len(references) >= 10
    references.clear()
    assert obsray.get(obsray.put(ones(16))).sum() == 16 * MB // 8  # and it works again


def test_what_can_never_fit_anywhere_is_refused_at_once(session):
    with pytest.raises(exceptions.ObjectStoreFullError, match=r"do not fit a store of 64\.0 MiB.*limit of 128\.0 MiB"):
        obsray.put(ones(130))


def test_a_value_larger_than_the_store_lies_in_a_file_and_goes_as_others_do(session, caplog):
    reference, made = obsray.put(ones(70)), make.remote(50)
    value = obsray.get(reference)
    assert value.sum() == obsray.get(total.remote(reference)) == 70 * MB // 8
    assert not value.flags.writeable
    (file,) = (session / "spill").iterdir()
    assert file.name.startswith(reference.hex())
    store = obsray.core.api.session().request("store")
    assert (store["fallback_bytes"] >= 70 * MB, store["spilled_bytes"]) == (True, 0)
    view = views(session)
    (told,) = (event for event in view.story(reference.hex()) if event["event"] == "object_fallback")
    assert "it is larger than the store (64 MiB)" in told["text"]
    assert "lies in a file on disk" in view.why(reference.hex())["sentence"]
    memory = view.memory()
    assert memory["fallback_bytes"] >= 70 * MB and "on disk, because the store" in memory["sentence"]
    del reference
    assert value.sum() == 70 * MB // 8  # the view keeps what it shows
    assert file.exists()
    del value
    eventually(lambda: not file.exists())
    assert obsray.get(made).sum() == 50 * MB // 8


def test_while_all_is_in_use_values_lie_in_files_and_the_program_is_told_once(session, caplog):
    held = [obsray.get(obsray.put(ones(15))) for _ in range(4)]
    references = [obsray.put(ones(20) * number) for number in range(3)]
    for number, reference in enumerate(references):
        assert obsray.get(total.remote(reference)) == number * 20 * MB // 8
        assert obsray.get(reference).sum() == number * 20 * MB // 8
    assert len(list((session / "spill").iterdir())) == 3
    assert len([record for record in caplog.records if "no room for a value of 20 MiB" in record.getMessage()]) <= 1
    assert all(array.sum() == 15 * MB // 8 for array in held)


def test_a_file_that_somebody_has_removed_is_a_lost_value(session):
    reference = obsray.put(ones(70))
    (file,) = (session / "spill").iterdir()
    file.unlink()
    with pytest.raises(exceptions.ObjectLostError, match="its file cannot be mapped"):
        obsray.get(reference)
    with pytest.raises(exceptions.ObjectLostError, match="its file cannot be mapped"):
        reference.future().result(30)


def arena_of_this_runtime() -> tuple[int, int]:
    """Where this runtime's arena is mapped in this process (earlier runtimes' may still be, too)."""
    from obsray.core.runtime.session import current

    arena = current().arena
    start = np.frombuffer(arena._mapping, np.uint8, 1).__array_interface__["data"][0]
    return start, start + arena.size


def test_arrays_and_tables_are_read_where_they_lie_and_cannot_be_written(session):
    array, table = ones(2), pa.table({"x": np.arange(MB // 8), "y": ["text"] * (MB // 8)})
    references = [obsray.put(array), obsray.put(table)]
    first, second = obsray.get(references)
    start, end = arena_of_this_runtime()
    assert start <= first.__array_interface__["data"][0] < end
    assert not first.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 2
    buffers = [b for column in second.columns for chunk in column.chunks for b in chunk.buffers() if b is not None]
    large = [buffer for buffer in buffers if buffer.size > 1000]
    assert len(large) >= 3 and all(start <= buffer.address < end for buffer in large)
    assert not any(buffer.is_mutable for buffer in large)
    assert second.equals(table)

    @obsray.remote
    def in_worker(array, table):
        low, high = arena_of_this_runtime()
        where = [array.__array_interface__["data"][0], table.column("x").chunk(0).buffers()[1].address]
        return [low <= address < high for address in where]

    assert obsray.get(in_worker.remote(*references)) == [True, True]
