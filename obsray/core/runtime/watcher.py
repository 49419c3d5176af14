"""Shell: the thread that looks after one process: sockets that nobody drives, what is late, what is to be looked at.

It wakes when something arrives while nobody waits for it, and otherwise now and then: for the machines' own times
(recalls, returns of leases, audits), to take samples, to answer who asks for stacks, and to say what is easily missed.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import TYPE_CHECKING

from obsray.config import Config
from obsray.core.runtime.halted_node import HaltedNode
from obsray.core.runtime.sampler import Sampler
from obsray.core.runtime.stack_dump import StackDump
from obsray.core.runtime.unseen_reports import UnseenReports
from obsray.errors import RaySystemError
from obsray.telemetry.spine import Ring

if TYPE_CHECKING:
    from obsray.core.runtime.session import Session

TICK_SECONDS = 0.005
#: While the sockets are driven again and again, each look of the watcher only takes the interpreter and a core from who
#: drives (measured: with looks every 5 ms every seventh synchronous call took half as long again). From so many turns
#: since the last look on it looks this seldom.
TURNS_MANY = 3
DOZE_SECONDS = 0.02
#: The watcher wakes at least this often, to act on references that died while nothing else happened.
QUIET_SECONDS = 0.1
#: Whether somebody asks for stacks, or records are lost, is looked at so often.
OBSERVE_SECONDS = 0.02
_LOGGER = logging.getLogger("obsray.session")


class Watcher:
    """The watching thread of a session. ``stop`` and ``join`` belong to the end of a session, in this order."""

    def __init__(self, session: Session, config: Config) -> None:
        self._session = session
        #: Takes samples of what runs here, if wanted.
        self.sampler: Sampler | None = None
        if config.profile_hz > 0 and config.telemetry != "off":
            self.sampler = Sampler(session, config.profile_hz)
        self._stack_dump: StackDump | None = None
        if isinstance(session.emitter, Ring):
            self._stack_dump = StackDump(session, session.emitter)
        self._unseen_reports = UnseenReports(session.ownership.unseen, session.lock)
        self._halted_node = HaltedNode(session.directory)
        self._losing = False
        self._observe_at = 0.0
        #: It sleeps for longer than a tick, and wants to know when the thread that waits has what it wanted.
        self.asleep = False
        #: It lets the thread that drives alone for a while, and is to be woken if something lies here to be sent.
        self.dozes = False
        self._awake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="obsray-watcher", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more, and say what is not said yet. Without the session's lock."""
        if self.sampler is not None:
            self.sampler.stop()
        if self._stack_dump is not None:
            self._stack_dump.close()
        self._unseen_reports.say(float("inf"))

    def join(self) -> None:
        """Wait a moment for the end of the thread, once the session is closed."""
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(1.0)

    def wake(self) -> None:
        """A thread that waited goes on: the sockets may be nobody's from now on."""
        self._awake.set()

    def forget(self) -> None:
        """In a forked child: there is no such thread."""
        self.sampler = self._stack_dump = None

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        session = self._session
        try:
            self._watch()
        except Exception as error:
            if session.closed:
                return
            # Nobody else looks after what is late: better an error than a program that waits for ever.
            _LOGGER.critical("what watches this process has failed", exc_info=True)
            reason = f"obsray failed in this process, which is a fault of obsray: {type(error).__name__}: {error}"
            with session.lock:
                session.inbox.runtime_failed(reason, RaySystemError(reason))

    def _watch(self) -> None:
        session, seen, wait = self._session, -1, TICK_SECONDS
        while not session.closed:
            if seen != session.turns:
                # Somebody drove since the last look: stay out of the way.
                many = session.turns - seen >= TURNS_MANY
                seen = session.turns
                if many:
                    self._doze(min(wait, DOZE_SECONDS))
                else:
                    time.sleep(TICK_SECONDS)
            elif session.driving.locked():
                self._let_drive(wait)
            else:
                try:
                    ready = session.reactor.wait(wait)
                except (OSError, ValueError):
                    return
                if ready and not session.driving.acquire(blocking=False):
                    continue
                try:
                    if session.closed:
                        return
                    with session.lock:
                        session.reactor.process(ready)
                finally:
                    if ready:
                        session.driving.release()
            wait = self.observe(self.tick())

    def _doze(self, seconds: float) -> None:
        self._awake.clear()
        self.dozes = True
        self._awake.wait(seconds)
        self.dozes = False

    def _let_drive(self, wait: float) -> None:
        """Somebody drives and has had nothing to do for a tick. Hundreds of workers may wait: each looks seldom."""
        executor = self._session.executor
        if executor is not None and not executor.busy():
            time.sleep(QUIET_SECONDS)
        elif executor is not None and executor.restless():
            time.sleep(TICK_SECONDS)
        else:
            self._awake.clear()
            self.asleep = True
            # Only now: who left before did not know that somebody sleeps.
            if self._session.driving.locked():
                self._awake.wait(min(wait, QUIET_SECONDS))
            self.asleep = False

    def tick(self) -> float:
        """Housekeeping that nobody else does. Returns how long the watcher may sleep."""
        session = self._session
        with session.lock:
            if session.closed:
                return QUIET_SECONDS
            now = time.monotonic()
            again = session.dispatcher.tick(now, time.time_ns())
            session.inbox.audit()
            session.values.notice_awaits(now)
            session.values.left = None
            if session.executor is not None:
                session.executor.tick(now)
                session.inbox.leave_if_free()
            elif session.interrupt_pending:
                # The call that was interrupted has returned without waiting: ask again, in the user's own code.
                try:
                    session.interrupt_pending.pop()
                except IndexError:
                    pass
                else:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            session.send_everything()
        if session.values.completions:
            session.values.complete_futures()
        self._unseen_reports.say(now)
        return QUIET_SECONDS if again is None else max(TICK_SECONDS, min(again, QUIET_SECONDS))

    def observe(self, wait: float) -> float:
        """Look at what this process does, if it is time to. Returns how long the watcher may sleep.

        The watcher has more important things to do: what fails here is said once, and not tried again.
        """
        try:
            if self.sampler is not None:
                self.sampler.look()
                wait = self.sampler.wait_seconds(wait)
            now = time.monotonic()
            if now < self._observe_at:
                return wait
            self._observe_at = now + OBSERVE_SECONDS
            if self._stack_dump is not None:
                self._stack_dump.answer_if_asked()
            if self._session.executor is None:
                self._halted_node.look(now)
            else:
                self._session.executor.show_title()
            if bool(self._session.emitter.dropping) != self._losing:
                self._say_losses()
        except Exception:
            self.sampler = self._stack_dump = None
            _LOGGER.exception("this process is not sampled any more")
        return wait

    def _say_losses(self) -> None:
        """Records begin to go nowhere, or do not any more: that must not go unnoticed, and nothing else changes."""
        emitter, self._losing = self._session.emitter, not self._losing
        if self._losing:
            why, where = emitter.dropping, self._session.directory
            _LOGGER.warning("what this process does is not recorded just now (%s): %s", why, where)
        else:
            _LOGGER.warning("what this process does is recorded again; %d records are lost", emitter.dropped)
