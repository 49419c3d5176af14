"""The control store's storage in Redis: ``redis://HOST:PORT[,HOST:PORT...][/NAME][?replicas=N]``.

Every entry is a key, and keys are spread over the servers by their hash. Each server holds the epoch of the claim, and
every write is a script there that compares it first, so no server takes anything from a process whose claim is over. A
batch counts once all its servers have it, and ``replicas`` replicas of each (``WAIT``). What a crash leaves of a batch
that did not count is a gap with later numbers behind it: whoever claims next removes those.

The process that writes beats in the first server; it loses its claim when others have seen no beat for a second, and
answers nobody later than 0.7 s after its last beat without having beaten again. No clocks are compared. The password,
if there is one, is in ``OBSRAY_REDIS_PASSWORD``.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zlib import crc32

from obsray.core.control.journal import Fenced, Held, NoRoom
from obsray.core.control.resp import Connection, RedisError

BEAT_SECONDS = 0.1
FREE_SECONDS = 0.3
TAKEOVER_SECONDS = 1.0
LEASE_SECONDS = 0.7
LOOK_SECONDS = 0.05
ANSWER_SECONDS_MAX = 5.0
#: How long replicas may take to confirm.
REPLICA_SECONDS_MAX = 2.0
#: A process that has not said for this long where it is found is gone.
PLACE_SECONDS_MAX = 5
BATCH_ENTRIES_MAX = 1024
CHUNK_BYTES = 1 << 20
COMPACT_ENTRIES = 10_000
COMPACT_BYTES = 64 << 20
PORT = 6379
#: So much is written to see whether there is room again.
ROOM_BYTES = 64 << 10

#: Signs of life and claims are a few bytes, always the same keys: they are kept beyond ``maxmemory`` as well.
_ALWAYS = "#!lua flags=allow-oom\n"
_CLAIM = f"""{_ALWAYS}
if tonumber(ARGV[1]) <= tonumber(redis.call('GET', KEYS[1]) or '0') then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""
_WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED') end
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[i]) end
return 'OK'
"""
_BEAT = _ALWAYS + _WRITE
_REMOVE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED') end
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
return 'OK'
"""
#: What Redis says beyond ``maxmemory``, and when its own disk is full.
_NO_ROOM = ("OOM", "MISCONF")
_PLACE = _ALWAYS + "return redis.call('HSET', KEYS[1], ARGV[1], redis.call('TIME')[1] .. ' ' .. ARGV[2])"
_PLACES = "return {redis.call('TIME')[1], redis.call('HVALS', KEYS[1])}"


