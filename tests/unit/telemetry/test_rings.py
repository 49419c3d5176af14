"""Reading rings: every complete record once, nothing that is half written, and all that is missing is counted."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from obsray.telemetry import last_words, rings, spine
from obsray.telemetry.columns import Texts
from obsray.telemetry.events import EVENTS, RECORD_BYTES
from obsray.telemetry.pids import process_alive
from obsray.telemetry.rings import RingDirectory
from obsray.telemetry.spine import FINAL_ATTEMPT, HEADER_BYTES, SEGMENT_RECORDS
from tests.unit.telemetry.recording import emit, emit_many, open_ring


@pytest.fixture
def chance():
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture(params=["compiled", "python"], autouse=True)
def writer(request, monkeypatch):
    """Rings are read the same whoever packed their records."""
    assert spine._record_writer is not None, "record_writer.c was not compiled: install gcc, then obsray again"
    if request.param == "python":
        monkeypatch.setattr(spine, "_record_writer", None)


def drain(directory: RingDirectory) -> int:
    total = 0
    while True:
        directory.scan()
        _, count = directory.read()
        if not count:
            return total
        total += count


def reader_of(session: Path) -> RingDirectory:
    return RingDirectory(session / "rings", Texts())


def mark(ring, count: int) -> None:
    for number in range(count):
        ring.user_mark(number + 1, bytes(16), 0, 0)


def test_nothing_is_read_twice(tmp_path, chance):
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    assert drain(directory) == 1
    mark(ring, 10)
    assert drain(directory) == 10
    assert drain(directory) == 0


def test_a_chain_of_segments_is_read_to_its_end(tmp_path, chance):
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    mark(ring, 3 * SEGMENT_RECORDS)
    assert drain(directory) == 3 * SEGMENT_RECORDS + 1
    state = directory.readers[ring.process].state
    assert (state.position, state.gaps, state.dropped) == (3 * SEGMENT_RECORDS + 1, 0, 0)


def test_a_record_of_an_unknown_kind_is_counted_and_skipped(tmp_path, chance):
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    mark(ring, 3)
    path = next((tmp_path / "rings").glob("*.ring"))
    with open(path, "r+b") as file:
        file.seek(HEADER_BYTES + 2 * RECORD_BYTES + 8)
        file.write((60_000).to_bytes(2, "little"))
    assert drain(directory) == 4
    assert directory.unknown == 1


def test_a_hole_hides_what_follows_until_it_is_filled(tmp_path, chance):
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    drain(directory)
    number = ring._take()  # a thread took a number and has not written yet
    mark(ring, 2)
    assert drain(directory) == 0
    pack = EVENTS[129].struct.pack_into
    pack(ring.buffer, (number - ring.base) * RECORD_BYTES, 7, 129, 0, bytes(16), 0, 0, number + 1)
    assert drain(directory) == 3
    assert directory.readers[ring.process].state.gaps == 0


def test_a_hole_that_stays_is_stepped_over_and_counted(tmp_path, chance, monkeypatch):
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    drain(directory)
    ring._take()
    mark(ring, 2)
    assert drain(directory) == 0
    monkeypatch.setattr(rings, "HOLE_SECONDS", -1.0)
    assert drain(directory) == 2
    assert directory.readers[ring.process].state.gaps == 1


def test_holes_of_a_dead_process_are_stepped_over_at_once(tmp_path, chance, monkeypatch):
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    ring._take()
    mark(ring, 1)
    ring._take()
    mark(ring, SEGMENT_RECORDS)
    monkeypatch.setattr(rings, "process_alive", lambda pid, started: False)
    assert drain(directory) == SEGMENT_RECORDS + 2
    assert directory.readers[ring.process].state.gaps == 2


def test_a_record_cut_short_is_not_read(tmp_path, chance):
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    mark(ring, 2)
    path = next((tmp_path / "rings").glob("*.ring"))
    with open(path, "r+b") as file:  # everything but the sequence, which is written last
        file.seek(HEADER_BYTES + 3 * RECORD_BYTES)
        file.write(bytes([255]) * (RECORD_BYTES - 4))
    assert drain(directory) == 3


def test_files_that_are_no_segments_are_left_alone(tmp_path, chance):
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    (tmp_path / "rings" / f"{'0' * 16}.000000.ring").write_bytes(b"x" * 100_000)
    (tmp_path / "rings" / f"{'1' * 16}.000000.ring").write_bytes(b"")
    (tmp_path / "rings" / "readme.txt").write_text("hello")
    (tmp_path / "rings" / f"{'g' * 16}.000000.ring").write_bytes(b"")
    assert drain(directory) == 1
    assert ring.process in directory.readers


def test_dropped_records_are_counted(tmp_path, chance, monkeypatch):
    monkeypatch.setattr(spine, "SEGMENTS_MAX", 2)
    monkeypatch.setattr(spine, "DROP_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(spine, "DROP_TRY_SECONDS", 0.0)
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    mark(ring, 4 * SEGMENT_RECORDS)  # two segments fit, two go nowhere
    kept = drain(directory)
    for path in (tmp_path / "rings").glob("*.ring"):
        path.unlink()
    mark(ring, SEGMENT_RECORDS)
    kept += drain(directory)
    state = directory.readers[ring.process].state
    assert ring.dropped > 0
    assert state.dropped == ring.dropped
    assert kept + state.dropped + state.gaps == state.position
    assert state.gaps == 0


@pytest.fixture
def disk(monkeypatch):
    """Set it to "full", and no room is given any more."""
    real = {"posix_fallocate": os.posix_fallocate, "write": os.write}
    state = {"full": False, "bytes": 0}

    def no_room():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(fd, data):
        if not state["full"]:
            return real["write"](fd, data)
        if not state["bytes"]:
            no_room()
        room, state["bytes"] = state["bytes"], 0
        return real["write"](fd, bytes(data)[:room])

    monkeypatch.setattr(os, "posix_fallocate", lambda *a: no_room() if state["full"] else real["posix_fallocate"](*a))
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(spine, "DROP_TRY_SECONDS", 0.0)
    return state


def test_on_a_full_disk_records_are_lost_counted_at_once_and_kept_again_soon_after_there_is_room(
    tmp_path, chance, disk
):
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    mark(ring, SEGMENT_RECORDS - 1)
    disk["full"] = True
    mark(ring, 1000)
    assert drain(directory) == SEGMENT_RECORDS and "space" in ring.dropping
    reader = directory.readers[ring.process]
    # Nobody has to wait for room to know of it; the newest few are counted with the next ones.
    assert 1000 - spine.DROP_RECORDS <= reader.dropping() <= 1000
    assert reader.state.dropped == 0
    disk["full"] = False
    mark(ring, 200)
    assert drain(directory) > 200 - 2 * spine.DROP_RECORDS and not ring.dropping
    state = reader.state
    assert state.dropped == ring.dropped and 1000 <= state.dropped <= 1000 + spine.DROP_RECORDS
    assert reader.dropping() == state.gaps == 0
    # One record more than was marked twice: the first says that the ring was opened, another how many are lost.
    assert state.position == SEGMENT_RECORDS - 1 + 1000 + 200 + 2 == state.records + state.dropped


def test_a_process_may_begin_on_a_full_disk_and_records_when_there_is_room(tmp_path, chance, disk):
    disk["full"] = True
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    ring.running(0, bytes(16), 1, 1, 0)
    mark(ring, 500)
    assert drain(directory) == 0
    disk["full"] = False
    mark(ring, 500)
    drain(directory)
    state = directory.readers[ring.process].state
    assert 500 <= state.dropped <= 500 + spine.DROP_RECORDS + 1 and state.position == 1 + 1000 + 1
    assert state.records + state.dropped == state.position and state.pid == os.getpid()


def test_what_a_process_lost_before_it_was_killed_is_counted(tmp_path, chance, disk, monkeypatch):
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    mark(ring, SEGMENT_RECORDS - 1)
    disk["full"] = True
    mark(ring, 10 * spine.DROP_RECORDS)
    drain(directory)
    monkeypatch.setattr(rings, "process_alive", lambda *a: False)
    directory._checked.clear()
    drain(directory)
    state = directory.readers[ring.process].state
    assert state.position == state.records + state.dropped and state.dropped >= 9 * spine.DROP_RECORDS
    again = reader_of(tmp_path)
    drain(again)
    assert again.readers[ring.process].state == state


def test_text_that_had_no_room_is_written_later_and_never_mistaken_for_another(tmp_path, chance, disk):
    directory = reader_of(tmp_path)
    first, second = open_ring(tmp_path, chance), open_ring(tmp_path, chance)

    def told() -> list[str]:
        directory.scan()
        return [directory.texts[code] for code in directory.read()[0]["user_mark"]["name"].tolist()]

    for ring in (first, second):
        ring.user_mark(5, bytes(16), ring.intern("known"), 0)
    assert told() == ["known", "known"]
    disk.update(full=True, bytes=5)  # the entry is cut off in the middle
    late = first.intern("late")
    first.user_mark(6, bytes(16), late, 0)
    assert told() == [""]
    disk["full"] = False
    later = first.intern("later")
    for number in (late, later):
        first.user_mark(7, bytes(16), number, 0)
    assert told() == ["late", "later"]


def test_text_is_found_under_the_number_its_own_process_gave_it(tmp_path, chance):
    directory = reader_of(tmp_path)
    first, second = open_ring(tmp_path, chance), open_ring(tmp_path, chance)
    second.intern("something else")
    for ring, text in ((first, "alpha"), (second, "beta")):
        ring.user_mark(5, bytes(16), ring.intern(text), 0)
    directory.scan()
    batch, _ = directory.read()
    marks = batch["user_mark"]
    assert {directory.texts[code] for code in marks["name"].tolist()} == {"alpha", "beta"}


_WRITER = """
import random, sys
from pathlib import Path
from tests.unit.telemetry.recording import open_ring
ring = open_ring(Path(sys.argv[1]), random.Random(1))
number = 0
while True:
    for _ in range(1000):
        number += 1
        ring.user_mark(number, bytes(16), 0, 0)
    print(number, flush=True)
