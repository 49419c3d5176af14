"""SQLite's write-ahead log: was it only cut off, or damaged before its end?

SQLite reads such a log up to the first frame whose checksum is wrong and takes that for the end. That is right for what
a crash cut off, and drops acknowledged transactions if a bit flipped before them. What follows tells the two apart: a
crash tears the last transaction at most, because each is flushed before the next one is begun.

A checksum goes on from that of the frame before, and is linear: both its sums are Fibonacci numbers times the two
before, plus what the frame's own words come to. The latter is computed for all frames at once, one word of each at a
time, in integers that have a lane of 64 bits for every frame: 2.7 ms for 100 pages, where word by word takes 14 to 22.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Container
from pathlib import Path

HEADER = struct.Struct(">8I")
FRAME = struct.Struct(">6I")
#: With the lowest bit set, checksums are computed over big-endian words.
MAGIC = 0x377F0682
MASK = 0xFFFFFFFF
#: What the checksum of a frame covers of its header.
_COVERED_WORDS = 2


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
    (header,) = _own_sums(data[: HEADER.size - 8], big, HEADER.size - 8, ())
    if magic & ~1 != MAGIC or header != (first, second):
        # Torn when the log began anew, it has no salt in common with the frames of before.
        of_frame = FRAME.unpack_from(data, HEADER.size)[2:4]
        return 0 if any(one == other for one, other in zip(of_frame, salts, strict=True)) else None
    step = FRAME.size + page_bytes
    offsets = range(HEADER.size, len(data) - step + 1, step)
    if not offsets:
        return None
    uncovered = range(_COVERED_WORDS, FRAME.size // 4)
    own = _own_sums(data[HEADER.size : offsets[-1] + step], big, step, uncovered)
    before, at, after = _fibonacci(step // 4 - len(uncovered))
    for offset, (one, other) in zip(offsets, own, strict=True):
        first, second = (before * first + at * second + one) & MASK, (at * first + after * second + other) & MASK
        if [*FRAME.unpack_from(data, offset)[2:]] != [*salts, first, second]:
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


def _fibonacci(number: int) -> tuple[int, int, int]:
    """The Fibonacci numbers before, at and after ``number``."""
    before, at = 1, 0
    for _ in range(number):
        before, at = at, (before + at) & MASK
    return before, at, (before + at) & MASK


def _own_sums(data: bytes, big: bool, step: int, without: Container[int]) -> list[tuple[int, int]]:
    """The checksums of pieces of ``step`` bytes, each as if it were the first, ``without`` these of its words."""
    words = array("I", data)
    if big:
        # Only bytes are handled here: little-endian ones, whatever this machine has.
        words.byteswap()
    width = step // 4
    count = len(words) // width
    pairs = (count + 1) // 2
    lanes = int.from_bytes(b"\xff\xff\xff\xff\0\0\0\0" * pairs, "little")
    # Of frames 0, 2, 4, ... and of 1, 3, 5, ..., whose words lie beside each other.
    even, odd, next_even, next_odd = 0, 0, 0, 0
    for word in range(width):
        if word in without:
            continue
        both = int.from_bytes(words[word::width].tobytes(), "little")
        even, next_even = next_even, (even + next_even + (both & lanes)) & lanes
        odd, next_odd = next_odd, (odd + next_odd + (both >> 32 & lanes)) & lanes
    sums = [
        struct.unpack(f"<{pairs}Q", each.to_bytes(8 * pairs, "little")) for each in (even, next_even, odd, next_odd)
    ]
    found = [(0, 0)] * (2 * pairs)
    found[::2], found[1::2] = zip(*sums[:2], strict=True), zip(*sums[2:], strict=True)
    return found[:count]
