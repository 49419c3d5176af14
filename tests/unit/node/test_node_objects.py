"""The object table: writing, reading, room, spilling, loss, and the death of clients."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_bench import MIB, Bench, put_id

from obsray.core.node.step import MakeFile, RemoveFile, ReserveArena, RestoreObject, SpillObject
from obsray.core.protocol import messages as m
from obsray.core.protocol.fallback import FALLBACK, file_name
from obsray.core.protocol.lifecycle import ObjectState


def write(bench: Bench, client: bytes, number: int, size: int = MIB, seal: bool = True) -> bytes:
    """The client puts an object; there is room for it now."""
    identifier = put_id(client, number)
    bench.send(client, m.CreateObject(number, identifier, size))
    (room,) = bench.take(client, m.ObjectRoom)
    assert room.request == number
    if seal:
        bench.send(client, m.SealObject(identifier))
    return identifier


def pin(bench: Bench, client: bytes, identifier: bytes) -> m.ObjectPinned:
    bench.send(client, m.PinObject(99, identifier))
    (pinned,) = bench.take(client, m.ObjectPinned)
    return pinned


def state(bench: Bench, identifier: bytes) -> ObjectState:
    return bench.objects.entries[identifier].state


def test_an_object_is_read_where_it_was_written():
    bench = Bench()
    driver = bench.driver()
    identifier = put_id(driver, 1)
    bench.send(driver, m.CreateObject(7, identifier, 1000))
    (room,) = bench.take(driver)
    bench.send(driver, m.SealObject(identifier))
    pinned = pin(bench, driver, identifier)
    assert (pinned.offset, pinned.size) == (room.offset, 1000)
    names = [name for name, _ in bench.records.events if name.startswith("object_")]
    assert names == ["object_created", "object_sealed", "object_pinned"]


def test_whoever_lets_go_of_its_views_or_ends_is_told_so_that_readers_can_be_counted():
    bench = Bench()
    driver, other = bench.driver(), bench.driver(b"driver_2")
    identifier = put_id(driver, 1)
    bench.send(driver, m.CreateObject(7, identifier, 1000), m.SealObject(identifier))
    for reader in (driver, driver, other):
        pin(bench, reader, identifier)
    bench.send(driver, m.UnpinObjects([identifier]))
    bench.leave(other)
    told = bench.records.take("object_unpinned")
    assert [(row["worker"], row["pins"]) for row in told] == [(driver, 1), (other, 1)]
    bench.send(driver, m.UnpinObjects([identifier]), m.UnpinObjects([identifier]))
    assert [row["pins"] for row in bench.records.take("object_unpinned")] == [1]


def test_room_is_given_only_where_pages_exist():
    bench = Bench(auto_reserve=False)
    driver = bench.driver()
    bench.send(driver, m.CreateObject(1, put_id(driver, 1), MIB))
    assert bench.take(driver) == []
    (effect,) = bench.take_effects(ReserveArena)
    assert (effect.start, effect.end) == (0, MIB)
    bench.do(bench.machine.arena_reserved, effect.end, "")
    assert len(bench.take(driver, m.ObjectRoom)) == 1
    # The next pages are made before anybody asks for them.
    assert bench.take_effects(ReserveArena)[0].start == MIB


def test_a_machine_without_memory_spills_instead():
    bench = Bench(store=8 * MIB, auto_reserve=False)
    driver = bench.driver()
    bench.send(driver, m.CreateObject(1, put_id(driver, 1), 2 * MIB))
    bench.do(bench.machine.arena_reserved, 2 * MIB, "")
    bench.take_effects(ReserveArena)
    bench.send(driver, m.SealObject(put_id(driver, 1)))
    bench.send(driver, m.CreateObject(2, put_id(driver, 2), 2 * MIB))
    bench.do(bench.machine.arena_reserved, 4 * MIB, "Cannot allocate memory")
    assert bench.spills_end() == [put_id(driver, 1)]
    assert [room.request for room in bench.take(driver, m.ObjectRoom)] == [1, 2]


def test_a_reader_waits_until_the_object_is_sealed():
    bench = Bench()
    driver, reader = bench.driver(), bench.driver(b"driver_2")
    identifier = write(bench, driver, 1, seal=False)
    bench.send(reader, m.PinObject(5, identifier))
    assert bench.take(reader) == []
    bench.send(driver, m.SealObject(identifier))
    assert [type(message) for message in bench.take(reader)] == [m.ObjectPinned]


def test_an_unknown_object_is_refused_at_once():
    bench = Bench()
    driver = bench.driver()
    bench.send(driver, m.PinObject(5, put_id(driver, 1)))
    (refused,) = bench.take(driver)
    assert (refused.request, refused.error) == (5, "unknown")


def test_an_object_without_a_living_owner_is_not_made():
    bench = Bench()
    driver = bench.driver()
    bench.send(driver, m.CreateObject(1, put_id(b"nobody..", 1), 10))
    assert bench.take(driver)[0].error == "unknown"


def test_a_second_writer_is_told_that_the_object_is_there():
    bench = Bench()
    driver = bench.driver()
    identifier = write(bench, driver, 1)
    bench.send(driver, m.CreateObject(2, identifier, MIB))
    assert bench.take(driver)[0].error == "duplicate"


def test_an_object_larger_than_the_store_gets_a_file_at_once():
    bench = Bench(store=MIB)
    driver = bench.driver()
    identifier = put_id(driver, 1)
    bench.send(driver, m.CreateObject(1, identifier, 2 * MIB))
    (file,) = bench.files_made()
    (room,) = bench.take(driver)
    assert file == MakeFile(file.number, 2 * MIB, f"/spill/{file_name(identifier, room.offset)}")
    bench.send(driver, m.SealObject(identifier))
    assert pin(bench, driver, identifier).offset == room.offset > FALLBACK
    numbers = bench.objects.numbers()
    assert (numbers.used_bytes, numbers.spilled_bytes, numbers.fallback_bytes) == (0, 0, 2 * MIB)
    (told,) = bench.records.named("object_fallback")
    assert (told["object"], told["object_bytes"], told["capacity_bytes"]) == (identifier, 2 * MIB, MIB)
    bench.send(driver, m.FreeObjects([identifier]))
    assert bench.take_effects(RemoveFile) == []
    bench.send(driver, m.UnpinObjects([identifier]))
    assert bench.take_effects(RemoveFile) == [RemoveFile(file.path)]
    assert bench.objects.numbers().fallback_bytes == 0


def in_a_file() -> tuple[Bench, bytes, bytes, bytes]:
    """A node with a value that is larger than its store, who made it, somebody else, and what it is called."""
    bench = Bench(store=MIB)
    driver, other = bench.driver(), bench.driver(b"driver_2")
    identifier = put_id(driver, 1)
    bench.send(driver, m.CreateObject(1, identifier, 2 * MIB))
    bench.files_made()
    bench.send(driver, m.SealObject(identifier))
    return bench, driver, other, identifier


def test_an_object_whose_file_is_gone_is_lost_and_who_has_it_mapped_holds_up_nothing():
    bench, driver, other, identifier = in_a_file()
    bench.take(driver)
    pin(bench, driver, identifier)
    # Whoever has no pin has no say.
    bench.send(other, m.FileGone(identifier, "No such file"))
    assert bench.objects.numbers().fallback_bytes == 2 * MIB
    pin(bench, other, identifier)
    bench.send(other, m.FileGone(identifier, "No such file"))
    (lost,) = bench.take(driver, m.ObjectLost)
    assert lost.objects == [identifier] and "No such file" in lost.detail
    numbers = bench.objects.numbers()
    assert (numbers.fallback_bytes, numbers.pinned_bytes) == (0, 0)
    (told,) = bench.records.named("object_lost")
    assert (told["object"], told["error"]) == (identifier, "No such file")
    # Made again under the same name, it stays in place for its own readers, whatever is let go of what was before.
    bench.send(driver, m.CreateObject(2, identifier, MIB // 2), m.SealObject(identifier))
    assert bench.take(driver)[0].offset == 0
    pin(bench, driver, identifier)
    bench.send(driver, m.UnpinObjects([identifier]))
    assert bench.objects.entries[identifier].pins == {driver: 1}
    bench.send(driver, m.UnpinObjects([identifier]))
    assert bench.objects.entries[identifier].pins == {} and bench.objects._stale == {}


def test_each_of_several_that_find_the_file_gone_gives_back_its_own_pin():
    bench, driver, other, identifier = in_a_file()
    bench.send(driver, m.PinObject(2, identifier))
    bench.send(other, m.PinObject(3, identifier), m.FileGone(identifier, "No such file"))
    bench.send(driver, m.FileGone(identifier, "No such file"))
    assert bench.objects._stale == {}
    bench.take(driver)
    bench.send(driver, m.CreateObject(4, identifier, MIB // 2), m.SealObject(identifier), m.PinObject(5, identifier))
    bench.send(driver, m.UnpinObjects([identifier]))
    assert bench.objects.entries[identifier].pins == {}


def test_an_object_that_was_freed_while_it_was_read_goes_when_its_file_is_gone():
    bench, driver, other, identifier = in_a_file()
    pin(bench, driver, identifier)
    pin(bench, other, identifier)
    bench.send(driver, m.FreeObjects([identifier]))
    bench.send(other, m.FileGone(identifier, "No such file"))
    assert identifier not in bench.objects.entries and bench.records.named("object_lost") == []
    bench.leave(driver)
    assert bench.objects._stale == {}


def test_an_object_larger_than_the_store_and_the_disk_is_refused_before_it_is_written():
    bench = Bench(store=MIB)
    driver = bench.driver()
    bench.send(driver, m.CreateObject(1, put_id(driver, 1), MIB + 1))
    bench.files_made("/spill/1: No space left on device")
    (refused,) = bench.take(driver)
    assert refused.error == "too_large"
    assert refused.detail == (
        "1.0 MiB do not fit a store of 1.0 MiB, and no file for them can be made: /spill/1: No space left on device"
    )
    limited = Bench(store=MIB, spill_bytes_max=MIB)
    driver = limited.driver()
    limited.send(driver, m.CreateObject(1, put_id(driver, 1), MIB + 1))
    (refused,) = limited.take(driver)
    assert refused.error == "too_large" and "the limit of 1.0 MiB on disk is reached" in refused.detail


def full_of_pinned(bench: Bench, driver: bytes) -> list[bytes]:
    held = [write(bench, driver, number) for number in range(bench.objects.capacity // MIB)]
    for identifier in held:
        pin(bench, driver, identifier)
    return held


def test_what_finds_the_store_full_of_pinned_objects_gets_a_file_after_a_moment():
    bench = Bench(store=4 * MIB)
    driver = bench.driver()
    held = full_of_pinned(bench, driver)
    bench.send(driver, m.CreateObject(8, put_id(driver, 8), MIB))
    bench.run_until_quiet(0.9)
    assert bench.take_effects(MakeFile) == [] and bench.take(driver) == []
    bench.run_until_quiet(0.2)
    bench.files_made()
    (room,) = bench.take(driver)
    assert (room.request, room.offset > FALLBACK) == (8, True)
    # The next one knows that nothing has become free since.
    bench.send(driver, m.CreateObject(9, put_id(driver, 9), MIB))
    assert len(bench.files_made()) == 1
    bench.take(driver)
    # Then something does.
    bench.send(driver, m.FreeObjects(held[:1]), m.UnpinObjects(held[:1]))
    bench.send(driver, m.CreateObject(10, put_id(driver, 10), MIB))
    (room,) = bench.take(driver)
    assert room.offset < FALLBACK
    bench.send(driver, m.CreateObject(11, put_id(driver, 11), MIB))
    assert bench.take_effects(MakeFile) == []


def test_no_file_is_made_while_something_can_be_spilled():
    bench = Bench(store=2 * MIB)
    driver = bench.driver()
    pin(bench, driver, write(bench, driver, 1))
    loose = write(bench, driver, 2)
    bench.send(driver, m.CreateObject(3, put_id(driver, 3), MIB))
    bench.run_until_quiet(10)
    assert bench.take_effects(MakeFile) == []
    assert bench.spills_end() == [loose]
    (room,) = bench.take(driver)
    assert room.offset < FALLBACK


def one_spilled_beside_one_pinned() -> tuple[Bench, bytes, bytes]:
    """A store that one object fills which is in use; its driver, and an object that lies on disk."""
    bench = Bench(store=2 * MIB)
    driver = bench.driver()
    first = write(bench, driver, 1, 2 * MIB)
    bench.send(driver, m.CreateObject(2, put_id(driver, 2), 2 * MIB))
    bench.spills_end()
    bench.send(driver, m.SealObject(put_id(driver, 2)))
    bench.take(driver)
    pin(bench, driver, put_id(driver, 2))
    return bench, driver, first


def test_a_spilled_object_is_read_in_its_file_when_all_else_is_pinned():
    bench, driver, first = one_spilled_beside_one_pinned()
    path = bench.objects.entries[first].stored_path
    bench.send(driver, m.PinObject(9, first))
    bench.run_until_quiet(1.5)
    assert bench.take_effects(MakeFile) == []
    assert bench.restores_end() == [first]
    (pinned,) = bench.take(driver)
    assert path == f"/spill/{file_name(first, pinned.offset)}"
    numbers = bench.objects.numbers()
    assert (numbers.spilled_bytes, numbers.fallback_bytes) == (0, 2 * MIB)
    # Damaged, it is lost as any other.
    bench.send(driver, m.UnpinObjects([first]), m.FreeObjects([first]))
    assert bench.take_effects(RemoveFile) == [RemoveFile(path)]


def test_a_damaged_file_is_no_place_to_read_from():
    bench, driver, first = one_spilled_beside_one_pinned()
    bench.send(driver, m.PinObject(9, first))
    bench.run_until_quiet(1.5)
    bench.restores_end(error="checksum 1, written with 2")
    assert bench.take(driver, m.ObjectRefused)[0].error == "lost"
    assert bench.objects.numbers().fallback_bytes == 0


def test_a_writer_that_is_gone_leaves_no_file():
    bench = Bench(store=MIB)
    driver = bench.driver()
    bench.send(driver, m.CreateObject(1, put_id(driver, 1), 2 * MIB))
    bench.send(driver, m.AbortObject(put_id(driver, 1)))
    assert bench.take_effects(RemoveFile) == []
    (file,) = bench.files_made()
    assert bench.take_effects(RemoveFile) == [RemoveFile(file.path)]
    bench.send(driver, m.CreateObject(2, put_id(driver, 2), 2 * MIB))
    (file,) = bench.files_made()
    bench.leave(driver)
    assert bench.take_effects(RemoveFile) == [RemoveFile(file.path)]
    assert bench.objects.numbers().fallback_bytes == 0


def test_a_freed_object_stays_until_its_last_reader_is_gone():
    bench = Bench()
    driver, reader = bench.driver(), bench.driver(b"driver_2")
    identifier = write(bench, driver, 1)
    pin(bench, reader, identifier)
    pin(bench, reader, identifier)
    bench.send(driver, m.FreeObjects([identifier]))
    bench.send(reader, m.UnpinObjects([identifier]))
    assert identifier in bench.objects.entries
    bench.send(reader, m.UnpinObjects([identifier]))
    assert bench.objects.entries == {}
    assert bench.objects.allocator.used_bytes == 0


def test_only_the_owner_can_free():
    bench = Bench()
    driver, other = bench.driver(), bench.driver(b"driver_2")
    identifier = write(bench, driver, 1)
    bench.send(other, m.FreeObjects([identifier]))
    assert state(bench, identifier) is ObjectState.SEALED


def test_an_object_freed_while_it_is_written_goes_when_it_is_sealed():
    bench = Bench()
    driver = bench.driver()
    identifier = write(bench, driver, 1, seal=False)
    bench.send(driver, m.FreeObjects([identifier]))
    assert state(bench, identifier) is ObjectState.CREATED
    bench.send(driver, m.SealObject(identifier))
    assert bench.objects.entries == {}


def test_when_the_store_is_full_the_object_read_longest_ago_goes_to_disk():
    bench = Bench(store=4 * MIB)
    driver = bench.driver()
    first, second, third = (write(bench, driver, number) for number in (1, 2, 3))
    write(bench, driver, 4)
    pin(bench, driver, first)
    bench.send(driver, m.UnpinObjects([first]))
    bench.send(driver, m.CreateObject(5, put_id(driver, 5), MIB))
    (waiting,) = bench.records.named("object_allocation_waiting")
    assert waiting["spillable_bytes"] == 3 * MIB
    assert bench.spills_end() == [second]
    assert state(bench, second) is ObjectState.SPILLED
    assert [room.request for room in bench.take(driver, m.ObjectRoom)] == [5]
    assert (state(bench, first), state(bench, third)) == (ObjectState.SEALED, ObjectState.SEALED)


def test_one_large_object_goes_rather_than_it_and_many_small_ones():
    bench = Bench(store=4 * MIB)
    driver = bench.driver()
    write(bench, driver, 1, MIB)
    large = write(bench, driver, 2, 3 * MIB)
    bench.send(driver, m.CreateObject(3, put_id(driver, 3), 3 * MIB))
    assert bench.spills_end() == [large]


def test_a_spilled_object_comes_back_when_it_is_wanted():
    bench = Bench(store=2 * MIB)
    driver = bench.driver()
    first = write(bench, driver, 1, 2 * MIB)
    bench.send(driver, m.CreateObject(2, put_id(driver, 2), 2 * MIB))
    bench.spills_end()
    bench.send(driver, m.SealObject(put_id(driver, 2)))
    bench.take(driver)
    bench.send(driver, m.PinObject(9, first))
    assert bench.take(driver) == []
    bench.spills_end()
    assert bench.restores_end() == [first]
    (pinned,) = bench.take(driver)
    assert pinned.size == 2 * MIB


def test_what_is_on_disk_already_is_not_written_twice():
    bench = Bench(store=2 * MIB)
    driver = bench.driver()
    first = write(bench, driver, 1, 2 * MIB)
    bench.send(driver, m.CreateObject(2, put_id(driver, 2), 2 * MIB), m.AbortObject(put_id(driver, 2)))
    bench.spills_end()
    pin_later = m.PinObject(9, first)
    bench.send(driver, pin_later)
    bench.restores_end()
    bench.send(driver, m.UnpinObjects([first]))
    bench.take(driver)
    bench.send(driver, m.CreateObject(3, put_id(driver, 3), 2 * MIB))
    assert bench.take_effects(SpillObject) == []
    assert len(bench.take(driver, m.ObjectRoom)) == 1


def test_an_object_wanted_while_it_is_being_spilled_stays():
    bench = Bench(store=2 * MIB)
    driver = bench.driver()
    first = write(bench, driver, 1, 2 * MIB)
    bench.send(driver, m.CreateObject(2, put_id(driver, 2), 2 * MIB))
    pin(bench, driver, first)
    bench.spills_end()
    assert state(bench, first) is ObjectState.SEALED
    # The file of the attempt is not kept.
    assert len(bench.take_effects(RemoveFile)) == 1
    bench.send(driver, m.UnpinObjects([first]))
    assert bench.spills_end() == [first]


def test_memory_that_a_thread_restores_into_is_not_reused_before_it_is_done():
    bench = Bench(store=2 * MIB)
    driver = bench.driver()
    first = write(bench, driver, 1, 2 * MIB)
    bench.send(driver, m.CreateObject(2, put_id(driver, 2), 2 * MIB), m.AbortObject(put_id(driver, 2)))
    bench.spills_end()
    bench.send(driver, m.PinObject(3, first))
    assert bench.objects.allocator.used_bytes == 2 * MIB
    bench.send(driver, m.FreeObjects([first]))
    assert bench.objects.allocator.used_bytes == 2 * MIB
    bench.restores_end()
    assert bench.objects.allocator.used_bytes == 0


def test_a_file_that_cannot_be_read_back_means_that_the_object_is_lost():
    bench = Bench(store=2 * MIB)
    driver = bench.driver()
    first = write(bench, driver, 1, 2 * MIB)
    bench.send(driver, m.CreateObject(2, put_id(driver, 2), 2 * MIB), m.AbortObject(put_id(driver, 2)))
    bench.spills_end()
    bench.take(driver)
    bench.send(driver, m.PinObject(3, first))
    bench.restores_end(error="checksum 1, written with 2")
    (lost,) = bench.take(driver, m.ObjectLost)
    assert lost.objects == [first]
    (refused,) = bench.take(driver)
    assert refused.error == "lost" and "checksum" in refused.detail and first.hex() in refused.detail
    bench.send(driver, m.PinObject(4, first))
    assert bench.take(driver)[0].error == "lost"
    # Its producer may make it again.
    write(bench, driver, 5) if first == put_id(driver, 5) else bench.send(driver, m.CreateObject(5, first, MIB))
    assert state(bench, first) is ObjectState.CREATED


def test_a_full_store_says_who_fills_it_after_waiting_in_vain():
    bench = Bench(store=4 * MIB)
    driver, reader = bench.driver(), bench.driver(b"driver_2")
    for number in range(4):
        pin(bench, reader, write(bench, driver, number))
    bench.send(driver, m.CreateObject(9, put_id(driver, 9), MIB))
    for _ in range(29):
        bench.run_until_quiet(1)
        bench.files_made("/spill/1: No space left on device")
    assert bench.take(driver) == []
    bench.run_until_quiet(1)
    bench.files_made("/spill/1: No space left on device")
    (refused,) = bench.take(driver)
    assert refused.error == "full" and "writing to disk failed: /spill/1: No space left" in refused.detail
    assert refused.detail.startswith("no room for 1.0 MiB: 0 B of 4.0 MiB free")
    assert reader.hex()[:8] in refused.detail
    assert len(bench.records.named("object_allocation_failed")) == 1


def test_a_disk_that_is_full_is_tried_again_and_then_named():
    bench = Bench(store=2 * MIB)
    driver = bench.driver()
    write(bench, driver, 1, 2 * MIB)
    bench.send(driver, m.CreateObject(2, put_id(driver, 2), 2 * MIB))
    tries = 0
    while not (answers := bench.take(driver)):
        tries += len(bench.spills_end(error="/spill: No space left on device"))
        bench.run_until_quiet(1)
    assert 20 < tries < 40
    assert answers[0].error == "full" and "No space left on device" in answers[0].detail


def test_spilling_keeps_its_limit():
    bench = Bench(store=2 * MIB, spill_bytes_max=MIB)
    driver = bench.driver()
    write(bench, driver, 1, 2 * MIB)
    bench.send(driver, m.CreateObject(2, put_id(driver, 2), 2 * MIB))
    assert bench.take_effects(SpillObject) == []
    bench.run_until_quiet(31)
    assert "the limit of 1.0 MiB on disk is reached" in bench.take(driver)[0].detail


def test_requests_for_room_are_served_in_order():
    bench = Bench(store=4 * MIB)
    driver = bench.driver()
    held = write(bench, driver, 1, 4 * MIB)
    pin(bench, driver, held)
    for number, size in ((2, 3 * MIB), (3, MIB), (4, MIB)):
        bench.send(driver, m.CreateObject(number, put_id(driver, number), size))
    bench.send(driver, m.FreeObjects([held]), m.UnpinObjects([held]))
    assert [room.request for room in bench.take(driver, m.ObjectRoom)] == [2, 3]


@pytest.mark.parametrize("sealed", [False, True])
def test_the_death_of_a_client_leaves_nothing_of_it_behind(sealed):
    bench = Bench()
    driver, other = bench.driver(), bench.driver(b"driver_2")
    identifier = write(bench, driver, 1, seal=sealed)
    foreign = write(bench, other, 1)
    pin(bench, driver, foreign)
    bench.send(other, m.PinObject(5, identifier))
    bench.take(other)
    bench.leave(driver)
    if not sealed:
        refusals = [message for message in bench.take(other) if isinstance(message, m.ObjectRefused)]
        assert [(each.request, each.error) for each in refusals] == [(5, "lost")]
    else:
        assert identifier in bench.objects.entries
        bench.send(other, m.UnpinObjects([identifier]))
    assert list(bench.objects.entries) == [foreign]
    assert bench.objects.pinned_bytes == 0


def test_a_retried_attempt_may_write_what_its_dead_predecessor_began():
    bench = Bench(prestart=1)
    bench.do(bench.machine.start)
    (worker,) = bench.workers_join()
    driver = bench.driver()
    identifier = put_id(driver, 1)
    bench.send(worker, m.CreateObject(1, identifier, 100))
    bench.worker_dies(worker)
    bench.workers_join()
    bench.send(driver, m.CreateObject(2, identifier, 100))
    assert [type(message) for message in bench.take(driver) if not isinstance(message, m.WorkerDied)] == [m.ObjectRoom]


actions = st.lists(
    st.tuples(st.sampled_from("cccsapuufxrteSRFF"), st.integers(0, 2), st.integers(0, 5), st.integers(1, 4)),
    max_size=100,
)


@settings(max_examples=250, deadline=None, print_blob=True)
@given(actions)
def test_the_books_balance_whatever_happens(script):
    """The bench checks all invariants after every stimulus; when all clients are gone, so is everything else."""
    bench = Bench(store=6 * MIB)
    clients = [bench.driver(b"driver_%d" % number) for number in range(3)]
    alive = set(clients)
    for action, who, number, size in script:
        client, owner = clients[who], clients[number % 3]
        identifier = put_id(owner, number)
        if action == "S":
            spills = bench.take_effects(SpillObject)
            for spill in spills[::-1]:
                bench.do(bench.machine.object_spilled, spill.token, spill.path, 0.1, "ENOSPC" if size == 3 else "")
            continue
        if action == "R":
            for restore in bench.take_effects(RestoreObject):
                bench.do(bench.machine.object_restored, restore.token, 0.1, "damaged" if size == 3 else "")
            continue
        if action == "F":
            bench.files_made("ENOSPC" if size == 3 else "")
            continue
        if action == "t":
            bench.tick(size if number % 2 else 10.0 * size)
            continue
        if client not in alive:
            continue
        if action == "e":
            alive.discard(client)
            bench.leave(client)
            continue
        message = {
            "c": m.CreateObject(1, identifier, (size if size < 4 else 7) * MIB),
            "s": m.SealObject(identifier),
            "a": m.AbortObject(identifier),
            "p": m.PinObject(2, identifier),
            "u": m.UnpinObjects([identifier]),
            "f": m.FreeObjects([identifier]),
            "x": m.UnpinObjects([identifier, identifier]),
            "r": m.Request(3, "store", {}),
        }[action]
        bench.send(client, message)
    for client in alive:
        bench.leave(client)
    for spill in bench.take_effects(SpillObject):
        bench.do(bench.machine.object_spilled, spill.token, spill.path, 0.1, "")
    for restore in bench.take_effects(RestoreObject):
        bench.do(bench.machine.object_restored, restore.token, 0.1, "")
    bench.files_made()
    assert bench.objects.entries == {}
    assert bench.objects.allocator.used_bytes == bench.objects.spilling.stored_bytes == 0
    assert bench.objects.room.fallback.bytes == 0
