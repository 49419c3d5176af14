"""Small files that others read while they are written anew."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file that only this user may read: readers find the one before or this one, whole.

    Raises OSError; then the one before is still there. Nothing waits for the disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
