"""The arena, spill files, and what a forked worker must not inherit."""

from __future__ import annotations

import errno
import os

import pytest

from obsray.core.protocol.fallback import FALLBACK, HEADER_BYTES, file_name
from obsray.core.system.arena import Arena
from obsray.core.system.spill import Damaged, check_object, make_file, map_file, read_object, write_object

MIB = 1 << 20
OBJECT = bytes(range(20))


@pytest.fixture
def arena(tmp_path):
    made = Arena.create(4 * MIB, tmp_path)
    yield made
    made.close()


def test_two_processes_see_the_same_bytes(arena):
    arena.reserve(0, MIB)
    other = Arena(os.dup(arena.fd), arena.size_bytes, arena.files)
    arena.view(100, 5)[:] = b"hello"
    assert bytes(other.view(100, 5)) == b"hello"
    other.close()


def test_nobody_can_shrink_an_arena_under_its_readers(arena):
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, 0)


def test_memory_is_taken_when_it_is_reserved_and_not_before(arena):
    assert os.fstat(arena.fd).st_blocks == 0
    arena.reserve(0, MIB)
    assert os.fstat(arena.fd).st_blocks * 512 == MIB
    arena.reserve(3 * MIB, 9 * MIB)
    assert os.fstat(arena.fd).st_blocks * 512 == 2 * MIB


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, 4 * MIB + 1), (4 * MIB, 1), (0, -1)])
def test_a_view_outside_the_arena_is_refused(arena, offset, size):
    with pytest.raises(ValueError, match="outside"):
        arena.view(offset, size)


def test_closing_an_arena_that_is_still_read_leaves_the_reader_its_bytes(arena):
    arena.reserve(0, MIB)
    view = arena.view(0, 3)
    view[:] = b"abc"
    arena.close()
    assert bytes(view) == b"abc"


@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 3])
def test_a_spilled_object_comes_back_as_it_was(tmp_path, size):
    data = os.urandom(size)
    path = str(tmp_path / "file")
    write_object(path, OBJECT, memoryview(data))
    back = bytearray(size)
    read_object(path, OBJECT, memoryview(back))
    assert back == data
    check_object(path, OBJECT, size)
    # What lies there can be read as it lies.
    assert map_file(path, size, writable=False)[HEADER_BYTES:] == data


def test_an_object_without_room_is_written_and_read_in_its_file(arena):
    path = str(arena.files / file_name(OBJECT, FALLBACK + 3))
    make_file(path, MIB)
    # All of it is on disk before anybody writes there.
    assert os.stat(path).st_blocks * 512 >= MIB
    with pytest.raises(FileExistsError):
        make_file(path, MIB)
    place = arena.place(OBJECT, FALLBACK + 3, MIB)
    place.view[:5] = b"hello"
    assert os.pread(place.fd, 5, place.start) == b"hello"
    place.close()
    assert map_file(path, MIB, writable=False)[HEADER_BYTES : HEADER_BYTES + 5] == b"hello"
    os.truncate(path, MIB)
    with pytest.raises(OSError, match="shorter than its object"):
        arena.place(OBJECT, FALLBACK + 3, MIB)


def test_every_damaged_byte_is_noticed(tmp_path):
    path = tmp_path / "file"
    write_object(str(path), OBJECT, memoryview(b"some bytes"))
    good = path.read_bytes()
    meaningful = [at for at in range(len(good)) if not 40 <= at < 64]
    for at in meaningful:
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(Damaged):
            read_object(str(path), OBJECT, memoryview(bytearray(10)))
        with pytest.raises(Damaged):
            check_object(str(path), OBJECT, 10)
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(Damaged):
            read_object(str(path), OBJECT, memoryview(bytearray(10)))


def test_the_file_of_another_object_is_not_taken_for_this_one(tmp_path):
    path = str(tmp_path / "file")
    write_object(path, OBJECT, memoryview(b"bytes"))
    with pytest.raises(Damaged, match="not that of this object"):
        read_object(path, bytes(20), memoryview(bytearray(5)))


def test_a_full_disk_leaves_no_file_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        write_object(str(tmp_path / "file"), OBJECT, memoryview(b"bytes"))
    assert list(tmp_path.iterdir()) == []
