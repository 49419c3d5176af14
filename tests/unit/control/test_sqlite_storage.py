"""The control store's storage in a directory: nothing acknowledged is lost, and only one process writes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from obsray.core.control import sqlite_storage
from obsray.core.control.journal import Fenced, Held, sealed
from obsray.core.control.machine import from_journal, journal_entry
from obsray.core.control.sqlite_storage import SqliteStorage
from obsray.core.control.step import Instant
from obsray.core.control.write_ahead_log import damaged_at
from obsray.core.protocol import control_pb2 as pb

SEED = random.SystemRandom().randrange(1 << 32)
#: Appends batches of entries that say their numbers, and says on a pipe how many are kept; now and then a snapshot.
WRITER = """
import random, sys
from pathlib import Path
from obsray.core.control.sqlite_storage import SqliteStorage
chance = random.Random(int(sys.argv[2]))
storage = SqliteStorage(Path(sys.argv[1]))
storage.acquire()
state, entries = storage.load()
number = int(state or b"0") + len(list(entries))
while True:
    batch = [b"%d " % each + chance.randbytes(chance.randrange(3000)) for each in range(number + 1, number + 4)]
    storage.append(batch)
    number += len(batch)
    print(number, flush=True)
    if chance.random() < 0.05:
        storage.compact(b"%d" % number)
