"""The control store's storage in a directory: SQLite in WAL mode.

``control.db`` holds entries, the newest snapshot and the claim (epoch, process); ``lock`` is locked by the process that
writes, ``beat`` is touched by it several times a second and says which process it is, and ``places/`` says where
processes listen.

A commit is one transaction that looks at the epoch first, flushed to the disk before it counts
(``synchronous=FULL``): a transaction that was cut off at any byte never was. What is damaged before the end is refused
and named: the write-ahead log is looked at before it is opened, and ``tail`` says how many entries there must be. A
process that dies gives its lock back at once. One that stands still keeps the lock but its beats end: then the claim is
taken from it, and when it goes on it finds the epoch changed.

Who stands by reads entries as they are written, over a connection that can write nothing, not even what the last one
that closes writes back. What a transaction shows to readers is flushed, so it stays.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import signal
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path

from obsray.core.control.journal import Fenced, Held, NoRoom
from obsray.core.control.write_ahead_log import damaged_at
from obsray.telemetry.pids import stat_of
from obsray.telemetry.small_files import write_whole

BEAT_SECONDS = 0.1
#: A lock that is free is taken only once no beat came for this long, unless its process is known to have ended: it may
#: be that of a process that stood still.
FREE_SECONDS = 0.3
#: Without a beat for this long, the one that writes has lost its claim.
TAKEOVER_SECONDS = 1.0
#: So long after its last beat a process may answer without looking at the epoch again.
LEASE_SECONDS = 0.7
LOOK_SECONDS = 0.02
#: In ``beat``: when (monotonic) and under which epoch; and of the process with that epoch: where its number means
#: something, its number, when it started, its epoch.
_BEAT, _BEATER = struct.Struct("<QQ"), struct.Struct("<8sQQQ")
BUSY_SECONDS = 0.3
#: The write-ahead log begins anew after so many pages: whoever takes over looks through it first.
LOG_PAGES = 100
COMPACT_ENTRIES = 10_000
COMPACT_BYTES = 64 << 20

_TABLES = """
CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, entry BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER, state BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS claim (
    id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER, pid INTEGER, started INTEGER, host TEXT, since_ns INTEGER);
