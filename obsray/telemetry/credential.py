"""What may read metrics and nothing else: made of the session's token, so that the token need not be given away.

A scraper on another machine sends its credential in the clear. Who reads it there can read metrics; it leads neither
back to the token nor to anything that the token opens.
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path

#: In the session directory: the credential in hex, as Prometheus reads it (``credentials_file``).
FILE = "metrics_token"
_PURPOSE = b"obsray metrics 1"


def of(token: bytes) -> str:
    """The credential of a session, in hex. Nodes of a cluster have the same."""
    return hmac.new(token, _PURPOSE, "sha256").hexdigest()


def write(session: Path, token: bytes) -> Path:
    """Write the file for whoever scrapes as this user; returns its path."""
    path = session / FILE
    temporary = session / f"{FILE}.{os.getpid()}.new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(of(token))
    temporary.rename(path)
    return path