"""


def contents(directory: Path) -> int:
    """Up to which number everything is kept; fails if one is missing."""
    storage = SqliteStorage(directory)
    state, entries = storage.load()
    number = int(state or b"0")
    for entry in entries:
        number += 1
        assert int(entry.split(b" ")[0]) == number
    storage.close()
    return number


def opened(directory: Path) -> SqliteStorage:
    storage = SqliteStorage(directory)
    storage.acquire()
    storage.load()
    return storage


def test_what_is_kept_is_found_again_in_order_and_a_snapshot_takes_its_place(tmp_path):
    storage = opened(tmp_path)
    storage.append([b"1 ", b"2 "])
    storage.append([b"3 "])
    storage.close()
    assert contents(tmp_path) == 3
    storage = opened(tmp_path)
    assert storage.epoch == 2
    storage.compact(b"3")
    storage.append([b"4 "])
    storage.close()
    storage = SqliteStorage(tmp_path)
    state, entries = storage.load()
    assert (state, list(entries)) == (b"3", [b"4 "])
    storage.close()


def test_its_files_do_not_grow_without_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_storage, "COMPACT_ENTRIES", 20)
    storage = opened(tmp_path)
    for _ in range(15):
        for _ in range(10):
            storage.append([b"x" * 2_000, b"y" * 2_000])
            if storage.compaction_due:
                storage.compact(b"state")
    assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.is_file()) < 600_000
    storage.close()


def test_a_writer_that_is_killed_at_any_instant_loses_nothing_it_has_acknowledged(tmp_path):
    print("seed", SEED)
    chance = random.Random(SEED)
    acknowledged = 0
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(chance.randrange(1 << 30))], stdout=subprocess.PIPE
        )
        lines = chance.randrange(1, 60)
        for _ in range(lines):
            acknowledged = int(writer.stdout.readline())
        writer.kill()
        rest = writer.stdout.read().split(b"\n")
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
        writer.stdout.close()
        writer.wait()
        assert contents(tmp_path) >= acknowledged


def logged(tmp_path: Path, chance: random.Random, entries: int) -> tuple[SqliteStorage, list[int]]:
    """A storage with small pages, and how long its log was after each entry."""
    origin = tmp_path / "origin"
    origin.mkdir()
    maker = sqlite3.connect(origin / "control.db")
    maker.executescript("PRAGMA page_size=512; VACUUM")
    maker.close()
    storage = opened(origin)
    sizes = [0]
    for number in range(1, entries + 1):
        storage.append([b"%d " % number + chance.randbytes(100)])
        sizes.append((origin / "control.db-wal").stat().st_size)
    return storage, sizes


def test_a_write_ahead_log_that_ends_anywhere_gives_the_transactions_before(tmp_path):
    """Cut off at every byte of the last three entries, as a crash of the machine might leave it."""
    print("seed", SEED)
    storage, sizes = logged(tmp_path, random.Random(SEED), 10)
    # Where flushing costs nothing: these are thousands of databases.
    base = Path(tempfile.mkdtemp(dir="/dev/shm"))
    copy = base / "copy"
    shutil.copytree(tmp_path / "origin", copy)
    kept = {path.name: path.read_bytes() for path in copy.iterdir() if path.name.startswith("control.db")}
    for length in range(sizes[-1], sizes[-4] - 1, -1):
        (copy / "control.db").write_bytes(kept["control.db"])
        (copy / "control.db-wal").write_bytes(kept["control.db-wal"][:length])
        (copy / "control.db-shm").unlink(missing_ok=True)
        assert damaged_at(copy / "control.db-wal") is None
        reader = sqlite3.connect(copy / "control.db")
        numbers = [row[0] for row in reader.execute("SELECT number FROM entries ORDER BY number")]
        tail = reader.execute("SELECT number FROM tail").fetchone()[0]
        reader.close()
        assert numbers == list(range(1, tail + 1)) and tail == sum(size <= length for size in sizes) - 1
    for length in (sizes[-1], sizes[-2] + 1, sizes[-3]):
        (copy / "control.db").write_bytes(kept["control.db"])
        (copy / "control.db-wal").write_bytes(kept["control.db-wal"][:length])
        assert contents(copy) == sum(size <= length for size in sizes) - 1
    storage.close()
    shutil.rmtree(base)


def test_a_bit_that_flipped_before_the_end_of_the_log_is_refused_with_its_offset(tmp_path):
    """SQLite alone would take it for the end, and what was acknowledged behind it would be gone."""
    print("seed", SEED)
    chance = random.Random(SEED)
    storage, sizes = logged(tmp_path, chance, 10)
    log = tmp_path / "origin" / "control.db-wal"
    whole = log.read_bytes()
    frame = 512 + 24
    copy = tmp_path / "wal"
    for _ in range(300):
        where = chance.randrange(32, sizes[-3])
        damaged = bytearray(whole)
        damaged[where] ^= 1 << chance.randrange(8)
        copy.write_bytes(damaged)
        assert damaged_at(copy) == 32 + (where - 32) // frame * frame
    copy.write_bytes(bytes([whole[0], whole[1] ^ 1]) + whole[2:])
    assert damaged_at(copy) == 0
    storage.close()
    log.write_bytes(damaged)
    storage = SqliteStorage(tmp_path / "origin")
    with pytest.raises(ValueError, match=rf"damaged at byte \d+.*truncate -s {damaged_at(log)}"):
        storage.acquire()
    storage.close()
    assert log.read_bytes() == bytes(damaged), "what is damaged was changed"


def made_log(big: bool, frames: int, page_bytes: int, chance: random.Random) -> bytes:
    """A log of one transaction for each frame, as the documentation of its format says."""
    first = second = 0

    def summed(data: bytes) -> bytes:
        nonlocal first, second
        words = struct.unpack(f"{'>' if big else '<'}{len(data) // 4}I", data)
        for one, other in zip(words[::2], words[1::2], strict=True):
            first = (first + one + second) % 2**32
            second = (second + other + first) % 2**32
        return struct.pack(">2I", first, second)

    salts = chance.randbytes(8)
    header = struct.pack(">4I", 0x377F0682 | big, 3007000, page_bytes, 0) + salts
    log = header + summed(header)
    for number in range(1, frames + 1):
        begin, page = struct.pack(">2I", number, number), chance.randbytes(page_bytes)
        summed(begin)
        log += begin + salts + summed(page) + page
    return log


@pytest.mark.parametrize("big", [False, True], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("frames", [0, 1, 2, 3, 8])
def test_logs_of_machines_with_either_byte_order_are_looked_through(tmp_path, big, frames):
    print("seed", SEED)
    chance = random.Random(SEED)
    path = tmp_path / "wal"
    log = made_log(big, frames, 512, chance)
    path.write_bytes(log)
    assert damaged_at(path) is None
    for frame in range(frames):
        begin = 32 + frame * 536
        damaged = bytearray(log)
        damaged[begin + chance.randrange(24, 536)] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        assert damaged_at(path) == (begin if frame < frames - 1 else None), "the last one may have been cut off"


def test_entries_and_snapshots_that_are_damaged_in_the_database_are_refused(tmp_path):
    storage = opened(tmp_path)
    storage.append([sealed(b"1"), sealed(b"2"), sealed(b"3")])
    storage._writer.execute("DELETE FROM entries WHERE number = 3")
    storage.close()
    storage = SqliteStorage(tmp_path)
    storage.acquire()
    with pytest.raises(ValueError, match="entry 3 of 3 is missing"):
        storage.load()
    storage.close()
    whole = journal_entry(Instant(1, 2), pb.PutKeyRequest(request_id=b"1", key=b"key", value=b"value"))
    for position in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(ValueError, match="damaged"):
            from_journal(bytes(damaged))


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path):
    storage = opened(tmp_path)
    second = SqliteStorage(tmp_path)
    with pytest.raises(Held) as caught:
        second.acquire()
    assert f"pid {os.getpid()} on " in str(caught.value) and str(tmp_path) in str(caught.value)
    assert "since 20" in str(caught.value)
    storage.close()
    second.acquire()
    second.close()


def test_who_lost_the_claim_writes_nothing_more(tmp_path, monkeypatch):
    first = opened(tmp_path)
    first.append([b"1 "])
    first._ended.set()
    first._beater.join()
    second = SqliteStorage(tmp_path)
    why = second.stand_by(lambda: False, lambda: None)
    assert f"pid {os.getpid()}" in why and "no sign of life" in why
    second.load()
    for attempt in (lambda: first.append([b"2 "]), lambda: first.compact(b"9"), first.renew):
        with pytest.raises(Fenced, match="epoch 1 of this process is over"):
            attempt()
    second.append([b"2 "])
    first.close()
    second.close()
    assert contents(tmp_path) == 2


def test_one_that_stands_still_in_a_transaction_is_ended_by_the_next(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from obsray.core.control.sqlite_storage import SqliteStorage
storage = SqliteStorage(Path(sys.argv[1]))
storage.acquire()
storage.load()
storage.append([b"1 "])
storage._writer.execute("BEGIN IMMEDIATE")
print("stopping", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    storage = SqliteStorage(tmp_path)
    assert storage.stand_by(lambda: False, lambda: None)
    assert process.wait(10) == -signal.SIGKILL
    process.stdout.close()
    storage.load()
    storage.append([b"2 "])
    storage.close()
    assert contents(tmp_path) == 2


def test_the_log_that_whoever_takes_over_reads_first_stays_short(tmp_path):
    storage = opened(tmp_path)
    for number in range(4 * sqlite_storage.LOG_PAGES):
        storage.append([sealed(b"%d " % number + bytes(512))])
    assert (tmp_path / "control.db-wal").stat().st_size < 2 * sqlite_storage.LOG_PAGES * 4200
    storage.close()


def test_one_that_stands_by_is_woken_by_the_end_of_the_one_that_writes(tmp_path, monkeypatch):
    """Not by looking again: it would look once in a hundred seconds."""
    monkeypatch.setattr(sqlite_storage, "LOOK_SECONDS", 100.0)
    code = """
import sys
from pathlib import Path
from obsray.core.control.sqlite_storage import SqliteStorage
storage = SqliteStorage(Path(sys.argv[1]))
storage.acquire()
print("acquired", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline()
    storage = SqliteStorage(tmp_path)
    looked = iter([False, False])

    def stopped() -> bool:
        # It is killed once the other one waits, or is about to.
        threading.Timer(0.0, process.kill).start()
        return next(looked)

    began = time.monotonic()
    assert "its process has ended" in storage.stand_by(stopped, lambda: None)
    assert time.monotonic() - began < 50 and storage.epoch == 2
    process.communicate()
    storage.close()


def test_a_directory_that_holds_something_else_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "control.db").write_bytes(b"not a database" * 1000)
    storage = SqliteStorage(tmp_path)
    with pytest.raises(OSError, match=r"control\.db"):
        storage.acquire()
    storage.close()
