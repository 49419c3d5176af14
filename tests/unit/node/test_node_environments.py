"""Environments of workers as the node sees them: made once, waited for, failed, forgotten; and processes of jobs."""

from __future__ import annotations

from typing import Any

from obsray.core.node.step import MakeEnvironment, RemoveEnvironment
from obsray.core.node.workers import SETUP_FAILED_EXIT
from obsray.core.protocol import messages as m
from obsray.core.protocol.environment_key import environment_id, environment_key
from obsray.core.protocol.lifecycle import ActorState
from obsray.ids import SEQUENCE_ACTOR, task_id
from obsray.telemetry.events import DeathCause, Reason
from tests.unit.node.node_bench import Bench, actor_spec

PACKAGE = "ab" * 16


def asked(bench: Bench) -> list[MakeEnvironment]:
    return [effect for effect in bench.effects if isinstance(effect, MakeEnvironment)]


def wants(bench: Bench, driver: bytes, number: int = 1, wanted: int = 1, **description: Any) -> None:
    bench.send(driver, m.DefineShape(number, "f", {"CPU": 10_000}, description), m.LeaseRequest(number, wanted, wanted))


def got(bench: Bench, client: bytes, kind: type) -> list[Any]:
    return [message for message in bench.inbox.get(client, []) if isinstance(message, kind)]


def test_no_process_is_started_before_its_environment_is_there():
    bench = Bench()
    driver = bench.driver()
    wants(bench, driver, working_dir=PACKAGE)
    assert not bench.asked
    (making,) = asked(bench)
    assert making.description["working_dir"] == PACKAGE
    (decided,) = bench.records.named("lease_decided")
    assert decided["reason"] == Reason.ENVIRONMENT
    bench.do(bench.machine.environment_made, making.environment, {"cwd": "/there"}, 5, "")
    assert len(bench.asked) == 1
    bench.workers_join()
    assert len(got(bench, driver, m.LeaseGranted)) == 1
    assert [each["environment_bytes"] for each in bench.records.named("environment_ready")] == [5]


def test_an_environment_is_made_once_however_many_ask():
    bench = Bench()
    for name in (b"driver_1", b"driver_2"):
        wants(bench, bench.driver(name), working_dir=PACKAGE)
    assert len(asked(bench)) == 1
    assert [each["environment"] for each in bench.records.named("environment_asked")] == [
        environment_id(environment_key({"working_dir": PACKAGE}))
    ]


def test_variables_alone_need_nothing_made():
    bench = Bench()
    wants(bench, bench.driver(), env_vars={"COLOUR": "green"})
    assert not asked(bench)
    assert [*bench.asked.values()] == [{"COLOUR": "green"}]


def test_who_asks_for_what_cannot_be_made_is_told_why_and_nothing_spins():
    bench = Bench()
    driver = bench.driver()
    wants(bench, driver, working_dir=PACKAGE)
    bench.do(bench.machine.environment_made, asked(bench)[0].environment, {}, 0, "the disk is full")
    assert got(bench, driver, m.EnvironmentFailed) == [m.EnvironmentFailed(1, "the disk is full")]
    bench.send(driver, m.LeaseRequest(1, 3, 3))
    assert len(got(bench, driver, m.EnvironmentFailed)) == 2
    assert len(asked(bench)) == 1 and not bench.asked
    assert bench.scheduler.waiting() == (0, 0)


def test_a_failure_is_tried_again_when_somebody_asks_later():
    bench = Bench()
    driver = bench.driver()
    wants(bench, driver, working_dir=PACKAGE)
    bench.do(bench.machine.environment_made, asked(bench)[0].environment, {}, 0, "no network")
    bench.tick(11.0)
    bench.send(driver, m.LeaseRequest(1, 1, 1))
    assert len(asked(bench)) == 2


def test_an_environment_that_takes_too_long_is_given_up():
    bench = Bench()
    driver = bench.driver()
    wants(bench, driver, working_dir=PACKAGE, seconds_max=3)
    bench.tick(3.1)
    (failed,) = got(bench, driver, m.EnvironmentFailed)
    assert "was not ready within 3.1 s" in failed.error
    # What comes of it after all is not waited for any more.
    bench.do(bench.machine.environment_made, asked(bench)[0].environment, {}, 0, "")
    assert not bench.asked


