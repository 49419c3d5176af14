"""The process that sends spans where the ``OTEL_*`` variables say: ``python -m obsray.export.process``.

It is started by the head's collector, reads the session's telemetry like everybody else, and ends after its session,
once everything is sent or the receiver was away for ``_FAREWELL_SECONDS``; ``obsray export --otlp`` goes on from there.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import sys
import time
from pathlib import Path

import pyarrow as pa

from obsray.export.receivers import SettingError, Settings, receiver
from obsray.export.sending import GivenUp, Sender
from obsray.telemetry import session_file
from obsray.telemetry.store import Store, is_live
from obsray.telemetry.views import Views

_NICE = 5
_STEP_SECONDS = 0.5
_FAREWELL_SECONDS = 60.0

log = logging.getLogger("obsray.export")


def main(arguments: list[str] | None = None) -> int:
    """Send the spans of one session until it is over. Exit code 2 if the variables cannot be followed."""
    parser = argparse.ArgumentParser(prog="python -m obsray.export.process", description=__doc__)
    parser.add_argument("--session-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.nice(max(0, _NICE - os.nice(0)))
    pa.set_memory_pool(pa.system_memory_pool())
    lock = os.open(options.session_dir / "telemetry" / "otlp.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("another process sends the spans of this session")
        return 0
    try:
        settings = Settings.read()
        target = receiver(settings)
    except SettingError as error:
        log.error("no spans are sent: %s", error)
        return 2
    views = Views(Store.open(options.session_dir))
    views.lie_in(options.session_dir)
    sender = Sender(views, target, settings.ratio, settings.batch_spans)
    signal.signal(signal.SIGTERM, lambda *_: sender.stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log.info("spans go to %s over %s", target.name, settings.protocol)
    try:
        if _is_elsewhere(options.session_dir):
            log.info("the head of the cluster sends the spans of this node")
            return 0
        while is_live(options.session_dir):
            sender.step()
            if sender.stop.wait(_STEP_SECONDS):
                break
        sender.stop.clear()
        _until_stored(sender)
        sender.finish(time.monotonic() + _FAREWELL_SECONDS)
        log.info("%d spans sent", sender.sent)
    except GivenUp as error:
        log.error("not everything was sent (%s); obsray export --otlp --session DIR goes on", error)
    finally:
        target.close()
    return 0


def _is_elsewhere(session_dir: Path) -> bool:
    """Whether this is a node of a cluster whose head sends its spans; asked once the node has said what it is."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    facts = session_file.read(session_dir)
    while not facts.get("node_pid") and time.monotonic() < deadline:
        time.sleep(_STEP_SECONDS / 5)
        facts = session_file.read(session_dir)
    return facts.get("head") is False


def _until_stored(sender: Sender) -> None:
    """The collector has its last drain to do; its last manifest says that it has done it."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    catalog = sender.views.store.catalog
    while not catalog.finished and time.monotonic() < deadline:
        time.sleep(_STEP_SECONDS / 5)
        catalog.refresh()


if __name__ == "__main__":
    sys.exit(main())
