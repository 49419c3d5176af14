"""The simulator's time: a heap of what happens when, and the record of what happened."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from typing import Any

from obsray.telemetry.events import BY_NAME, Event
from obsray.telemetry.spine import Emitter

#: Where virtual clocks begin, nanoseconds since the epoch: any instant will do as long as it is always the same.
START_NS = 1_700_000_000_000_000_000
MICROSECOND_NS = 1_000
MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000


class Appointment:
    """Something that will happen unless it is called off."""

    __slots__ = ("action", "arguments")

    def __init__(self, action: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.action: Callable[..., Any] | None = action
        self.arguments = arguments

    def call_off(self) -> None:
        """It does not happen."""
        self.action = None


class Agenda:
    """Virtual time. Two things at the same instant happen in the order in which they were agreed."""

    def __init__(self) -> None:
        self.elapsed_ns = 0
        self._heap: list[tuple[int, int, Appointment]] = []
        self._number = 0

    def after(self, delay_ns: int, action: Callable[..., Any], *arguments: Any) -> Appointment:
        """Have ``action(*arguments)`` called ``delay_ns`` from now."""
        return self.at(self.elapsed_ns + max(0, delay_ns), action, *arguments)

    def at(self, instant_ns: int, action: Callable[..., Any], *arguments: Any) -> Appointment:
        """The same at an instant of ``elapsed_ns``."""
        self._number += 1
        appointment = Appointment(action, arguments)
        heapq.heappush(self._heap, (instant_ns, self._number, appointment))
        return appointment

    def step(self) -> bool:
        """Let the next thing happen. False if nothing was agreed."""
        while self._heap:
            instant_ns, _, appointment = heapq.heappop(self._heap)
            if appointment.action is not None:
                self.elapsed_ns = instant_ns
                appointment.action(*appointment.arguments)
                return True
        return False


class Clock:
    """The clocks of one machine: they began at other instants than those of others, and the wall clock may be set."""

    def __init__(self, agenda: Agenda, booted_seconds: float = 1000.0) -> None:
        self._agenda = agenda
        self._booted_seconds = booted_seconds
        #: How far the wall clock is off.
        self.wrong_ns = 0

    def monotonic(self) -> float:
        """Seconds, as ``time.monotonic`` counts them."""
        return self._booted_seconds + self._agenda.elapsed_ns / SECOND_NS

    def time_ns(self) -> int:
        """Nanoseconds since the epoch, as ``time.time_ns``."""
        return START_NS + self._agenda.elapsed_ns + self.wrong_ns

    def at(self, seconds: float, action: Callable[..., None], *arguments: Any) -> Appointment:
        """Have ``action(*arguments)`` called at an instant of ``monotonic``, never before it."""
        instant_ns = int((seconds - self._booted_seconds) * SECOND_NS) + 1
        return self._agenda.at(max(self._agenda.elapsed_ns, instant_ns), action, *arguments)


class EventLog:
    """What all processes recorded, in order, and a digest of it that two equal runs share."""

    def __init__(self, agenda: Agenda | None = None) -> None:
        self._agenda = agenda or Agenda()
        #: (when, process, event name, values with text in clear), oldest first; of a fault: (when, b"", "", (text,)).
        self.rows: list[tuple[int, bytes, str, tuple[Any, ...]]] = []
        self.digest = hashlib.blake2b(digest_size=8)
        #: Called with each row.
        self.watchers: list[Callable[[bytes, str, tuple[Any, ...]], None]] = []

    def add(self, process: bytes, name: str, values: tuple[Any, ...]) -> None:
        """One more event."""
        self.rows.append((self._agenda.elapsed_ns, process, name, values))
        for watcher in self.watchers:
            watcher(process, name, values)

    def tell(self, text: str) -> None:
        """Something happens that no process records."""
        self.digest.update(text.encode())
        self.rows.append((self._agenda.elapsed_ns, b"", "", (text,)))

    def hash(self) -> str:
        """16 hex digits: equal if and only if everything recorded and sent was equal."""
        return self.digest.hexdigest()


class Records(Emitter):
    """What one virtual process records through. Each record is packed, so a value that does not fit its field shows."""

    def __init__(self, log: EventLog, process: bytes) -> None:
        self._log = log
        self._process = process
        self._texts: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}
        #: Black box: thread slot -> the task that runs there now or ran there last, and the attempt.
        self.ran: dict[int, tuple[bytes, int]] = {}

    def intern(self, text: str) -> int:
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self._texts)
            self._texts.append(text)
            self._log.digest.update(text.encode("utf-8", "replace"))
        return number

    def running(self, slot: int, task: bytes, started_at: int, name: int, attempt: int) -> None:
        self.ran[slot] = task, attempt

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in BY_NAME:
            raise AttributeError(name)
        emit = self._make(BY_NAME[name])
        setattr(self, name, emit)
        return emit

    def _make(self, event: Event) -> Callable[..., None]:
        log, process, name, kind = self._log, self._process, event.name, event.kind
        pack, update, texts = event.struct.pack, self._log.digest.update, self._texts
        named = tuple(index for index, field in enumerate(event.fields) if field.code == "str")

        def emit(time_ns: int, *values: Any) -> None:
            update(process + pack(time_ns, kind, 0, *values, 0))
            if named:
                told = list(values)
                for index in named:
                    told[index] = texts[told[index]]
                values = tuple(told)
            log.add(process, name, values)

        return emit