def test_a_setup_hook_that_fails_fails_the_tasks_after_one_process():
    bench = Bench()
    driver = bench.driver()
    wants(bench, driver, setup_hook={"name": "module.function"})
    bench.do(bench.machine.environment_made, asked(bench)[0].environment, {}, 0, "")
    (worker,) = bench.asked
    bench.asked.clear()
    bench.worker_dies(worker, exit_code=SETUP_FAILED_EXIT, signal=0, tail="ValueError: no")
    assert got(bench, driver, m.EnvironmentFailed) == [m.EnvironmentFailed(1, "ValueError: no")]
    assert not bench.asked


def test_processes_that_do_not_start_in_an_environment_fail_it_after_a_few():
    bench = Bench(cpus=1)
    driver = bench.driver()
    wants(bench, driver, env_vars={"PYTHONHOME": "/nowhere"})
    for _ in range(20):
        if not bench.asked:
            break
        worker = next(iter(bench.asked))
        del bench.asked[worker]
        bench.worker_dies(worker, exit_code=1, signal=0)
    (failed,) = got(bench, driver, m.EnvironmentFailed)
    assert "processes did not start in it" in failed.error
    assert not bench.asked


def test_an_actor_whose_environment_cannot_be_made_dies_of_that():
    bench = Bench()
    driver = bench.driver()
    spec = {**actor_spec(task_id(driver, 1, SEQUENCE_ACTOR), driver), "runtime": {"working_dir": PACKAGE}}
    bench.send(driver, m.CreateActor(7, spec))
    bench.do(bench.machine.environment_made, asked(bench)[0].environment, {}, 0, "no")
    (died,) = [news for news in got(bench, driver, m.ActorChanged) if news.state == ActorState.DEAD]
    assert died.cause == DeathCause.ENVIRONMENT_FAILED and "its environment cannot be made: no" in died.detail


def test_unused_environments_are_deleted_when_there_is_too_much_of_them():
    bench = Bench()
    bench.pool.environments._bytes_max = 100
    driver = bench.driver()
    for number, package in enumerate(("ab" * 16, "cd" * 16), 1):
        wants(bench, driver, number, working_dir=package)
        bench.do(bench.machine.environment_made, asked(bench)[-1].environment, {}, 80, "")
        bench.send(driver, m.LeaseRequest(number, 0, 0))
    for worker in list(bench.asked):
        del bench.asked[worker]
        bench.worker_dies(worker)
    bench.tick(1.0)
    removed = [effect for effect in bench.effects if isinstance(effect, RemoveEnvironment)]
    assert [effect.environment for effect in removed] == [asked(bench)[0].environment]
    assert [each["environment_bytes"] for each in bench.records.named("environment_removed")] == [80]


def described(bench: Bench, name: bytes) -> bytes:
    driver = bench.driver(name)
    bench.send(driver, m.DescribeJob({"namespace": name.decode(), "sys_path": ["/home"]}))
    return driver


def test_a_process_that_worked_for_one_job_is_not_given_to_another():
    bench = Bench(cpus=2)
    first, second = described(bench, b"driver_1"), described(bench, b"driver_2")
    for driver in (first, second):
        bench.send(driver, m.DefineShape(1, "f", {"CPU": 10_000}))
    bench.send(first, m.LeaseRequest(1, 1, 1))
    (worker,) = bench.workers_join()
    lease = got(bench, first, m.LeaseGranted)[0].lease
    bench.send(first, m.LeaseReturn(lease, 1, 0))
    bench.send(second, m.LeaseRequest(1, 1, 1))
    assert not got(bench, second, m.LeaseGranted) and len(bench.asked) == 1
    (other,) = bench.workers_join()
    assert [granted.worker for granted in got(bench, second, m.LeaseGranted)] == [other]
    bench.send(first, m.LeaseRequest(1, 1, 1))
    assert [granted.worker for granted in got(bench, first, m.LeaseGranted)] == [worker, worker]


def test_a_process_that_worked_without_devices_is_not_given_to_what_needs_one_and_the_reverse():
    """What CUDA has told a process once, that there are no devices or which, it tells it for good."""
    bench = Bench(cpus=2, gpus=1)
    driver = described(bench, b"driver_1")
    bench.send(driver, m.DefineShape(1, "plain", {"CPU": 10_000}), m.DefineShape(2, "train", {"GPU": 10_000}))
    workers = []
    for shape in (1, 2):
        bench.send(driver, m.LeaseRequest(shape, 1, 1))
        assert len(bench.asked) == 1
        workers += bench.workers_join()
        granted = got(bench, driver, m.LeaseGranted)[-1]
        assert (granted.shape, granted.worker) == (shape, workers[-1])
        bench.send(driver, m.LeaseReturn(granted.lease, 1, 0))
    for shape, worker in ((1, workers[0]), (2, workers[1]), (1, workers[0])):
        bench.send(driver, m.LeaseRequest(shape, 1, 1))
        granted = got(bench, driver, m.LeaseGranted)[-1]
        assert (granted.shape, granted.worker) == (shape, worker)
        bench.send(driver, m.LeaseReturn(granted.lease, 1, 0))


