"""``obsray.util`` on a running runtime: where it could hang, lose or miscount."""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import obsray
from obsray import exceptions, util
from obsray.telemetry import session_file
from obsray.util import metrics, state
from obsray.util.multiprocessing import Pool
from obsray.util.queue import Queue
from tests.integration.programs import eventually

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def session() -> Iterator[Path]:
    context = obsray.init(num_cpus=2, include_dashboard=False)
    yield Path(context.address_info["session_dir"])
    obsray.shutdown()


def same(value):
    return value


def test_a_metric_recorded_by_a_task_that_is_killed_is_not_lost(session):
    hits = metrics.Counter("hits_before_the_kill", tag_keys=("who",))

    @obsray.remote(max_retries=0)
    def record_and_die():
        for _ in range(100):
            hits.inc(1, {"who": "victim"})
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(exceptions.WorkerCrashedError):
        obsray.get(record_and_die.remote())
    token = (session / "token").read_bytes().hex()

    def scraped() -> bool:
        url = session_file.read(session).get("metrics_url")
        if not url:
            return False
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return 'obsray_user_hits_before_the_kill_total{who="victim"} 100.0' in answer.read().decode()

    eventually(scraped)


def test_imap_reads_an_endless_input_only_a_little_ahead(session):
    read = []

    def endless():
        for number in itertools.count():
            read.append(number)
            yield number

    with Pool(2) as pool:
        assert list(itertools.islice(pool.imap(same, endless(), chunksize=3), 10)) == list(range(10))
        assert len(read) < 100


def test_an_imap_begun_before_close_goes_on_to_its_end(session):
    pool = Pool(2)
    results = pool.imap(same, range(50))
    pool.close()
    assert list(results) == list(range(50))
    pool.join()
    with pytest.raises(ValueError, match="not running"):
        pool.imap(same, [1])


def test_callbacks_of_starmap_async_stand_where_ray_or_the_standard_library_has_them(session):
    told: queue.SimpleQueue = queue.SimpleQueue()
    with Pool(1) as pool:
        for more in ((told.put,), (1, told.put), (None, told.put)):
            pool.starmap_async(divmod, [(7, 2)], *more).get(timeout=30)
            assert told.get(timeout=30) == [(3, 1)]
        for more in ((print, told.put), (1, print, told.put)):
            with pytest.raises(ZeroDivisionError):
                pool.starmap_async(divmod, [(7, 0)], *more).get(timeout=30)
            assert isinstance(told.get(timeout=30), ZeroDivisionError)


def test_a_pool_goes_on_after_one_of_its_processes_died(session):
    def die(_):
        os._exit(1)

    with Pool(1) as pool:
        with pytest.raises(exceptions.RayActorError):
            pool.map(die, [1])
        assert pool.map(same, [1, 2]) == [1, 2]


def test_processes_of_a_pool_are_replaced_after_their_share(session):
    def pid(_):
        return os.getpid()

    with Pool(1, maxtasksperchild=2) as pool:
        pids = pool.map(pid, range(6), chunksize=1)
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [2, 2, 2]


def test_an_initializer_that_fails_fails_the_work_and_not_the_program(session):
    def broken():
        raise OSError("no licence")

    with Pool(1, initializer=broken) as pool, pytest.raises(exceptions.RayActorError, match="no licence"):
        pool.map(same, [1])


def test_terminate_fails_what_was_not_done(session, tmp_path):
    gate = tmp_path / "gate"

    def wait_for_ever(_):
        gate.touch()
        threading.Event().wait()

    pool = Pool(1)
    result = pool.map_async(wait_for_ever, [1, 2, 3, 4])
    eventually(gate.exists)
    pool.terminate()
    pool.join()
    with pytest.raises(exceptions.RayError, match="terminated"):
        result.get(10)


def test_an_initializer_has_run_in_every_process_when_the_pool_is_there(session, tmp_path):
    with Pool(2, initializer=lambda: (tmp_path / str(os.getpid())).touch()):
        assert len(list(tmp_path.iterdir())) == 2


def test_pools_and_tasks_inside_of_a_pool_do_not_wait_for_its_cpus(session):
    def outer(number):
        with Pool(2) as pool:
            return [*pool.map(same, range(number)), obsray.get(obsray.remote(same).remote(number))]

    with Pool(2) as pool:
        assert pool.map(outer, [1, 2], chunksize=1) == [[0, 1], [0, 1, 2]]


def test_the_first_chunks_are_dealt_to_all_processes(session):
    # With an initializer it waits for all processes, however long that takes.
    with Pool(2, initializer=int) as pool:
        assert len(set(pool.map(lambda _: os.getpid(), range(2), chunksize=1))) == 2


def test_of_a_chunk_of_imap_only_the_calls_that_raised_raise(session):
    def odd(number):
        if number % 2 == 0:
            raise ValueError(f"{number} is even")
        return number

    with Pool(1) as pool:
        results = pool.imap(odd, range(6), chunksize=4)
        found = []
        while len(found) < 6:
            try:
                found.append(next(results))
            except ValueError as error:
                assert isinstance(error, exceptions.RayTaskError) and "in odd" in str(error)
                found.append(str(error.cause))
        assert found == ["0 is even", 1, "2 is even", 3, "4 is even", 5]
        with pytest.raises(StopIteration):
            next(results)


def test_a_context_makes_no_difference_and_that_is_said():
    with pytest.warns(RuntimeWarning, match="processes are actors"), Pool(1, context="fork") as pool:
        assert pool.apply(abs, (-1,)) == 1