CREATE TABLE IF NOT EXISTS tail (id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER);
"""
#: What SQLite says where the disk is full, or has become read-only.
_NO_ROOM = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
)


class SqliteStorage:
    """One directory. Methods may be called from any thread, one at a time for ``append`` and ``compact``."""

    durable = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.epoch = 0
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / "places").mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._beat = os.open(directory / "beat", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._locked = False
        self._next = 1
        self._kept_bytes = self._kept_entries = 0
        #: Of the newest snapshot that was seen, and of the database when all of it had been loaded.
        self._snapshot = self._version = 0
        self._renewing = threading.Lock()
        self._beaten_at = 0.0
        self._end = _EndOfProcess()
        self._ended = threading.Event()
        self._beater = threading.Thread(target=self._keep_beating, name="obsray-control-beat", daemon=True)

    @property
    def place(self) -> str:
        return str(self.directory)

    @cached_property
    def _writer(self) -> sqlite3.Connection:
        if self._locked:
            self._look_at_log()
        with _as_os_error(self.place):
            connection = self._connect()
            connection.executescript(_TABLES)
        return connection

    @cached_property
    def _reader(self) -> sqlite3.Connection:
        # Makes the tables.
        _ = self._writer
        with _as_os_error(self.place):
            return self._connect()

    @cached_property
    def _follower(self) -> sqlite3.Connection:
        place = f"{(self.directory / 'control.db').absolute().as_uri()}?mode=ro"
        with _as_os_error(self.place):
            return sqlite3.connect(place, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True)

    def _look_at_log(self) -> None:
        """Raise ValueError if opening the database would drop what was acknowledged."""
        log = self.directory / "control.db-wal"
        offset = damaged_at(log)
        if offset is not None:
            raise ValueError(
                f"{log} is damaged at byte {offset}, and acknowledged changes follow. Nothing was changed: restore a "
                f"copy of {self.directory}, or go on with what came before by `truncate -s {offset} {log}`"
            )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.directory / "control.db", timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}").fetchall()
        return connection

    # --- who writes -----------------------------------------------------------------------------------------

    def acquire(self) -> None:
        if not self._try_lock():
            raise Held(self._holder())
        if self._claimed() and not self._is_over() and self._is_beaten(FREE_SECONDS):
            self._unlock()
            raise Held(self._holder())
        self._claim()

    def stand_by(self, stopped: Callable[[], bool], follow: Callable[[], None]) -> str:
        seen, seen_at = self._last_beat(), time.monotonic()
        while not stopped():
            self._end.wait(self._beater_of_this_machine(), LOOK_SECONDS)
            now, beat = time.monotonic(), self._last_beat()
            if beat != seen:
                seen, seen_at = beat, now
            quiet_seconds, over = now - seen_at, self._is_over()
            if quiet_seconds < FREE_SECONDS and not over:
                follow()
                continue
            locked = self._try_lock()
            before = self._holder()
            if locked or quiet_seconds >= TAKEOVER_SECONDS:
                how = "its process has ended" if over else f"no sign of life for {quiet_seconds:.1f} s"
                why = f"{how}; {before}"
                if self._claim_from_anybody():
                    return why
        return ""

    def _claim_from_anybody(self) -> bool:
        try:
            self._claim()
        except OSError:
            # It stands still in the middle of a transaction, which nobody else can end.
            self._kill_holder()
            return False
        return True

    def _claim(self) -> None:
        with _as_os_error(self.place), self._transaction():
            row = self._writer.execute("SELECT epoch FROM claim").fetchone()
            epoch = (row[0] if row else 0) + 1
            pid = os.getpid()
            self._writer.execute(
                "INSERT OR REPLACE INTO claim VALUES (1, ?, ?, ?, ?, ?)",
                (epoch, pid, _started(pid), socket.gethostname(), time.time_ns()),
            )
        self.epoch = epoch
        os.pwrite(self._beat, _BEATER.pack(_here(), pid, _started(pid), epoch), _BEAT.size)
        self._write_beat(time.monotonic())
        self._beater.start()

    def _claimed(self) -> tuple[int, int, int, str, int] | None:
        query = "SELECT epoch, pid, started, host, since_ns FROM claim"
        with _as_os_error(self.place):
            row: tuple[int, int, int, str, int] | None = self._reader.execute(query).fetchone()
        return row

    def _holder(self) -> str:
        claim = self._claimed()
        if claim is None:
            return f"another process is about to use {self.directory}"
        _, pid, _, host, since_ns = claim
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since_ns / 1e9))
        return f"the control store with pid {pid} on {host} has held {self.directory} since {since}"

    def _kill_holder(self) -> None:
        claim = self._claimed()
        if claim is not None and claim[3] == socket.gethostname() and _started(claim[1]) == claim[2] != 0:
            os.kill(claim[1], signal.SIGKILL)

    def _try_lock(self) -> bool:
        if not self._locked:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._locked = True
        return True

    def _unlock(self) -> None:
        if self._locked:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._locked = False

    # --- signs of life --------------------------------------------------------------------------------------

    def renew(self) -> None:
        with self._renewing:
            now = time.monotonic()
            if now - self._beaten_at > LEASE_SECONDS:
                self._check_epoch(self._reader)
            self._write_beat(now)

    def _write_beat(self, now: float) -> None:
        os.pwrite(self._beat, _BEAT.pack(int(now * 1e9), self.epoch), 0)
        self._beaten_at = now

    def _last_beat(self) -> bytes:
        return os.pread(self._beat, _BEAT.size, 0)

    def _is_over(self) -> bool:
        """Whether who beat last is a process of this machine that is not there any more."""
        pid, started = self._beater_of_this_machine()
        return bool(started) and _started(pid) != started

    def _beater_of_this_machine(self) -> tuple[int, int]:
        """Who beat last and when it started; zeros if it is not known to be a process of this machine."""
        written = os.pread(self._beat, _BEAT.size + _BEATER.size, 0)
        if len(written) < _BEAT.size + _BEATER.size:
            return 0, 0
        where, pid, started, epoch = _BEATER.unpack_from(written, _BEAT.size)
        return (pid, started) if where == _here() and epoch == _BEAT.unpack_from(written)[1] else (0, 0)

    def _is_beaten(self, seconds: float) -> bool:
        before, until = self._last_beat(), time.monotonic() + seconds
        while time.monotonic() < until:
            if self._last_beat() != before:
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def _keep_beating(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                self.renew()
            except OSError:
                # Whoever answers or writes next is told the same.
                return
            # Taken over from a process that stood still: its lock is free when it has ended.
            self._try_lock()

    # --- entries --------------------------------------------------------------------------------------------

    def load(self, more: bool = False) -> tuple[bytes | None, Iterator[bytes]]:
        connection = self._writer if self.epoch else self._follower
        # One that writes sees its own changes there, another one those of all others.
        with _as_os_error(self.place):
            version = connection.execute("PRAGMA data_version").fetchone()[0]
            if more and not self.epoch and version == self._version:
                return None, iter(())
            connection.execute("BEGIN")
            try:
                found = self._load(connection, more)
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")
        self._version = version
        return found

    def _load(self, connection: sqlite3.Connection, more: bool) -> tuple[bytes | None, Iterator[bytes]]:
        """In a transaction, so that no snapshot takes the place of entries meanwhile."""
        row = connection.execute("SELECT number FROM snapshot").fetchone()
        snapshot, before = row[0] if row else 0, self._next - 1
        state = None
        if not more or before < snapshot:
            row = connection.execute("SELECT state FROM snapshot").fetchone()
            state, before = bytes(row[0]) if row else b"", snapshot
        if state is not None or snapshot != self._snapshot:
            self._kept_bytes = 0
        entries = []
        query = "SELECT number, entry FROM entries WHERE number > ? ORDER BY number"
        for expected, (number, entry) in enumerate(connection.execute(query, (before,)), before + 1):
            if number != expected:
                raise ValueError(f"{self.directory}: entry {expected} is missing")
            entries.append(entry)
        last = before + len(entries)
        told = connection.execute("SELECT number FROM tail").fetchone()
        if told is not None and told[0] != last:
            raise ValueError(f"{self.directory}/control.db is damaged: entry {last + 1} of {told[0]} is missing")
        self._next, self._snapshot = last + 1, snapshot
        self._kept_entries = last - snapshot
        self._kept_bytes += sum(map(len, entries))
        return state, iter(entries)

    def append(self, entries: list[bytes]) -> None:
        with _as_os_error(self.place), self._transaction():
            self._check_epoch(self._writer)
            numbered = list(enumerate(entries, self._next))
            self._writer.executemany("INSERT INTO entries VALUES (?, ?)", numbered)
            self._writer.execute("INSERT OR REPLACE INTO tail VALUES (1, ?)", (numbered[-1][0],))
        self._next += len(entries)
        self._kept_entries += len(entries)
        self._kept_bytes += sum(map(len, entries))

    def try_to_write(self) -> None:
        with _as_os_error(self.place), self._transaction():
            self._check_epoch(self._writer)
            self._writer.execute("UPDATE claim SET epoch = epoch")

    def compact(self, state: bytes) -> None:
        with _as_os_error(self.place):
            with self._transaction():
                self._check_epoch(self._writer)
                self._writer.execute("INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?)", (self._next - 1, state))
                self._writer.execute("DELETE FROM entries WHERE number < ?", (self._next,))
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._snapshot = self._next - 1
        self._kept_entries = self._kept_bytes = 0

    @property
    def compaction_due(self) -> bool:
        return self._kept_entries >= COMPACT_ENTRIES or self._kept_bytes >= COMPACT_BYTES

    def _check_epoch(self, connection: sqlite3.Connection) -> None:
        with _as_os_error(self.place):
            row = connection.execute("SELECT epoch FROM claim").fetchone()
        if row is None or row[0] != self.epoch:
            raise Fenced(f"{self._holder()}; epoch {self.epoch} of this process is over")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    # --- where to find it -----------------------------------------------------------------------------------

    def announce(self, address: str) -> None:
        write_whole(self.directory / "places" / str(os.getpid()), address)

    def places(self) -> list[str]:
        found = []
        for path in sorted((self.directory / "places").iterdir()):
            if path.suffix:
                continue
            if _started(int(path.name)):
                found.append(path.read_text())
            else:
                path.unlink(missing_ok=True)
        return found

    def close(self) -> None:
        self._ended.set()
        if self._beater.is_alive():
            self._beater.join()
        (self.directory / "places" / str(os.getpid())).unlink(missing_ok=True)
        for name in ("_follower", "_reader", "_writer"):
            if name in self.__dict__:
                getattr(self, name).close()
        os.close(self._beat)
        self._end.close()
        # Unlocks it.
        os.close(self._lock)


class _EndOfProcess:
    """Waits, and no longer than until a process has ended. One thread uses it."""

    def __init__(self) -> None:
        self._process = 0, 0
        self._descriptor = -1

    def wait(self, process: tuple[int, int], seconds: float) -> None:
        """``process``: its number, and when it started (``_started``). One that has ended already is not waited for."""
        if process != self._process:
            self.close()
            self._process = process
            try:
                self._descriptor = os.pidfd_open(process[0]) if process[1] else -1
            except OSError:
                self._descriptor = -1
        if self._descriptor < 0:
            time.sleep(seconds)
            return
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if poll.poll(seconds * 1000):
            self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def _as_os_error(place: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        kind = NoRoom if getattr(error, "sqlite_errorcode", 0) in _NO_ROOM else OSError
        raise kind(f"{place}/control.db: {error}") from error


@cache
def _here() -> bytes:
    """What processes have in common for whom numbers of processes mean the same: machine, boot and namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return hashlib.sha256(f"{boot} {os.stat('/proc/self/ns/pid').st_ino}".encode()).digest()[:8]


def _started(pid: int) -> int:
    """When a process started, in ticks since boot; 0 if there is none."""
    found = stat_of(pid)
    return found.started if found else 0
