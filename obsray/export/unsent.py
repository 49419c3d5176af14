"""The last metrics of a process whose receiver was away to the end: a file for each, which is a request as it is."""

from __future__ import annotations

from pathlib import Path

from obsray.export.receivers import Receiver, Refused
from obsray.telemetry.small_files import write_whole

_ENDING = ".unsent.pb"


def keep(session: Path, who: str, requests: list[bytes]) -> None:
    """Keep what could not be sent. Requests one behind the other are one request."""
    write_whole(session / "telemetry" / f"otlp_metrics.{who}{_ENDING}", b"".join(requests))


def kept(session: Path) -> list[Path]:
    """What waits to be sent."""
    return sorted((session / "telemetry").glob(f"otlp_metrics.*{_ENDING}"))


def send(session: Path, receiver: Receiver) -> int:
    """Send what was kept; returns how many requests arrived. What is refused is kept no longer. Raises Unavailable."""
    sent = 0
    for path in kept(session):
        try:
            receiver.send(path.read_bytes())
            sent += 1
        except Refused:
            pass
        path.unlink(missing_ok=True)
    return sent