class RedisStorage:
    """As ``SqliteStorage``, over several servers. Raises ValueError for an address that is none."""

    durable = True

    def __init__(self, where: str) -> None:
        self.place = where
        servers, self._name, self._replicas = _parsed(where)
        password = os.environ.get("OBSRAY_REDIS_PASSWORD", "")
        self._servers = [Connection(host, port, password, ANSWER_SECONDS_MAX) for host, port in servers]
        #: Beats and questions about the claim do not wait behind entries.
        self._watch = Connection(*servers[0], password, ANSWER_SECONDS_MAX)
        self.epoch = 0
        self._beats = 0
        self._beaten_at = 0.0
        self._next = 1
        self._snapshot = 0
        self._kept_entries = self._kept_bytes = 0
        self._address = ""
        self._places: list[str] = []
        self._ended = threading.Event()
        self._renewing = threading.Lock()
        self._beater = threading.Thread(target=self._keep_beating, name="obsray-control-beat", daemon=True)
        for server in self._servers:
            server.ask("PING")

    # --- who writes -----------------------------------------------------------------------------------------

    def acquire(self) -> None:
        before, until = self._last_beat(), time.monotonic() + TAKEOVER_SECONDS
        while before and time.monotonic() < until:
            if self._last_beat() != before:
                raise Held(self._holder())
            time.sleep(LOOK_SECONDS)
        if not self._claim():
            raise Held(self._holder())

    def stand_by(self, stopped: Callable[[], bool], follow: Callable[[], None]) -> str:
        # Nothing is followed: what one server has may be gone with it, until the replicas have it, too.
        seen, seen_at = self._last_beat(), time.monotonic()
        while not stopped():
            time.sleep(LOOK_SECONDS)
            beat = self._last_beat()
            now = time.monotonic()
            if beat != seen:
                seen, seen_at = beat, now
            quiet_seconds = now - seen_at
            if quiet_seconds >= (TAKEOVER_SECONDS if seen else FREE_SECONDS):
                why = f"no sign of life for {quiet_seconds:.1f} s; {self._holder()}"
                if self._claim():
                    return why
        return ""

    def _claim(self) -> bool:
        """Take the next epoch on every server. False: somebody else was faster."""
        epoch = 1 + max(int(server.ask("GET", self._key("epoch")) or 0) for server in self._servers)
        holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since_ns": time.time_ns()})
        for server in self._servers:
            if not server.ask("EVAL", _CLAIM, 2, self._key("epoch"), self._key("holder"), epoch, holder):
                return False
            self._confirm(server)
        self.epoch = epoch
        self._beat()
        if not self._beater.is_alive():
            self._beater.start()
        return True

    def _holder(self) -> str:
        text = self._watch.ask("GET", self._key("holder"))
        if text is None:
            return f"another process is about to use {self.place}"
        claim = json.loads(text)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(claim["since_ns"] / 1e9))
        return f"the control store with pid {claim['pid']} on {claim['host']} has held {self.place} since {since}"

    # --- signs of life --------------------------------------------------------------------------------------

    def renew(self) -> None:
        if time.monotonic() - self._beaten_at > LEASE_SECONDS:
            self._beat()

    def _beat(self) -> None:
        with self._renewing:
            started_at = time.monotonic()
            self._beats += 1
            text = f"{self.epoch} {self._beats}"
            self._scripted(self._watch, _BEAT, [self._key("beat")], [text])
            self._beaten_at = started_at

    def _last_beat(self) -> bytes:
        return self._watch.ask("GET", self._key("beat")) or b""

    def _keep_beating(self) -> None:
        turn = 0
        while not self._ended.wait(BEAT_SECONDS):
            try:
                if self.epoch:
                    self._beat()
                if turn % 5 == 0:
                    self._exchange_places()
                turn += 1
            except Fenced:
                # Whoever answers or writes next is told the same.
                return
            except OSError:
                # Tried again; until then nothing is answered for longer than the lease.
                continue

    # --- entries --------------------------------------------------------------------------------------------

    def load(self, more: bool = False) -> tuple[bytes, Iterator[bytes]]:
        described = self._on("snapshot").ask("GET", self._key("snapshot"))
        number, chunks = map(int, described.split()) if described else (0, 0)
        state = b"".join(self._read([f"snapshot:{number}:{chunk}" for chunk in range(chunks)], whole=True))
        self._snapshot = number
        found = list(self._replay(number))
        self._next = number + len(found) + 1
        self._kept_entries, self._kept_bytes = len(found), sum(map(len, found))
        self._remove([f"entry:{each}" for each in range(self._next, self._next + BATCH_ENTRIES_MAX)])
        return state, iter(found)

    def _replay(self, after: int) -> Iterator[bytes]:
        while True:
            wanted = range(after + 1, after + 1 + BATCH_ENTRIES_MAX)
            for entry in self._read([f"entry:{number}" for number in wanted]):
                after += 1
                yield entry
            if after < wanted[-1]:
                return

    def _read(self, names: list[str], whole: bool = False) -> list[bytes]:
        """The values of keys, up to the first that is not there. Raises ValueError for that if ``whole``."""
        values: dict[str, bytes | None] = {}
        for server, part in self._spread(names).items():
            replies = server.ask_all([("GET", self._key(name)) for name in part])
            for name, value in zip(part, replies, strict=True):
                if isinstance(value, RedisError):
                    raise OSError(f"redis at {server.address}: {value}")
                values[name] = value
        found: list[bytes] = []
        for name in names:
            value = values[name]
            if value is None:
                if whole:
                    raise ValueError(f"{self.place}: {name} is missing")
                break
            found.append(value)
        return found

    def append(self, entries: list[bytes]) -> None:
        for start in range(0, len(entries), BATCH_ENTRIES_MAX):
            batch = entries[start : start + BATCH_ENTRIES_MAX]
            self._write({f"entry:{number}": entry for number, entry in enumerate(batch, self._next)})
            self._next += len(batch)
            self._kept_entries += len(batch)
            self._kept_bytes += sum(map(len, batch))

    def try_to_write(self) -> None:
        for server in self._servers:
            self._scripted(server, _WRITE, [self._key("room")], [bytes(ROOM_BYTES)])
            self._scripted(server, _REMOVE, [self._key("room")], [])

    def compact(self, state: bytes) -> None:
        before, number = self._snapshot, self._next - 1
        old_chunks = self._on("snapshot").ask("GET", self._key("snapshot"))
        chunks = [state[start : start + CHUNK_BYTES] for start in range(0, len(state), CHUNK_BYTES)]
        for index, chunk in enumerate(chunks):
            self._write({f"snapshot:{number}:{index}": chunk})
        # From here on it counts.
        self._write({"snapshot": b"%d %d" % (number, len(chunks))})
        self._snapshot = number
        if old_chunks and before != number:
            self._remove([f"snapshot:{before}:{index}" for index in range(int(old_chunks.split()[1]))])
        for start in range(before + 1, number + 1, BATCH_ENTRIES_MAX):
            stop = min(number + 1, start + BATCH_ENTRIES_MAX)
            self._remove([f"entry:{each}" for each in range(start, stop)])
        self._kept_entries = self._kept_bytes = 0

    @property
    def compaction_due(self) -> bool:
        return self._kept_entries >= COMPACT_ENTRIES or self._kept_bytes >= COMPACT_BYTES

    def _write(self, values: dict[str, bytes]) -> None:
        for server, names in self._spread(list(values)).items():
            self._scripted(server, _WRITE, [self._key(name) for name in names], [values[name] for name in names])
            self._confirm(server)

    def _remove(self, names: list[str]) -> None:
        for server, part in self._spread(names).items():
            self._scripted(server, _REMOVE, [self._key(name) for name in part], [])

    def _scripted(self, server: Connection, script: str, keys: list[str], values: list[Any]) -> None:
        try:
            server.ask("EVAL", script, 1 + len(keys), self._key("epoch"), *keys, self.epoch, *values)
        except RedisError as error:
            if "FENCED" in str(error):
                raise Fenced(f"{self._holder()}; epoch {self.epoch} of this process is over") from error
            kind = NoRoom if str(error).startswith(_NO_ROOM) else OSError
            raise kind(f"redis at {server.address}: {error}") from error

    def _confirm(self, server: Connection) -> None:
        if self._replicas:
            have = server.ask("WAIT", self._replicas, int(REPLICA_SECONDS_MAX * 1000))
            if have < self._replicas:
                raise OSError(
                    f"redis at {server.address}: {have} of {self._replicas} replicas have confirmed a write in "
                    f"{REPLICA_SECONDS_MAX:g} s"
                )

    def _key(self, name: str) -> str:
        return f"{self._name}:{name}"

    def _on(self, name: str) -> Connection:
        return self._servers[crc32(name.encode()) % len(self._servers)]

    def _spread(self, names: list[str]) -> dict[Connection, list[str]]:
        found: dict[Connection, list[str]] = defaultdict(list)
        for name in names:
            found[self._on(name)].append(name)
        return found

    # --- where to find it -----------------------------------------------------------------------------------

    def announce(self, address: str) -> None:
        self._address = address
        self._exchange_places()
        if not self._beater.is_alive():
            self._beater.start()

    def _exchange_places(self) -> None:
        if self._address:
            name = f"{socket.gethostname()} {os.getpid()}"
            self._watch.ask("EVAL", _PLACE, 1, self._key("places"), name, self._address)
        now, found = self._watch.ask("EVAL", _PLACES, 1, self._key("places"))
        told = [text.decode().split(" ") for text in found]
        self._places = sorted(address for at, address in told if int(now) - int(at) <= PLACE_SECONDS_MAX)

    def places(self) -> list[str]:
        return self._places

    def close(self) -> None:
        self._ended.set()
        if self._beater.is_alive():
            self._beater.join()
        try:
            if self._address:
                self._watch.ask("HDEL", self._key("places"), f"{socket.gethostname()} {os.getpid()}")
            if self.epoch:
                self._scripted(self._watch, _REMOVE, [self._key("beat")], [])
        except OSError:
            # It lost its claim, or the server is gone; others find out by the beats.
            pass
        for server in (*self._servers, self._watch):
            server.close()


def _parsed(where: str) -> tuple[list[tuple[str, int]], str, int]:
    parts = urlsplit(where)
    options = parse_qs(parts.query)
    try:
        servers = []
        for text in parts.netloc.split(","):
            host, separator, port = text.rpartition(":")
            servers.append((host.strip("[]"), int(port)) if separator else (text, PORT))
        replicas = int(options.pop("replicas", ["0"])[0])
        if options or not all(host for host, _ in servers) or replicas < 0 or "@" in parts.netloc:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{where!r} is not redis://HOST:PORT[,HOST:PORT...][/NAME][?replicas=N] "
            "(a password goes into OBSRAY_REDIS_PASSWORD)"
        ) from None
    return servers, parts.path.strip("/") or "obsray", replicas
