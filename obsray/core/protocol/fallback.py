"""Where a value lies that the arena has no room for: in a file of its own, which its writer and its readers map.

Such a place is told as one in the arena is, by an offset: one that lies beyond any arena, and whose distance from
``FALLBACK`` is the number in the file's name.
"""

from __future__ import annotations

FALLBACK = 1 << 56
#: The value begins here in its file: the file of a spilled value is mapped as it is, with its header.
HEADER_BYTES = 64


class Gone(OSError):
    """The file is not there any more, or is shorter than its object."""


def file_name(object_id: bytes, offset: int) -> str:
    """The name of the file of an object whose place is ``offset``."""
    return f"{object_id.hex()}.{offset - FALLBACK}"


def place_in(path: str) -> int:
    """The offset that stands for the file of that name."""
    return FALLBACK + int(path.rpartition(".")[2])
