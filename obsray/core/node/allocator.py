"""Ranges of the arena: which are taken, which are free, and which were never touched.

Good fit over bins: bin ``(k, j)`` holds free ranges of at least ``2**k * (1 + j / 8)`` bytes, newest last. A request
takes the newest range of the smallest bin that surely fits, so memory whose pages exist and are warm is used again
before fresh memory, and finding one costs the same however many ranges there are. Neighbours are joined at once.

Invariants: taken and free ranges and the untouched rest cover the arena without overlap; no two free ranges touch.
"""

from __future__ import annotations

from obsray.core.node.step import require

SMALL_BYTES = 64
PAGE_BYTES = 4096
_SPLITS = 8
_SPLIT_BITS = 3
#: A range of the request's own bin may or may not fit; this many of them are tried before a larger one is cut.
_TRIES = 4


def rounded(size: int) -> int:
    """What an object of ``size`` bytes takes: whole cache lines, or whole pages if it is larger than one."""
    unit = SMALL_BYTES if size <= PAGE_BYTES else PAGE_BYTES
    return max(unit, -(-size // unit) * unit)


def _bin(size: int) -> int:
    power = size.bit_length() - 1
    return (power << _SPLIT_BITS) | ((size >> (power - _SPLIT_BITS)) & (_SPLITS - 1))


class Allocator:
    """Offsets in ``[0, capacity)``. ``touched`` is the end of what was ever handed out."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity // PAGE_BYTES * PAGE_BYTES
        self.touched = 0
        self.used_bytes = 0
        self.taken: dict[int, int] = {}
        self._free: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._bins: dict[int, dict[int, None]] = {}
        self._map = 0

    def allocate(self, size: int) -> int | None:
        """The offset of ``rounded(size)`` free bytes, or None if no range is long enough."""
        size = rounded(size)
        offset = self._find(size)
        if offset is None:
            offset = self._extend(size)
            if offset is None:
                return None
        else:
            length = self._remove(offset)
            if length > size:
                self._insert(offset + size, length - size)
        self.taken[offset] = size
        self.used_bytes += size
        return offset

    def free(self, offset: int) -> int:
        """Give a range back; returns how many bytes it had. Raises KeyError if nothing was handed out there."""
        size = self.taken.pop(offset)
        self.used_bytes -= size
        start, length = offset, size
        before = self._ends.get(offset)
        if before is not None:
            length += self._remove(before)
            start = before
        if offset + size in self._free:
            length += self._remove(offset + size)
        self._insert(start, length)
        return size

    def fits(self, size: int) -> bool:
        """Whether ``allocate(size)`` would succeed now."""
        size = rounded(size)
        return self._find(size) is not None or self._untouched_from() + size <= self.capacity

    def limit(self, capacity: int) -> None:
        """Use no memory from ``capacity`` on; nothing may be taken there."""
        if self.touched > capacity:
            start = self._ends[self.touched]
            self._remove(start)
            require(start <= capacity, f"memory from {capacity} on is in use")
            self.touched = capacity
            if start < capacity:
                self._insert(start, capacity - start)
        self.capacity = capacity // PAGE_BYTES * PAGE_BYTES

    def largest_free_bytes(self) -> int:
        """The longest range that could be handed out."""
        tail = self.capacity - self._untouched_from()
        if not self._map:
            return tail
        return max(tail, max(self._free[offset] for offset in self._bins[self._map.bit_length() - 1]))

    # --- bins --------------------------------------------------------------------------------------------

    def _find(self, size: int) -> int | None:
        own = _bin(size)
        tried = 0
        for offset in reversed(self._bins.get(own, {})):
            if self._free[offset] >= size:
                return offset
            tried += 1
            if tried == _TRIES:
                break
        larger = self._map >> (own + 1)
        if larger:
            lowest = (larger & -larger).bit_length() + own
            return next(reversed(self._bins[lowest]))
        if tried == _TRIES:
            return next((offset for offset in self._bins[own] if self._free[offset] >= size), None)
        return None

    def _untouched_from(self) -> int:
        """Where untouched memory begins, with a free range right before it counted in."""
        return self._ends.get(self.touched, self.touched)

    def _extend(self, size: int) -> int | None:
        start = self._untouched_from()
        if start + size > self.capacity:
            return None
        if start != self.touched:
            self._remove(start)
        self.touched = start + size
        return start

    def _insert(self, offset: int, size: int) -> None:
        self._free[offset] = size
        self._ends[offset + size] = offset
        number = _bin(size)
        self._bins.setdefault(number, {})[offset] = None
        self._map |= 1 << number

    def _remove(self, offset: int) -> int:
        size = self._free.pop(offset)
        del self._ends[offset + size]
        number = _bin(size)
        same = self._bins[number]
        del same[offset]
        if not same:
            del self._bins[number]
            self._map &= ~(1 << number)
        return size

    def check_invariants(self) -> None:
        ranges = sorted([*self.taken.items(), *self._free.items()])
        at = 0
        was_free = False
        for offset, size in ranges:
            require(offset == at, f"a gap or an overlap at {at}")
            is_free = offset in self._free
            require(not (was_free and is_free), f"two free ranges meet at {offset}")
            at, was_free = offset + size, is_free
        require(at == self.touched, f"ranges end at {at}, touched up to {self.touched}")
        require(self.touched <= self.capacity, "touched more than there is")
        require(sum(self.taken.values()) == self.used_bytes, "used bytes do not add up")
        require({o + s: o for o, s in self._free.items()} == self._ends, "the index by end is wrong")
        binned = {offset for offsets in self._bins.values() for offset in offsets}
        require(binned == set(self._free), "the bins do not hold the free ranges")
        require(self._map == sum(1 << number for number in self._bins), "the map of bins is wrong")
