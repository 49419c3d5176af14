"""A control store that stands by: it has read what was kept before it is its turn, and nothing else."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import threading

import pytest
from test_control_replay import History, snapshot
from test_sqlite_storage import WRITER

from obsray.core.control import service as services
from obsray.core.control.journal import NoStorage
from obsray.core.control.machine import ControlMachine, from_journal, journal_entry
from obsray.core.control.process import Recovery
from obsray.core.control.service import ControlService
from obsray.core.control.sqlite_storage import SqliteStorage
from obsray.telemetry.spine import Silent

SEED = random.SystemRandom().randrange(1 << 32)


def history(seed: int, steps: int) -> list[bytes]:
    """Entries of one, as they are kept."""
    draws, machine, entries = History(seed), ControlMachine(1), []
    for _ in range(steps):
        now = draws.now()
        for stimulus in [*machine.overdue(now), draws.stimulus(machine)]:
            _, events = machine.step(now, stimulus)
            if events:
                entries.append(journal_entry(now, stimulus))
    return entries


@pytest.mark.parametrize("seed", range(4))
def test_who_followed_is_at_its_turn_what_one_is_that_reads_everything_and_has_little_left_to_read(tmp_path, seed):
    print("seed", seed)
    chance, entries = random.Random(seed), history(seed, 400)
    first, machine = SqliteStorage(tmp_path), ControlMachine(1)
    first.acquire()
    first.load()
    second = SqliteStorage(tmp_path)
    follower = Recovery(second)
    unseen = 0
    while entries:
        batch = [entries.pop(0) for _ in range(min(len(entries), chance.randrange(1, 20)))]
        first.append(batch)
        unseen += len(batch)
        for entry in batch:
            machine.step(*from_journal(entry))
        what = chance.random()
        if what < 0.2:
            first.compact(machine.snapshot())
        if 0.1 < what < 0.6:
            follower.follow()
            unseen = 0
    first.close()
    second.acquire()
    warm = follower.finish()
    assert follower.entries <= unseen
    second.append([journal_entry(*from_journal(batch[-1]))])
    assert not follower._fails and warm.history.epoch == second.epoch == 2
    second.close()
    third = SqliteStorage(tmp_path)
    third.acquire()
    cold = Recovery(third).finish()
    third.close()
    machine.history.epoch = warm.history.epoch = cold.history.epoch
    assert snapshot(warm) == snapshot(machine) == snapshot(cold)
    warm.check_invariants()


def test_who_follows_one_that_is_killed_at_any_instant_has_everything_that_was_acknowledged_in_order(tmp_path):
    print("seed", SEED)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(SEED)], stdout=subprocess.PIPE)
    assert int(writer.stdout.readline()) == 3
    storage, looks, number = SqliteStorage(tmp_path), 0, 0

    def follow() -> None:
        nonlocal looks, number
        state, entries = storage.load(more=looks > 0)
        looks += 1
        if state is not None:
            number = int(state or b"0")
        for entry in entries:
            number += 1
            assert int(entry.split(b" ")[0]) == number
        if number > 500:
            writer.kill()

    acknowledged = [3]

    def listen() -> None:
        acknowledged.extend(int(line) for line in writer.stdout if line.endswith(b"\n"))

    listener = threading.Thread(target=listen)
    listener.start()
    assert "its process has ended" in storage.stand_by(lambda: False, follow)
    listener.join()
    writer.wait()
    writer.stdout.close()
    assert looks > 3
    follow()
    assert number >= acknowledged[-1]
    storage.append([b"%d " % (number + 1)])
    storage.close()
    again = SqliteStorage(tmp_path)
    again.acquire()
    state, entries = again.load()
    assert int(state or b"0") + len(list(entries)) == number + 1
    again.close()


def test_who_follows_changes_nothing_not_even_in_a_log_that_is_damaged(tmp_path):
    """SQLite would take the damaged place for the end of the log, and drop the rest when the last one closes."""
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    storage = SqliteStorage(origin)
    storage.acquire()
    storage.load()
    for number in range(1, 11):
        storage.append([b"%d " % number + bytes(500)])
    shutil.copytree(origin, copy)
    storage.close()
    log = copy / "control.db-wal"
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    (copy / "control.db-shm").unlink()
    before = {path.name: path.read_bytes() for path in (copy / "control.db", log)}
    follower = SqliteStorage(copy)
    follower.load()
    follower.close()
    assert {path.name: path.read_bytes() for path in (copy / "control.db", log)} == before
    with pytest.raises(ValueError, match=r"damaged at byte \d+"):
        SqliteStorage(copy).acquire()


def test_who_follows_before_there_is_anything_waits_for_it(tmp_path):
    second = SqliteStorage(tmp_path)
    follower = Recovery(second)
    follower.follow()
    first = SqliteStorage(tmp_path)
    first.acquire()
    first.load()
    entries = history(1, 50)
    first.append(entries)
    follower.follow()
    assert follower.entries == len(entries)
    follower.follow()
    assert follower.entries == 0
    first.close()
    second.close()


def test_what_cannot_be_read_is_said_at_its_turn_and_not_looked_at_all_the_time(tmp_path):
    first, second = SqliteStorage(tmp_path), SqliteStorage(tmp_path)
    first.acquire()
    first.load()
    first.append([*history(1, 50), b"no entry"])
    follower, looks = Recovery(second), []
    load = second.load
    second.load = lambda more=False: looks.append(more) or load(more)
    for _ in range(3):
        follower.follow()
    assert looks == [False]
    first.close()
    second.acquire()
    with pytest.raises(ValueError, match=r"entry \d+ since the snapshot cannot be read: not a journal entry"):
        follower.finish()
    second.close()


def test_who_asks_when_the_turn_comes_is_answered_and_otherwise_sent_elsewhere(monkeypatch):
    async def asked(begins: bool) -> bool:
        standby = ControlService(NoStorage(1), Silent())
        waiting = asyncio.create_task(standby._its_turn())
        await asyncio.sleep(0)
        if begins:
            machine = ControlMachine(1)
            standby.begin(machine, lambda: machine)
        answer = await waiting
        await standby.close()
        return answer

    assert asyncio.run(asyncio.wait_for(asked(True), 20))
    monkeypatch.setattr(services, "TURN_SECONDS", 0.01)
    assert not asyncio.run(asked(False))
