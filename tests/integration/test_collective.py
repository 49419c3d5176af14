"""Collective operations do what numpy would, and fail for all members together."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

import obsray
from obsray.exceptions import (
    CollectiveError,
    CollectiveMemberDiedError,
    CollectiveMismatchError,
    CollectiveTimeoutError,
)
from obsray.util import collective as col
from obsray.util import state
from obsray.util.collective.types import ReduceOp

UFUNCS = {ReduceOp.SUM: np.add, ReduceOp.PRODUCT: np.multiply, ReduceOp.MIN: np.minimum, ReduceOp.MAX: np.maximum}


@pytest.fixture(scope="module", autouse=True)
def runtime():
    obsray.init(num_cpus=4, include_dashboard=False)
    yield
    obsray.shutdown()


@obsray.remote(num_cpus=0)
class Member:
    def join(self, members, rank, name="default", timeout=20_000, backend="obsray"):
        col.init_collective_group(members, rank, backend, name, timeout)
        return col.get_rank(name), col.get_collective_group_size(name)

    def leave(self, name="default"):
        col.destroy_collective_group(name)
        return col.is_group_initialized(name)

    def allreduce(self, array, op=ReduceOp.SUM, name="default"):
        array = array.copy()
        col.allreduce(array, name, op)
        return array

    def reduce(self, array, root, op):
        array = array.copy()
        col.reduce(array, root, op=op)
        return array

    def broadcast(self, array, root):
        array = array.copy()
        col.broadcast(array, root)
        return array

    def allgather(self, array, members):
        found = [np.empty_like(array) for _ in range(members)]
        col.allgather(found, array)
        return found

    def reducescatter(self, arrays, op):
        found = np.empty_like(arrays[0])
        col.reducescatter(found, arrays, op=op)
        return found

    def send(self, array, rank):
        col.send(array, rank)

    def recv(self, like, rank):
        found = np.zeros_like(like)
        col.recv(found, rank)
        return found

    def barrier(self, name="default"):
        col.barrier(name)

    def read_only(self, array):
        col.allreduce(array)

    def strided(self, array):
        whole = array.copy()
        col.allreduce(whole[::2, ::2])
        return whole

    def actor_id(self):
        return obsray.get_runtime_context().get_actor_id()


def group_of(members, **options):
    actors = [Member.remote() for _ in range(members)]
    joined = obsray.get([actor.join.remote(members, rank, **options) for rank, actor in enumerate(actors)])
    assert joined == [(rank, members) for rank in range(members)]
    return actors


@pytest.fixture(scope="module")
def three():
    return group_of(3)


def everywhere(actors, method, arguments):
    return obsray.get([getattr(actor, method).remote(*each) for actor, each in zip(actors, arguments, strict=True)])


@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_every_operation_gives_what_numpy_gives(members, three):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance, numbers = random.Random(seed), np.random.default_rng(seed)
    actors = three if members == 3 else group_of(members)
    for _ in range(6):
        shape = tuple(chance.choice([0, 1, 2, 3, 7, 100, 701]) for _ in range(chance.randrange(3)))
        dtype = chance.choice(["i4", "i8", "u2", "f8"])
        arrays = [numbers.integers(0, 5, shape).astype(dtype) for _ in range(members)]
        op, root = chance.choice(list(ReduceOp)), chance.randrange(members)
        wanted = UFUNCS[op].reduce(arrays).astype(dtype)
        for found in everywhere(actors, "allreduce", [(each, op) for each in arrays]):
            np.testing.assert_array_equal(found, wanted)
        reduced = everywhere(actors, "reduce", [(each, root, op) for each in arrays])
        for rank, found in enumerate(reduced):
            np.testing.assert_array_equal(found, wanted if rank == root else arrays[rank])
        for found in everywhere(actors, "broadcast", [(each, root) for each in arrays]):
            np.testing.assert_array_equal(found, arrays[root])
        for found in everywhere(actors, "allgather", [(each, members) for each in arrays]):
            np.testing.assert_array_equal(found, arrays)
        scattered = everywhere(
            actors, "reducescatter", [([np.asarray(each + i) for i in range(members)], op) for each in arrays]
        )
        for rank, found in enumerate(scattered):
            np.testing.assert_array_equal(found, UFUNCS[op].reduce([each + rank for each in arrays]).astype(dtype))


def test_large_arrays_go_round_in_chunks_with_as_few_bytes_as_possible(three):
    arrays = [np.full(1_000_003, rank + 1, np.float32) for rank in range(3)]
    for found in everywhere(three, "allreduce", [(each,) for each in arrays]):
        assert (found == 6).all()
    actor = obsray.get(three[0].actor_id.remote())
    views = state.ask(None, lambda views: views.store.rows("collective_ended"))
    mine = [row for row in views if row["data_bytes"] == arrays[0].nbytes and row["operation"] == "allreduce"]
    assert {row["rank"] for row in mine} == {0, 1, 2} and actor
    for row in mine:
        assert row["sent_bytes"] == pytest.approx(2 * 2 / 3 * row["data_bytes"], rel=0.01)
        assert row["seconds"] == pytest.approx(row["wait_seconds"] + row["transfer_seconds"], rel=1e-4)
    listed = state.ask(None, lambda views: views.collectives())
    (row,) = [row for row in listed if row["group_id"] == mine[0]["group"].hex()]
    assert (row["name"], row["state"], row["members"], row["backend"]) == ("default", "READY", 3, "obsray")
    assert row["operations"] >= 1 and row["sent_bytes"] > arrays[0].nbytes and row["slowest_rank"] in (0, 1, 2)
    story = state.ask(None, lambda views: views.story(mine[0]["group"].hex()))
    assert {"collective_joined", "collective_ended"} <= {event["event"] for event in story}


def test_a_view_with_steps_is_reduced_in_place(three):
    arrays = [np.full((4, 4), rank) for rank in range(3)]
    for rank, found in enumerate(everywhere(three, "strided", [(each,) for each in arrays])):
        assert (found[::2, ::2] == 3).all() and (found[1::2] == rank).all()


def test_two_members_exchange_arrays_whatever_the_third_does(three):
    array = np.arange(10)
    sent, found = three[0].send.remote(array, 2), three[2].recv.remote(array, 0)
    assert obsray.get([sent, found])[1].tolist() == array.tolist()
    obsray.get([actor.barrier.remote() for actor in three])


def failures_of(references):
    found = []
    for reference in references:
        with pytest.raises((CollectiveError, TypeError, ValueError)) as caught:
            obsray.get(reference, timeout=30)
        found.append(caught.value)
    return found


def test_members_that_disagree_all_hear_of_it_and_go_on(three):
    wrong = [np.zeros(3), np.zeros(3), np.zeros(4)]
    for error in failures_of([actor.allreduce.remote(each) for actor, each in zip(three, wrong, strict=True)]):
        assert isinstance(error, CollectiveMismatchError) and "shape differs" in str(error) and "rank 2" in str(error)
    roots = [actor.broadcast.remote(np.zeros(3), root) for actor, root in zip(three, (0, 0, 1), strict=True)]
    assert all("src_rank differs" in str(error) for error in failures_of(roots))
    # What is wrong for one member alone is that member's own error, and the others' mismatch.
    mixed = [three[0].read_only.remote(obsray.put(np.zeros(100_000)))]
    mixed += [actor.allreduce.remote(np.zeros(100_000)) for actor in three[1:]]
    own, *others = failures_of(mixed)
    assert isinstance(own, ValueError) and "read-only" in str(own)
    assert all(isinstance(error, CollectiveMismatchError) and "read-only" in str(error) for error in others)
    obsray.get([actor.barrier.remote() for actor in three])


def test_members_out_of_step_break_the_group_and_can_form_it_again():
    actors = group_of(3, name="steps")
    calls = [actors[0].allreduce.remote(np.zeros(3), name="steps")]
    calls += [actor.barrier.remote("steps") for actor in actors[1:]]
    assert all("out of step" in str(error) or "left" in str(error) for error in failures_of(calls))
    assert all("broken" in str(error) for error in failures_of([actor.barrier.remote("steps") for actor in actors]))
    assert obsray.get([actor.leave.remote("steps") for actor in actors]) == [False] * 3
    obsray.get([actor.join.remote(3, rank, "steps") for rank, actor in enumerate(actors)])
    obsray.get([actor.barrier.remote("steps") for actor in actors])


def test_a_dead_member_fails_the_others_at_once():
    actors = group_of(3, name="mortal")
    waiting = [actor.allreduce.remote(np.zeros(3), name="mortal") for actor in actors[:2]]
    began = time.monotonic()
    obsray.kill(actors[2])
    errors = failures_of(waiting)
    assert time.monotonic() - began < 10
    assert all(isinstance(error, CollectiveMemberDiedError) for error in errors)
    assert any("rank 2 is gone" in str(error) for error in errors)


def test_a_late_member_fails_all_of_them_itself_included():
    # Long enough for three processes that exist to meet, however busy the machine is.
    actors = group_of(3, name="late", timeout=2000)
    errors = failures_of([actor.barrier.remote("late") for actor in actors[:2]])
    assert all(isinstance(error, CollectiveTimeoutError) for error in errors)
    (own,) = failures_of([actors[2].barrier.remote("late")])
    assert isinstance(own, CollectiveTimeoutError) and "[2] did not come in time" in str(own)


def test_a_group_that_cannot_form_says_who_is_missing_or_wrong():
    a, b = Member.remote(), Member.remote()
    (error,) = failures_of([a.join.remote(2, 0, "alone", 200)])
    assert isinstance(error, CollectiveTimeoutError) and "ranks [1] did not join" in str(error)
    for error in failures_of([a.join.remote(2, 0, "twice"), b.join.remote(2, 0, "twice")]):
        assert isinstance(error, CollectiveMismatchError) and "rank 0" in str(error)
    for error in failures_of([a.join.remote(2, 0, "size"), b.join.remote(3, 1, "size")]):
        assert isinstance(error, CollectiveMismatchError) and "3" in str(error)


def test_a_declared_group_is_joined_by_its_first_operation():
    actors = [Member.remote() for _ in range(2)]
    col.create_collective_group(actors, 2, [1, 0], "gloo", "declared")
    found = obsray.get([actor.allreduce.remote(np.ones(2), name="declared") for actor in actors])
    assert all(each.tolist() == [2, 2] for each in found)
    with pytest.raises(RuntimeError, match="declared already"):
        col.create_collective_group(actors, 2, [0, 1], group_name="declared")
    with pytest.raises(ValueError, match="one for each of 2 ranks"):
        col.create_collective_group(actors, 2, [0, 0], group_name="other")
    col.destroy_collective_group("declared")


def test_tasks_are_members_for_as_long_as_they_run():
    @obsray.remote(num_cpus=1)
    def task(rank):
        col.init_collective_group(3, rank, group_name="tasks")
        array = np.array([rank])
        col.allreduce(array, "tasks")
        return int(array[0])

    for _ in range(2):
        assert obsray.get([task.remote(rank) for rank in range(3)]) == [3, 3, 3]


def test_bad_arguments_are_errors_at_the_call():
    for arguments, error in (((2, 2), ValueError), ((0, 0), ValueError), (("2", 0), TypeError)):
        with pytest.raises(error):
            col.init_collective_group(*arguments)
    with pytest.raises(ValueError, match="'gloo', 'nccl'"):
        col.init_collective_group(2, 0, "mpi")
    with pytest.raises(CollectiveError, match="no member"):
        col.allreduce(np.zeros(1), "nobody")
    assert col.get_rank("nobody") == -1 and not col.is_group_initialized("nobody")
    with pytest.raises(NotImplementedError, match=r"each call allreduce\(\)"):
        col.allreduce_multigpu([])
    col.init_collective_group(1, 0, group_name="me")
    with pytest.raises(RuntimeError, match="already"):
        col.init_collective_group(1, 0, group_name="me")
    with pytest.raises(ValueError, match="op=9"):
        col.allreduce(np.zeros(1), "me", 9)
    with pytest.raises(TypeError, match="list"):
        col.allreduce([1], "me")
    with pytest.raises(TypeError, match="cannot be reduced"):
        col.allreduce(np.zeros(2, bool), "me")
    col.destroy_collective_group("me")


def test_writing_to_who_is_gone_is_an_error_and_not_the_end_of_a_worker():
    @obsray.remote(max_retries=0)
    def write():
        import socket

        here, there = socket.socketpair()
        there.close()
        try:
            here.send(b"x")
        except BrokenPipeError:
            return "an error"

    assert obsray.get(write.remote()) == "an error"
