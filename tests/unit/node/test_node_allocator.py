"""The arena's allocator, against a plain model of ranges."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from obsray.core.node.allocator import PAGE_BYTES, Allocator, rounded

MIB = 1 << 20


def test_sizes_are_whole_cache_lines_and_large_ones_whole_pages():
    assert [rounded(size) for size in (0, 1, 64, 65, 4096, 4097)] == [64, 64, 64, 128, 4096, 8192]


def test_freed_memory_is_used_again_before_fresh_memory():
    allocator = Allocator(MIB)
    first, second = allocator.allocate(PAGE_BYTES), allocator.allocate(PAGE_BYTES)
    assert first is not None and second is not None
    allocator.free(first)
    assert allocator.allocate(PAGE_BYTES) == first
    assert allocator.touched == 2 * PAGE_BYTES


def test_of_equal_ranges_the_one_freed_last_is_used_first():
    allocator = Allocator(MIB)
    offsets = [allocator.allocate(PAGE_BYTES) for _ in range(7)]
    for number in (1, 5, 3):
        allocator.free(offsets[number])  # type: ignore[arg-type]
    assert [allocator.allocate(PAGE_BYTES) for _ in range(3)] == [offsets[3], offsets[5], offsets[1]]


def test_neighbours_are_joined_so_that_the_whole_arena_can_be_had_again():
    allocator = Allocator(MIB)
    offsets = [allocator.allocate(64 << (number % 8)) for number in range(40)]
    for offset in offsets[::2] + offsets[1::2]:
        allocator.free(offset)  # type: ignore[arg-type]
    assert allocator.allocate(MIB) == 0
    assert allocator.allocate(1) is None


def test_a_free_range_before_untouched_memory_is_extended():
    allocator = Allocator(MIB)
    offset = allocator.allocate(MIB // 2)
    assert offset is not None
    allocator.free(offset)
    assert allocator.fits(MIB)
    assert allocator.allocate(MIB // 2 + PAGE_BYTES) == 0


def test_less_memory_than_promised_can_be_lived_with():
    allocator = Allocator(MIB)
    kept, given_up = allocator.allocate(MIB // 4), allocator.allocate(MIB // 2)
    assert kept == 0 and given_up is not None
    allocator.free(given_up)
    allocator.limit(MIB // 2)
    allocator.check_invariants()
    assert allocator.allocate(MIB // 2) is None
    assert allocator.allocate(MIB // 4) == MIB // 4
    allocator.limit(MIB)
    assert allocator.allocate(MIB // 2) == MIB // 2
    allocator.check_invariants()


@settings(max_examples=300, deadline=None, print_blob=True)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 300_000), st.integers(0, 1000)), max_size=120))
def test_no_two_ranges_overlap_and_room_is_found_whenever_there_is_some(script):
    capacity = MIB
    allocator = Allocator(capacity)
    taken: dict[int, int] = {}
    for allocates, size, which in script:
        if allocates:
            longest = allocator.largest_free_bytes()
            offset = allocator.allocate(size)
            assert (offset is not None) == (rounded(size) <= longest)
            if offset is not None:
                end = offset + rounded(size)
                assert end <= capacity and offset % 64 == 0
                assert all(end <= other or other + length <= offset for other, length in taken.items())
                taken[offset] = rounded(size)
        elif taken:
            offset = sorted(taken)[which % len(taken)]
            assert allocator.free(offset) == taken.pop(offset)
        allocator.check_invariants()
        assert allocator.used_bytes == sum(taken.values())
    for offset in taken:
        allocator.free(offset)
    assert allocator.largest_free_bytes() == capacity