def test_at_the_limit_a_process_that_worked_without_devices_ends_for_one_that_gets_them():
    bench = Bench(cpus=1, gpus=1, workers_max=1)
    driver = described(bench, b"driver_1")
    bench.send(driver, m.DefineShape(1, "plain", {"CPU": 10_000}), m.DefineShape(2, "train", {"GPU": 10_000}))
    bench.send(driver, m.LeaseRequest(1, 1, 1))
    (worker,) = bench.workers_join()
    bench.send(driver, m.LeaseReturn(got(bench, driver, m.LeaseGranted)[-1].lease, 1, 0), m.LeaseRequest(2, 1, 1))
    assert any(isinstance(message, m.Exit) for message in bench.inbox[worker])
    bench.worker_dies(worker)
    (other,) = bench.workers_join()
    assert got(bench, driver, m.LeaseGranted)[-1].worker == other


def test_idle_processes_of_a_job_end_with_it():
    bench = Bench(cpus=1)
    driver = described(bench, b"driver_1")
    bench.send(driver, m.DefineShape(1, "f", {"CPU": 10_000}), m.LeaseRequest(1, 1, 1))
    (worker,) = bench.workers_join()
    bench.send(driver, m.LeaseReturn(got(bench, driver, m.LeaseGranted)[0].lease, 1, 0))
    bench.leave(driver)
    assert any(isinstance(message, m.Exit) for message in bench.inbox[worker])


def test_what_is_still_starting_for_a_job_ends_with_it():
    bench = Bench(cpus=1)
    driver = described(bench, b"driver_1")
    wants(bench, driver, env_vars={"A": "1"})
    bench.leave(driver)
    (worker,) = bench.workers_join()
    assert any(isinstance(message, m.Exit) for message in bench.inbox[worker])


def test_only_detached_actors_and_what_works_for_them_outlive_a_driver():
    bench = Bench(cpus=8)
    driver, other = described(bench, b"driver_1"), described(bench, b"driver_2")
    stays, goes = (driver + bytes([SEQUENCE_ACTOR]) + bytes([*bytes(6), number]) for number in (1, 2))
    bench.send(driver, m.CreateActor(1, actor_spec(stays, driver, detached=True)), m.DefineShape(1, "f", {}))
    (keeper,) = bench.workers_join()
    bench.send(driver, m.CreateActor(2, actor_spec(goes, driver)), m.LeaseRequest(1, 1, 1))
    bench.workers_join()
    task = got(bench, driver, m.LeaseGranted)[0]
    # The task makes an actor and is done; the detached actor has a task and an actor of its own.
    grandchild = task.worker + bytes([SEQUENCE_ACTOR]) + bytes([*bytes(6), 1])
    bench.send(task.worker, m.CreateActor(1, actor_spec(grandchild, task.worker)))
    child = keeper + bytes([SEQUENCE_ACTOR]) + bytes([*bytes(6), 1])
    bench.send(keeper, m.CreateActor(1, actor_spec(child, keeper)), m.DefineShape(1, "g", {}), m.LeaseRequest(1, 1, 1))
    bench.workers_join()
    bench.send(driver, m.LeaseReturn(task.lease, 1, 0))
    bench.killed()
    states = {bench.actors.actors[actor].worker: actor for actor in (stays, goes, grandchild, child)}
    bench.leave(driver)
    ended = {states.get(worker) for worker in bench.killed()}
    assert ended == {goes, grandchild}
    alive = {actor for actor in states.values() if bench.actors.actors[actor].state is not ActorState.DEAD}
    assert alive == {stays, child} and other in bench.machine.clients
    working = got(bench, keeper, m.LeaseGranted)[0].worker
    assert bench.pool.workers[working].end_cause is None


def test_workers_ask_what_their_job_is():
    bench = Bench()
    driver = described(bench, b"driver_1")
    bench.send(driver, m.Request(1, "job", {"job": 1}), m.Request(2, "job", {"job": 9}))
    told, unknown = got(bench, driver, m.Reply)
    assert told.value["namespace"] == "driver_1" and unknown.value is None
