"""What may read metrics and nothing else: made of the session's token, so that the token need not be given away.

A scraper on another machine sends its credential in the clear. Who reads it there can read metrics; it leads neither
back to the token nor to anything that the token opens.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from obsray.telemetry.small_files import write_whole

#: In the session directory: the credential in hex, as Prometheus reads it (``credentials_file``).
FILE = "metrics_token"
_PURPOSE = b"obsray metrics 1"


def of(token: bytes) -> str:
    """The credential of a session, in hex. Nodes of a cluster have the same."""
    return hmac.new(token, _PURPOSE, "sha256").hexdigest()


def write(session: Path, token: bytes) -> Path:
    """Write the file for whoever scrapes as this user; returns its path."""
    path = session / FILE
    write_whole(path, of(token))
    return path
