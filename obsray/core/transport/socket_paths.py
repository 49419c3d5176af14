"""Where unix sockets are bound and connected to: their paths have an end, directories of users have not.

A session directory with a long name has its sockets elsewhere: its ``sockets`` is a link to a directory with a short
one. Everybody goes by the name in the session, and shortens it only for the system call.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

#: The system's limit, without the byte that ends the path.
PATH_BYTES_MAX = 107
#: What stands below the directory of the sockets at most.
_NAME_BYTES_MAX = len("/0123456789abcdef.sock")
#: Where the sockets of sessions lie whose own directory has too long a name.
SHORT_BASE = "/tmp"


def socket_path(path: Path | str) -> str:
    """The path for ``bind`` and ``connect``; what is too long is looked up."""
    text = str(path)
    return text if len(os.fsencode(text)) <= PATH_BYTES_MAX else os.path.realpath(text)


def make_socket_directory(session: Path) -> None:
    """Make the directory of a session's sockets, elsewhere if its own path is too long. Raises OSError."""
    directory = session / "sockets"
    if len(os.fsencode(directory)) + _NAME_BYTES_MAX <= PATH_BYTES_MAX:
        directory.mkdir(mode=0o700)
        return
    # The name cannot be guessed, and making it fails if somebody else has.
    short = Path(SHORT_BASE) / f"obsray-k{os.getuid()}-{secrets.token_hex(8)}"
    short.mkdir(mode=0o700)
    directory.symlink_to(short)
