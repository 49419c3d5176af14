"""Actors that save their state: a killed process costs the repetition of a few calls, and no call counts twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import obsray
from obsray import exceptions
from tests.integration.programs import eventually, views
from tests.reliability.oracle import Oracle, checked_runtime

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[Path]:
    """One runtime for all tests here."""
    with checked_runtime() as directory:
        yield directory


def once(marker: Path | None) -> bool:
    """True the first time it is asked about a marker."""
    if marker is None or marker.exists():
        return False
    marker.touch()
    return True


class Log:
    """Remembers what it was told, and dies when it is told to."""

    def __init__(self, dies_while_saving: Path | None = None) -> None:
        self.heard: list[Any] = []
        self.restored = 0
        self.dies_while_saving = dies_while_saving

    def hear(self, value: Any, dies: Path | None = None) -> int:
        if once(dies):
            os.kill(os.getpid(), signal.SIGKILL)
        self.heard.append(value)
        return len(self.heard)

    def hear_array(self, array: np.ndarray) -> int:
        return self.hear(int(array.sum()))

    def hear_and_yield(self, value: int, count: int) -> Any:
        for number in range(count):
            self.heard.append(value)
            yield number

    def hear_and_save(self, value: int) -> None:
        self.heard.append(value)
        obsray.actor.save_checkpoint()

    def fail(self, value: int) -> None:
        self.heard.append(value)
        raise ValueError(value)

    def all(self) -> list[Any]:
        return self.heard

    def state(self) -> tuple[int, int]:
        return os.getpid(), self.restored

    def __obsray_save__(self) -> list[Any]:
        if self.heard and once(self.dies_while_saving):
            os.kill(os.getpid(), signal.SIGKILL)
        return list(self.heard)

    def __obsray_restore__(self, state: list[Any]) -> None:
        self.heard, self.restored = state, len(state)


def make(every: int | None, *args: Any, retries: int = -1, **options: Any) -> Any:
    options |= {"max_restarts": -1, "max_task_retries": retries, "checkpoint_every": every}
    return obsray.remote(**options)(Log).remote(*args)


def kill(actor: Any) -> None:
    os.kill(obsray.get(actor.state.remote())[0], signal.SIGKILL)


def row_of(directory: Path, actor: Any) -> dict[str, Any]:
    rows = views(directory).actors()
    return next(row for row in rows if row["actor_id"] == actor._actor_id.hex())


def test_a_kill_in_the_middle_of_a_call_repeats_only_the_calls_since_the_state_was_saved(session, tmp_path):
    oracle, actor = Oracle(session), make(100)
    calls = [actor.hear.remote(number, tmp_path / "died" if number == 950 else None) for number in range(1000)]
    assert obsray.get(calls) == list(range(1, 1001))
    assert obsray.get(actor.all.remote()) == list(range(1000))
    assert obsray.get(actor.state.remote())[1] == 900

    def told() -> bool:
        row = row_of(session, actor)
        return row["calls_replayed"] == 50 and row["checkpoints"] == 10 and row["checkpoint_bytes"] > 0

    eventually(told)
    text = [event["text"] for event in views(session).story(actor._actor_id.hex())]
    assert any("saved its state after 100 calls: checkpoint 9" in line for line in text)
    assert any("went on from checkpoint 9" in line and "repeated 50 calls" in line for line in text)
    assert sum("repeated Log.hear" in line for line in text) == 50
    (died,) = [row for row in views(session).workers() if row["actor_id"] == actor._actor_id.hex() and row["signal"]]
    assert died["signal"] == signal.SIGKILL
    obsray.kill(actor)
    del calls
    oracle.check("worker_died", "actor_restarting")


def test_a_kill_in_the_middle_of_saving_costs_nothing_but_the_repetition(tmp_path):
    actor = make(10, tmp_path / "died")
    assert obsray.get([actor.hear.remote(number) for number in range(25)]) == list(range(1, 26))
    assert (tmp_path / "died").exists()
    assert obsray.get(actor.all.remote()) == list(range(25))


def test_kills_between_calls_change_nothing_a_caller_can_see():
    actor, told = make(7), 0
    for _ in range(3):
        kill(actor)
        for _ in range(20):
            told += 1
            assert obsray.get(actor.hear.remote(told)) == told
    kill(actor)
    assert obsray.get(actor.all.remote()) == list(range(1, told + 1))


def test_what_a_call_was_called_with_is_there_for_its_repetition_and_errors_and_generators_repeat():
    actor = make(1000)
    large = obsray.put(np.ones(100_000, np.int64))
    assert obsray.get(actor.hear_array.remote(large)) == 1
    del large
    assert obsray.get(actor.hear.remote(obsray.put("by reference"))) == 2
    assert [obsray.get(item) for item in actor.hear_and_yield.remote(7, 3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="8"):
        obsray.get(actor.fail.remote(8))
    kill(actor)
    assert obsray.get(actor.all.remote()) == [100_000, "by reference", 7, 7, 7, 8]


def test_without_retries_an_actor_is_only_what_it_was_when_it_was_saved():
    actor = make(3, retries=0)
    assert obsray.get([actor.hear.remote(number) for number in range(5)]) == [1, 2, 3, 4, 5]
    pid = obsray.get(actor.state.remote())[0]
    # The sixth call was the second time to save.
    obsray.get(actor.hear.remote(5))
    os.kill(pid, signal.SIGKILL)

    def again() -> Any:
        try:
            return obsray.get(actor.all.remote())
        except exceptions.ActorUnavailableError:
            return None

    assert eventually(again) == [0, 1, 2, 3, 4]


def test_an_actor_is_saved_when_it_asks_and_when_time_has_passed(session):
    asks, waits = make(None), make(None, checkpoint_seconds=0.05)
    obsray.get([asks.hear.remote(0), asks.hear_and_save.remote(1), waits.hear.remote(0)])
    for actor in (asks, waits):
        eventually(lambda actor=actor: row_of(session, actor)["checkpoints"] == 1)
        kill(actor)
    assert obsray.get(asks.state.remote())[1] == 2
    assert obsray.get(waits.state.remote())[1] == 1


@pytest.mark.parametrize("hook", ["__obsray_save__", "__obsray_restore__"])
def test_a_hook_that_raises_ends_the_actor_with_an_error_that_says_so(session, hook):
    def broken(self: Any, *state: Any) -> None:
        raise OSError("no space")

    actor = obsray.remote(max_restarts=-1, max_task_retries=-1, checkpoint_every=1)(
        type("Broken", (Log,), {hook: broken})
    ).remote()
    obsray.get(actor.hear.remote(0))
    if hook == "__obsray_restore__":
        kill(actor)
    with pytest.raises(exceptions.ActorCheckpointError, match=f"(?s)Broken .*{hook} failed.*no space") as died:
        obsray.get(actor.hear.remote(1))
    assert isinstance(died.value, exceptions.ActorDiedError)
    view, identifier = views(session), actor._actor_id.hex()
    eventually(lambda: any(f"gave_up): {hook} failed" in event["text"] for event in view.story(identifier)))
    eventually(lambda: not (session / "checkpoints" / identifier).exists())


def test_what_an_actor_saved_goes_with_it(session):
    actor = make(1)
    obsray.get(actor.hear.remote(1))
    directory = session / "checkpoints" / actor._actor_id.hex()
    eventually(lambda: (directory / "1.state").exists())
    del actor
    eventually(lambda: not directory.exists())


def test_checkpoints_that_could_not_work_are_refused():
    class OneHook:
        def __obsray_save__(self) -> None: ...

    class Concurrent(Log):
        async def wait(self) -> None: ...

    for cls, options, match in (
        (OneHook, {}, "__obsray_restore__"),
        (type("None_", (), {}), {"checkpoint_every": 5}, "needs both"),
        (Concurrent, {}, "beside each other"),
    ):
        with pytest.raises(TypeError, match=match):
            obsray.remote(max_restarts=1, **options)(cls)
    for options in ({"checkpoint_every": 0}, {"checkpoint_seconds": 0}, {"checkpoint_every": True}):
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            obsray.remote(**options)(Log)
    with pytest.raises(ValueError, match="max_restarts"):
        obsray.remote(checkpoint_every=5)(Log).remote()
    with pytest.raises(TypeError, match="inside an actor"):
        obsray.actor.save_checkpoint()
    with pytest.raises(TypeError, match="max_restarts"):
        obsray.get(obsray.remote(Log).remote().hear_and_save.remote(1))
