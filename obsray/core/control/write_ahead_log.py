"""SQLite's write-ahead log: was it only cut off, or damaged before its end?

SQLite reads such a log up to the first frame whose checksum is wrong and takes that for the end. That is right for what
a crash cut off, and drops acknowledged transactions if a bit flipped before them. What follows tells the two apart: a
crash tears the last transaction at most, because each is flushed before the next one is begun.
"""

from __future__ import annotations

import struct
import sys
from array import array
from pathlib import Path

HEADER = struct.Struct(">8I")
FRAME = struct.Struct(">6I")
#: With the lowest bit set, checksums are computed over big-endian words.
MAGIC = 0x377F0682
MASK = 0xFFFFFFFF


def damaged_at(path: Path) -> int | None:
    """The offset of the first damaged frame that whole transactions follow; None if there is none, or no log."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < HEADER.size + FRAME.size:
        return None
    magic, _, page_bytes, _, *salts, first, second = HEADER.unpack_from(data)
    big = magic & 1 == 1
    sums = _checksum(data[: HEADER.size - 8], big, 0, 0)
    if magic & ~1 != MAGIC or sums != (first, second):
        # Torn when the log began anew, it has no salt in common with the frames of before.
        of_frame = FRAME.unpack_from(data, HEADER.size)[2:4]
        return 0 if any(one == other for one, other in zip(of_frame, salts, strict=True)) else None
    step = FRAME.size + page_bytes
    offsets = range(HEADER.size, len(data) - step + 1, step)
    for offset in offsets:
        *_, salt, other, first, second = FRAME.unpack_from(data, offset)
        sums = _checksum(data[offset : offset + 8], big, *sums)
        sums = _checksum(data[offset + FRAME.size : offset + step], big, *sums)
        if [salt, other] != salts or sums != (first, second):
            return offset if _transactions(data, range(offset, offsets.stop, step), salts) > 1 else None
    return None


def _transactions(data: bytes, offsets: range, salts: list[int]) -> int:
    """How many transactions end in the frames there."""
    found = 0
    for offset in offsets:
        _, pages, salt, other, *_ = FRAME.unpack_from(data, offset)
        # The damaged frame itself counts whatever its salts are.
        found += pages != 0 and ([salt, other] == salts or offset == offsets.start)
    return found


def _checksum(data: bytes, big: bool, first: int, second: int) -> tuple[int, int]:
    words = array("I", data)
    if big != (sys.byteorder == "big"):
        words.byteswap()
    for index in range(0, len(words), 2):
        first = (first + words[index] + second) & MASK
        second = (second + words[index + 1] + first) & MASK
    return first, second
