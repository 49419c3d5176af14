"""What is lost from the store is computed again by the tasks that made it, when somebody needs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import obsray
from obsray import exceptions
from tests.integration.programs import eventually, views
from tests.reliability.oracle import checked_runtime

pytestmark = pytest.mark.timeout(120)
MB = 1 << 20


@pytest.fixture(scope="module")
def session() -> Iterator[Path]:
    with checked_runtime(object_store_memory=64 * MB) as directory:
        yield directory


@pytest.fixture
def ran(tmp_path: Path) -> Callable[[str], int]:
    """How often a task of this name has said that it runs."""
    return lambda name: sum(1 for each in tmp_path.iterdir() if each.name.startswith(f"{name}."))


def say(directory: Path, name: str) -> None:
    (directory / f"{name}.{os.getpid()}.{os.urandom(4).hex()}").touch()


@obsray.remote(max_retries=2)
def make(directory: Path, name: str, value: int) -> Any:
    say(directory, name)
    return np.full(4 * MB, value, np.uint8)


@obsray.remote(max_retries=2)
def plus(directory: Path, name: str, array: Any) -> Any:
    say(directory, name)
    return array + 1


def destroy(session: Path, *references: Any, damage: str = "gone") -> None:
    """Have these objects spilled by filling the store, and their files removed or damaged."""
    for _ in range(40):
        fill = [obsray.put(np.zeros(3 * MB, np.uint8)) for _ in range(26)]
        del fill
        files = {r: list((session / "spill").glob(f"{r.hex()}*")) for r in references}
        if all(files.values()):
            break
    for found in files.values():
        assert found
        for path in found:
            if damage == "gone":
                path.unlink()
            elif damage == "cut short":
                os.truncate(path, path.stat().st_size // 2)
            else:
                with open(path, "r+b") as file:
                    file.seek(path.stat().st_size // 2)
                    (byte,) = file.read(1)
                    file.seek(-1, os.SEEK_CUR)
                    file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("damage", ["gone", "cut short", "one bit flipped"])
def test_what_cannot_be_made_again_is_an_error_that_names_its_file_and_never_wrong_bytes(session, damage):
    reference = obsray.put(np.full(3 * MB, 7, np.uint8))
    destroy(session, reference, damage=damage)
    with pytest.raises(exceptions.ObjectLostError, match=reference.hex()) as caught:
        obsray.get(reference, timeout=20)
    assert str(session / "spill") in str(caught.value)


@pytest.mark.parametrize("damage", ["gone", "cut short", "one bit flipped"])
def test_a_lost_result_is_computed_again_when_it_is_needed(session, tmp_path, ran, damage):
    reference = make.remote(tmp_path, "make", 7)
    obsray.wait([reference])
    destroy(session, reference, damage=damage)
    assert ran("make") == 1
    value = obsray.get(reference, timeout=20)
    assert (value == 7).all()
    assert ran("make") == 2
    told = {event["event"] for event in views(session).story(reference.hex())}
    assert {"object_lost", "object_missing", "object_rebuilding"} <= told
    story = [event["event"] for event in views(session).story(reference.task_id().hex())]
    assert story.count("task_ended") == 2 and "task_retried" in story


def test_a_chain_is_computed_again_although_its_middle_was_let_go(session, tmp_path, ran):
    first = make.remote(tmp_path, "first", 1)
    second = plus.remote(tmp_path, "second", first)
    third = plus.remote(tmp_path, "third", second)
    obsray.wait([third])
    del first, second
    destroy(session, third)
    assert obsray.get(third, timeout=20)[0] == 3
    assert (ran("first"), ran("second"), ran("third")) == (2, 2, 2)


def test_a_task_whose_argument_is_lost_waits_until_that_is_there_again(session, tmp_path, ran):
    reference = make.remote(tmp_path, "make", 4)
    obsray.wait([reference])
    destroy(session, reference)
    assert obsray.get(plus.remote(tmp_path, "plus", reference), timeout=20)[0] == 5
    assert (ran("make"), ran("plus")) == (2, 1)


def test_an_actor_that_is_called_with_a_lost_value_gets_it_and_keeps_the_order(session, tmp_path, ran):
    @obsray.remote
    class Sum:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def add(self, value: Any) -> list[int]:
            self.seen.append(int(value if isinstance(value, int) else value[0]))
            return self.seen

    reference = make.remote(tmp_path, "make", 4)
    obsray.wait([reference])
    actor = Sum.remote()
    obsray.get(actor.add.remote(1))
    destroy(session, reference)
    calls = [actor.add.remote(reference), actor.add.remote(9)]
    assert obsray.get(calls, timeout=20)[-1] == [1, 4, 9]
    assert ran("make") == 2


def test_a_borrower_that_cannot_read_a_value_has_its_owner_make_it_again(session, tmp_path, ran):
    @obsray.remote
    def read(box: list[Any]) -> int:
        return int(obsray.get(box[0])[0])

    reference = make.remote(tmp_path, "make", 3)
    obsray.wait([reference])
    destroy(session, reference)
    assert obsray.get(read.remote([reference]), timeout=20) == 3
    assert ran("make") == 2


def test_results_of_the_same_task_that_are_there_are_not_made_a_second_time(session, tmp_path, ran):
    @obsray.remote(num_returns=2)
    def two() -> Any:
        say(tmp_path, "two")
        return [np.frombuffer(os.urandom(4 * MB), np.uint8) for _ in range(2)]

    first, second = two.remote()
    kept = obsray.get(second)
    destroy(session, first)
    assert len(obsray.get(first, timeout=20)) == 4 * MB
    assert ran("two") == 2 and np.array_equal(obsray.get(second), kept)


def test_items_of_a_stream_are_yielded_again(session, tmp_path, ran):
    @obsray.remote(max_retries=2)
    def count() -> Iterator[Any]:
        say(tmp_path, "count")
        for number in range(3):
            yield np.full(4 * MB, number, np.uint8)

    items = list(count.remote())
    destroy(session, *items[1:])
    assert [int(value[0]) for value in obsray.get(items, timeout=20)] == [0, 1, 2]
    assert 2 <= ran("count") <= 3


def test_what_may_not_run_again_is_an_error_that_says_why(session, tmp_path, ran):
    once = make.options(max_retries=0).remote(tmp_path, "once", 1)
    put = obsray.put(np.ones(4 * MB, np.uint8))
    obsray.wait([once])
    destroy(session, once, put)
    with pytest.raises(exceptions.ObjectReconstructionFailedMaxAttemptsExceededError, match="no retries left"):
        obsray.get(once, timeout=20)
    with pytest.raises(exceptions.ObjectLostError, match="what was put cannot be computed again"):
        obsray.get(put, timeout=20)
    with pytest.raises(exceptions.ObjectLostError):
        obsray.get(plus.remote(tmp_path, "plus", once), timeout=20)
    assert (ran("once"), ran("plus")) == (1, 0)


def test_retries_are_used_up_by_making_a_value_again(session, tmp_path, ran):
    reference = make.options(max_retries=1).remote(tmp_path, "make", 7)
    obsray.wait([reference])
    destroy(session, reference)
    assert obsray.get(reference, timeout=20)[0] == 7
    destroy(session, reference)
    with pytest.raises(exceptions.ObjectReconstructionFailedMaxAttemptsExceededError):
        obsray.get(reference, timeout=20)
    assert ran("make") == 2


def test_a_value_that_is_mapped_stays_readable_and_a_future_gets_a_lost_one(session, tmp_path, ran):
    reference = make.remote(tmp_path, "make", 7)
    obsray.wait([reference])
    destroy(session, reference)
    future = reference.future()
    assert future.result(timeout=20)[0] == 7
    assert ran("make") == 2


def test_room_of_what_is_remembered_only_is_free(session, tmp_path, ran):
    value = make.remote(tmp_path, "make", 0)
    for _ in range(30):
        value = plus.remote(tmp_path, "plus", value)
    assert obsray.get(value, timeout=30)[0] == 30
    stored = eventually(lambda: [1] if not list((session / "spill").iterdir()) else [])
    assert stored


@pytest.mark.parametrize(("end", "expected"), [("raise", RuntimeError), ("exit", exceptions.WorkerCrashedError)])
def test_lost_items_fail_with_what_ended_the_generator_that_ran_again(session, tmp_path, ran, end, expected):
    @obsray.remote(max_retries=1)
    def twice() -> Iterator[Any]:
        say(tmp_path, "twice")
        yield np.zeros(4 * MB, np.uint8)
        if ran("twice") > 1:
            if end == "exit":
                os._exit(3)
            raise RuntimeError("not this time")
        yield np.ones(4 * MB, np.uint8)

    items = list(twice.remote())
    destroy(session, items[1])
    with pytest.raises(expected):
        obsray.get(items[1], timeout=60)
    assert obsray.get(items[0], timeout=60)[0] == 0