"""


def test_a_writer_killed_in_the_middle_loses_nothing_complete(tmp_path):
    root = Path(__file__).resolve().parents[3]
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert writer.stdout is not None
    while int(writer.stdout.readline()) < 30_000:
        pass
    writer.send_signal(signal.SIGKILL)
    said = [int(line) for line in writer.stdout.read().splitlines()]
    writer.wait()
    directory = reader_of(tmp_path)
    directory.scan()
    times, count = [], 0
    while True:
        batch, found = directory.read()
        if not found:
            break
        count += found
        if "user_mark" in batch:
            times += batch["user_mark"]["time_ns"].tolist()
        directory.scan()
    assert count >= max([30_000, *said]) + 1
    assert times == list(range(1, len(times) + 1))


def test_attempts_that_a_killed_process_had_begun_and_not_recorded_are_added_to_its_records_once(tmp_path, chance):
    ring = open_ring(tmp_path, chance)
    name = ring.intern("shortly")
    mark(ring, 3)
    tasks = [bytes([number]) * 16 for number in range(1, 5)]
    for slot, task in enumerate(tasks):
        ring.running(slot, task, 100 + slot, name, slot | FINAL_ATTEMPT)
    ring.idle(1)
    ring.task_started(150, tasks[2], 2, 0, 0, bytes(16), name, 100, 101, 102)
    ring.told(2, 102)
    directory = reader_of(tmp_path)
    drain(directory)
    # Killed between taking a number and writing the record.
    ring._take()
    assert last_words.add(tmp_path / "rings", ring.process) == 2
    assert last_words.add(tmp_path / "rings", ring.process) == 0
    directory.scan()
    batch, count = directory.read()
    rows = list(batch["task_started"].rows(directory.texts))
    assert count == 2 and [(row["task"], row["attempt"], row["started_at"]) for row in rows] == [
        (tasks[0], 0, 100), (tasks[3], 3, 103),
    ]  # fmt: skip
    assert {(row["name"], row["process"]) for row in rows} == {("shortly", ring.process)}
    assert directory.readers[ring.process].state.gaps == 0
    # What began later in the same thread is another attempt.
    ring.running(2, tasks[1], 300, name, 0)
    assert last_words.add(tmp_path / "rings", ring.process) == 1
    assert last_words.add(tmp_path / "rings", bytes(8)) == 0


def test_the_unwritten_rest_of_a_dead_process_is_looked_through_once(tmp_path, chance, monkeypatch):
    """With hundreds of dead, each look would cost seconds otherwise. What is added to their records is found."""
    ring = open_ring(tmp_path, chance)
    mark(ring, 3)
    monkeypatch.setattr(rings, "process_alive", lambda pid, since=0: False)
    looked: list[int] = []
    hole = rings._hole
    monkeypatch.setattr(rings, "_hole", lambda segment, slot, reach: looked.append(reach) or hole(segment, slot, reach))
    directory = reader_of(tmp_path)
    assert drain(directory) == 4
    for _ in range(3):
        assert drain(directory) == 0
    assert [reach for reach in looked if reach > rings._WINDOW] == [SEGMENT_RECORDS]
    ring.running(0, bytes(16), 100, 0, 0)
    assert directory.newly_dead() == [ring.process] and not directory.newly_dead()
    assert last_words.add(tmp_path / "rings", ring.process) == 1 and drain(directory) == 1


def test_where_the_last_file_is_full_nothing_is_added(tmp_path, chance):
    ring = open_ring(tmp_path, chance)
    mark(ring, SEGMENT_RECORDS - 1)
    ring.running(0, bytes(16), 100, 0, 0)
    assert last_words.add(tmp_path / "rings", ring.process) == 0
    assert drain(reader_of(tmp_path)) == SEGMENT_RECORDS


def test_a_process_is_alive_only_as_itself():
    assert process_alive(os.getpid(), time.time_ns())
    assert not process_alive(0)
    assert not process_alive((1 << 22) + 1)
    assert not process_alive(os.getpid(), 1), "it began after that: the pid was given to another process"


def test_random_events_keep_their_order(tmp_path, chance):
    ring, directory = open_ring(tmp_path, chance), reader_of(tmp_path)
    emit_many(ring, 500, chance)
    directory.scan()
    batch, count = directory.read()
    assert count == 501
    for columns in batch.values():
        assert (columns["sequence"][1:] > columns["sequence"][:-1]).all()
    assert emit(ring, EVENTS[129], 1, chance)["sequence"] == 502