@pytest.mark.parametrize("wrong", [{"processes": 0}, {"processes": 3}, {"maxtasksperchild": 0}])
def test_a_pool_that_cannot_be_is_an_error_at_once(session, wrong):
    with pytest.raises(ValueError):
        Pool(**wrong)


class LargestFirst(util.queue._QueueActor):
    """As programs derive theirs from Ray's."""

    def __init__(self, maxsize):
        super().__init__(maxsize)
        self.queue = asyncio.PriorityQueue(maxsize)

    async def put(self, item, timeout=None):
        await super().put(-item, timeout)

    async def get(self, timeout=None):
        return -await super().get(timeout)


def test_a_queue_may_be_given_an_actor_of_its_own(session):
    queue = Queue()
    first = queue.actor
    queue.actor = obsray.remote(LargestFirst).remote(2)

    @obsray.remote
    def fill(queue):
        for number in (3, 7):
            queue.put(number)
        with pytest.raises(util.queue.Full):
            queue.put(5, timeout=0)
        return queue.actor

    assert obsray.get(fill.remote(queue)) == queue.actor != first
    assert [queue.get(), queue.get()] == [7, 3]
    with pytest.raises(util.queue.Empty):
        queue.get_nowait()
    queue.actor = first
    queue.put("as before")
    assert queue.get() == "as before"
    queue.shutdown()
    assert queue.actor is None


def test_the_actor_of_a_queue_has_the_methods_of_rays(session):
    queue = Queue(maxsize=3)
    obsray.get([queue.actor.put.remote(1), queue.actor.put_nowait.remote(2), queue.actor.put_nowait_batch.remote([3])])
    assert obsray.get([queue.actor.full.remote(), queue.actor.empty.remote()]) == [True, False]
    assert obsray.get([queue.actor.get.remote(), queue.actor.get_nowait.remote()]) == [1, 2]
    assert obsray.get(queue.actor.get_nowait_batch.remote(1)) == [3]
    for full_or_empty in (queue.actor.get.remote(0), queue.actor.get_nowait.remote()):
        with pytest.raises(util.queue.Empty):
            obsray.get(full_or_empty)
    with pytest.raises(util.queue.Full):
        obsray.get(queue.actor.put_nowait_batch.remote([1, 2, 3, 4]))
    queue.shutdown()


def test_looking_into_an_empty_queue_is_no_failed_task(session):
    queue = Queue(maxsize=1)
    with pytest.raises(util.queue.Empty):
        queue.get(timeout=0)
    queue.put("x")
    with pytest.raises(util.queue.Full):
        queue.put_nowait("y")
    assert state.list_tasks(filters=[("actor_id", "=", queue.actor._actor_id.hex()), ("state", "=", "FAILED")]) == []
    queue.shutdown()
    with pytest.raises(exceptions.RayActorError):
        queue.size()


def test_a_map_over_actors_makes_what_was_submitted_before_it_and_does_not_wait_for_it(session, tmp_path):
    @obsray.remote(num_cpus=0)
    class Actor:
        async def call(self, value):
            if value == "blocks":
                while not (tmp_path / "open").exists():
                    await asyncio.sleep(0.01)
            (tmp_path / str(value)).touch()
            return value

    def call(actor, value):
        return actor.call.remote(value)

    pool = util.ActorPool([Actor.remote() for _ in range(2)])
    for value in ("blocks", "a", "b", "c"):
        pool.submit(call, value)
    assert list(pool.map(call, range(4))) == [0, 1, 2, 3]
    assert not (tmp_path / "blocks").exists()
    (tmp_path / "open").touch()
    assert eventually(lambda: {path.name for path in tmp_path.iterdir()} >= {"a", "b", "c", "blocks"})
    assert sorted(pool.map_unordered(call, range(4))) == [0, 1, 2, 3]


def test_a_pool_of_actors_without_actors_says_so_instead_of_waiting(session):
    pool = util.ActorPool([])
    pool.submit(lambda actor, value: actor.do.remote(value), 1)
    with pytest.raises(RuntimeError, match="no actor"):
        pool.get_next()


def test_map_unordered_takes_an_endless_input(session):
    results = util.map_unordered(obsray.remote(same), itertools.count(), backpressure_size=4)
    assert len(set(itertools.islice(results, 20))) == 20


def test_the_state_of_a_retried_task_is_told_by_attempt(session, tmp_path):
    @obsray.remote(max_retries=1)
    def second_time_lucky():
        if not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            os._exit(3)

    reference = second_time_lucky.remote()
    obsray.get(reference)
    name = [("name", "=", "second_time_lucky")]
    assert eventually(lambda: len(state.list_tasks(filters=name)) == 2)
    (failed,) = state.list_tasks(filters=[*name, ("state", "=", "FAILED")], detail=True)
    assert (failed.attempt_number, failed.error_type) == (0, "WORKER_DIED")
    (finished,) = state.list_tasks(filters=[*name, ("attempt_number", "=", 1)])
    assert finished.state == "FINISHED" and finished.worker_id != failed.worker_id
    assert [row.attempt_number for row in state.get_task(reference)] == [1, 0]


def test_a_listing_is_filtered_before_it_is_cut(session):
    @obsray.remote
    def needle():
        return 1

    obsray.get(needle.remote())
    obsray.get([obsray.remote(same).remote(number) for number in range(1_000)])
    assert eventually(
        lambda: [row.state for row in state.list_tasks(filters=[("name", "=", "needle")])] == ["FINISHED"]
    )
    summary = state.summarize_tasks()["cluster"]["summary"]
    assert summary["needle"]["state_counts"] == {"FINISHED": 1}
    assert len(state.list_tasks(limit=5)) == 5
    with pytest.raises(ValueError, match="limit"):
        state.list_tasks(limit=0)
