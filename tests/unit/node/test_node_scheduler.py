"""The local scheduler: grants, waiting, fairness, asking back, and what it says about it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_bench import Bench

from obsray.core.node.resources import UNIT, Resources
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import WorkerState
from obsray.telemetry.events import LeaseOutcome, Reason


def holding(bench: Bench, client: bytes, shape: int, count: int) -> list[m.LeaseGranted]:
    """The client has ``count`` leases of that shape."""
    bench.want(client, shape, count)
    leases = bench.granted(client)
    while len(leases) < count:
        assert bench.workers_join(), "no more workers were asked for"
        leases += bench.granted(client)
    return leases


def test_a_lease_is_granted_once_a_worker_is_there():
    bench = Bench(cpus=1)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 1)
    assert bench.granted(driver) == []
    (worker,) = bench.workers_join()
    (lease,) = bench.granted(driver)
    assert (lease.worker, lease.path, lease.devices) == (worker, f"/sockets/{worker.hex()}.sock", {})
    assert bench.free() == 0
    bench.give_back(driver, lease)
    assert bench.free() == 1
    assert bench.state(worker) is WorkerState.IDLE


def test_no_more_processes_are_started_than_could_work():
    bench = Bench(cpus=2)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 50, backlog=50)
    assert len(bench.asked) == 2


def test_a_demand_is_absolute_and_can_be_withdrawn():
    bench = Bench(cpus=1)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    holding(bench, driver, 1, 1)
    bench.want(driver, 1, 3)
    bench.want(driver, 1, 0)
    assert bench.records.take("lease_decided")[-1]["outcome"] is LeaseOutcome.WITHDRAWN
    assert bench.scheduler.waiting() == (0, 0)


def test_waiting_is_told_once_with_what_is_missing():
    bench = Bench(cpus=2)
    driver = bench.driver()
    bench.define(driver, 1, CPU=2)
    bench.define(driver, 2, CPU=1)
    holding(bench, driver, 1, 1)
    bench.records.take("lease_decided")
    bench.want(driver, 2, 1)
    for _ in range(5):
        bench.tick(0.1)
    (decision,) = bench.records.take("lease_decided")
    assert decision["outcome"] is LeaseOutcome.QUEUED
    assert decision["reason"] is Reason.NO_CAPACITY
    assert decision["deficit"] == "CPU 1 more (0 of 2 free)"
    candidate = bench.records.named("lease_candidate")[-1]
    assert candidate["decision"] == decision["decision"]
    assert (candidate["feasible"], candidate["reject"]) == (1, Reason.NO_CAPACITY)


def test_what_the_node_can_never_give_waits_as_infeasible():
    bench = Bench(cpus=2)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1, GPU=1)
    bench.want(driver, 1, 1)
    (decision,) = bench.records.take("lease_decided")
    assert decision["outcome"] is LeaseOutcome.INFEASIBLE
    assert decision["deficit"] == "GPU 1 (node has 0)"
    assert bench.scheduler.waiting() == (0, 1)
    assert bench.asked == {}


def test_demands_take_turns():
    bench = Bench(cpus=1)
    clients = [bench.driver(b"driver_%d" % number) for number in range(3)]
    for client in clients:
        bench.define(client, 1, CPU=1)
        bench.want(client, 1, 100)
    bench.workers_join()
    served = []
    for _ in range(9):
        ((holder, lease),) = [(client, lease) for client in clients for lease in bench.granted(client)]
        served.append(holder)
        bench.give_back(holder, lease)
    assert all(served.count(client) == 3 for client in clients)


def test_a_demand_too_big_for_now_does_not_hold_up_smaller_ones():
    bench = Bench(cpus=2)
    driver = bench.driver()
    for shape, cpus in ((1, 1), (2, 2), (3, 1)):
        bench.define(driver, shape, CPU=cpus)
    holding(bench, driver, 1, 1)
    bench.want(driver, 2, 1)
    assert holding(bench, driver, 3, 1)


def test_a_big_demand_gets_its_turn_although_small_ones_keep_coming():
    bench = Bench(cpus=2)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.define(driver, 2, CPU=2)
    leases = holding(bench, driver, 1, 2)
    bench.want(driver, 2, 1)
    for _ in range(40):
        # One of two small leases ends at a time, and the next small one wants in at once.
        bench.give_back(driver, leases.pop(0))
        bench.want(driver, 1, 1)
        bench.tick(0.1)
        got = bench.granted(driver)
        if any(lease.shape == 2 for lease in got):
            break
        leases += got
        if not leases:
            break
    assert bench.granted(driver) or any(lease.shape == 2 for lease in got)


def test_a_reservation_waits_for_no_actor():
    bench = Bench(cpus=2, custom={"slot": 1})
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.define(driver, 2, CPU=1, slot=1)
    bench.define(driver, 3, slot=1)
    holder = holding(bench, driver, 3, 1)
    bench.want(driver, 2, 1)
    for _ in range(30):
        # Nobody overtakes it in "slot", so CPUs are not kept for it.
        lease = holding(bench, driver, 1, 1)[0]
        bench.tick(0.1)
        bench.give_back(driver, lease)
    bench.give_back(driver, holder[0])
    assert [lease.shape for lease in bench.granted(driver)] == [2]


def test_idle_leases_of_others_are_asked_back_once():
    bench = Bench(cpus=1)
    one, two = bench.driver(b"driver_1"), bench.driver(b"driver_2")
    bench.define(one, 1, CPU=1)
    bench.define(two, 1, CPU=1)
    (lease,) = holding(bench, one, 1, 1)
    bench.want(two, 1, 1)
    assert bench.take(one, m.LeaseReclaim) == [m.LeaseReclaim(lease.lease)]
    bench.tick(0.1)
    assert bench.take(one, m.LeaseReclaim) == []
    bench.give_back(one, lease)
    assert len(bench.granted(two)) == 1


def test_the_same_client_is_asked_back_for_its_other_shapes():
    bench = Bench(cpus=1)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.define(driver, 2, CPU=1)
    (lease,) = holding(bench, driver, 1, 1)
    bench.want(driver, 2, 1)
    assert bench.take(driver, m.LeaseReclaim) == [m.LeaseReclaim(lease.lease)]


def test_a_busy_demand_keeps_its_fair_part():
    bench = Bench(cpus=4)
    one, two = bench.driver(b"driver_1"), bench.driver(b"driver_2")
    bench.define(one, 1, CPU=1)
    bench.define(two, 1, CPU=1)
    leases = holding(bench, one, 1, 4)
    bench.want(one, 1, 10)
    bench.want(two, 1, 10)
    assert len(bench.take(one, m.LeaseReclaim)) == 2
    for lease in leases[:2]:
        bench.give_back(one, lease)
    assert len(bench.granted(two)) == 2
    assert bench.granted(one) == []
    bench.tick(0.1)
    assert bench.take(one, m.LeaseReclaim) + bench.take(two, m.LeaseReclaim) == []


def test_with_more_demands_than_workers_all_get_slices_of_time():
    bench = Bench(cpus=1)
    clients = [bench.driver(b"driver_%d" % number) for number in range(3)]
    for client in clients:
        bench.define(client, 1, CPU=1)
        bench.want(client, 1, 10)
    bench.workers_join()
    held: dict[bytes, m.LeaseGranted] = {}
    served = set()
    for _ in range(20):
        for client in clients:
            for lease in bench.granted(client):
                held[client] = lease
                served.add(client)
        for client in clients:
            for _ in bench.take(client, m.LeaseReclaim):
                lease = held.pop(client)
                bench.give_back(client, lease)
                bench.want(client, 1, 10)
        bench.tick(0.1)
    assert served == set(clients)


def test_a_blocked_worker_lends_its_cpus_and_takes_them_back_at_once():
    bench = Bench(cpus=1)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    (lease,) = holding(bench, driver, 1, 1)
    bench.send(lease.worker, m.Blocked())
    bench.send(lease.worker, m.Blocked())
    assert bench.free() == 1
    (other,) = holding(bench, driver, 1, 1)
    bench.send(lease.worker, m.Unblocked())
    assert bench.free() == -1
    bench.give_back(driver, other)
    assert bench.free() == 0
    bench.give_back(driver, lease)
    assert bench.free() == 1


def test_workers_that_are_too_many_because_one_goes_on_are_asked_back_after_a_while():
    bench = Bench(cpus=1)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    (lease,) = holding(bench, driver, 1, 1)
    bench.send(lease.worker, m.Blocked())
    (other,) = holding(bench, driver, 1, 1)
    bench.send(lease.worker, m.Unblocked())
    assert bench.take(driver, m.LeaseReclaim) == [], "that of a child goes back by itself"
    bench.run_until_quiet(1)
    assert bench.take(driver, m.LeaseReclaim) == [m.LeaseReclaim(other.lease)], "the newest, once"
    bench.give_back(driver, other)
    bench.run_until_quiet(1)
    assert bench.take(driver, m.LeaseReclaim) == [] and bench.free() == 0


def test_only_cpus_are_lent_while_blocked():
    bench = Bench(cpus=1, gpus=1)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1, GPU=1)
    (lease,) = holding(bench, driver, 1, 1)
    bench.send(lease.worker, m.Blocked())
    assert (bench.free("CPU"), bench.free("GPU")) == (1, 0)


def test_two_halves_share_one_gpu_and_whole_ones_stay_whole():
    bench = Bench(cpus=8, gpus=2)
    driver = bench.driver()
    bench.define(driver, 1, GPU=0.5)
    bench.define(driver, 2, GPU=1)
    halves = holding(bench, driver, 1, 2)
    (whole,) = holding(bench, driver, 2, 1)
    assert halves[0].devices == halves[1].devices
    assert set(whole.devices["GPU"]) | set(halves[0].devices["GPU"]) == {0, 1}


def test_halves_on_two_devices_do_not_make_a_whole_gpu():
    resources = Resources({"GPU": 2 * UNIT})
    resources.take(1, {"GPU": UNIT // 2})
    resources.take(2, {"GPU": UNIT // 2})
    resources.take(3, {"GPU": UNIT // 2})
    resources.give(1)
    assert resources.free["GPU"] == UNIT
    assert not resources.fits({"GPU": UNIT})
    assert resources.fits({"GPU": UNIT // 2})
    resources.check_invariants()


def test_a_gpu_amount_above_one_must_be_whole():
    assert "only whole devices" in Resources({"GPU": 4 * UNIT}).infeasible({"GPU": UNIT * 3 // 2})


def test_a_worker_of_another_environment_is_never_given():
    bench = Bench(cpus=2)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.define(driver, 2, runtime={"env_vars": {"A": "1"}}, CPU=1)
    (plain,) = holding(bench, driver, 1, 1)
    bench.give_back(driver, plain)
    bench.want(driver, 2, 1)
    assert list(bench.asked.values()) == [{"A": "1"}]
    (worker,) = bench.workers_join()
    assert bench.granted(driver)[0].worker == worker != plain.worker


def test_a_fresh_worker_is_used_once():
    bench = Bench(cpus=2, prestart=1)
    bench.do(bench.machine.start)
    (prestarted,) = bench.workers_join()
    driver = bench.driver()
    bench.define(driver, 1, runtime={"fresh": True}, CPU=1)
    bench.want(driver, 1, 1)
    (lease,) = bench.granted(driver)
    assert lease.worker == prestarted
    bench.give_back(driver, lease)
    assert [type(message) for message in bench.take(prestarted)] == [m.Exit]
    bench.want(driver, 1, 1)
    assert bench.granted(driver) == []
    bench.worker_dies(prestarted, signal=0)
    bench.workers_join()
    assert bench.granted(driver)[0].worker != prestarted


def test_a_disposed_worker_is_not_used_again():
    bench = Bench(cpus=1)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    (lease,) = holding(bench, driver, 1, 1)
    bench.give_back(driver, lease, dispose=True)
    bench.want(driver, 1, 1)
    assert bench.granted(driver) == []
    assert bench.take(lease.worker)


def test_at_the_process_limit_demands_say_so():
    bench = Bench(cpus=8, workers_max=2)
    one, two = bench.driver(b"driver_1"), bench.driver(b"driver_2")
    bench.define(one, 1, CPU=1)
    bench.define(two, 1, CPU=1)
    leases = holding(bench, one, 1, 2)
    bench.want(two, 1, 1)
    assert bench.records.take("lease_decided")[-1]["reason"] is Reason.WORKER_LIMIT
    assert bench.take(one, m.LeaseReclaim) == [m.LeaseReclaim(leases[0].lease)]
    bench.give_back(one, leases[0])
    assert len(bench.granted(two)) == 1


def test_at_the_process_limit_an_idle_process_of_another_environment_makes_room():
    bench = Bench(cpus=8, workers_max=1)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.define(driver, 2, runtime={"env_vars": {"A": "1"}}, CPU=1)
    (lease,) = holding(bench, driver, 1, 1)
    bench.give_back(driver, lease)
    bench.want(driver, 2, 1)
    assert [type(message) for message in bench.take(lease.worker)] == [m.Exit]
    bench.worker_dies(lease.worker, signal=0)
    bench.workers_join()
    assert bench.granted(driver)[0].shape == 2


def test_the_death_of_an_owner_ends_the_workers_that_worked_for_it():
    bench = Bench(cpus=2)
    driver, other = bench.driver(), bench.driver(b"driver_2")
    bench.define(driver, 1, CPU=1)
    (lease,) = holding(bench, driver, 1, 1)
    bench.want(driver, 1, 5)
    bench.leave(driver)
    assert bench.killed() == [lease.worker]
    bench.worker_dies(lease.worker)
    assert bench.free() == 2
    assert bench.scheduler.waiting() == (0, 0)
    died = [message for message in bench.take(other) if isinstance(message, m.WorkerDied)]
    assert {message.worker for message in died} == {driver, lease.worker}


def test_a_dead_workers_lease_ends_and_everybody_hears_of_it():
    bench = Bench(cpus=1)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    (lease,) = holding(bench, driver, 1, 1)
    bench.worker_dies(lease.worker, started=(b"t" * 16,), tail="Segmentation fault")
    (died,) = bench.take(driver, m.WorkerDied)
    assert (died.worker, died.signal, list(died.started)) == (lease.worker, 9, [b"t" * 16])
    assert died.tail == "Segmentation fault"
    assert bench.free() == 1
    # Returning it now changes nothing.
    bench.give_back(driver, lease)


def test_only_the_owner_of_a_lease_can_have_its_worker_killed():
    bench = Bench(cpus=1)
    driver, other = bench.driver(), bench.driver(b"driver_2")
    bench.define(driver, 1, CPU=1)
    (lease,) = holding(bench, driver, 1, 1)
    bench.send(other, m.KillWorker(lease.worker, lease.lease))
    assert bench.killed() == []
    bench.send(driver, m.KillWorker(lease.worker, lease.lease))
    assert bench.killed() == [lease.worker]
    bench.worker_dies(lease.worker)
    assert bench.records.named("worker_died")[-1]["cause"].name == "KILLED_BY_REQUEST"


def test_a_grant_costs_the_same_however_many_tasks_wait():
    few, many = [], []
    for backlog, cost in ((10, few), (1_000_000, many)):
        bench = Bench(cpus=1)
        driver = bench.driver()
        bench.define(driver, 1, CPU=1)
        (lease,) = holding(bench, driver, 1, 1)
        for _ in range(5):
            bench.want(driver, 1, 1, backlog)
            bench.give_back(driver, lease)
            (lease,) = bench.granted(driver)
            cost.append(len(bench.records.events))
    assert few == many


actions = st.lists(
    st.tuples(st.sampled_from("wrbudk"), st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), max_size=80
)


@settings(max_examples=120, deadline=None, print_blob=True)
@given(actions)
def test_resources_are_conserved_whatever_happens(script):
    """The bench checks all invariants after every stimulus; at the end everything given back is free again."""
    bench = Bench(cpus=3, gpus=1, workers_max=6)
    clients = [bench.driver(b"driver_%d" % number) for number in range(3)]
    needs = ({"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 0.5, "GPU": 0.5})
    for client in clients:
        for shape, need in enumerate(needs):
            bench.define(client, shape, **need)
    held: dict[bytes, list[m.LeaseGranted]] = {client: [] for client in clients}
    for action, who, shape, count in script:
        client = clients[who]
        leases = held[client]
        if action == "w":
            bench.want(client, shape, count)
        elif action == "r" and leases:
            bench.give_back(client, leases.pop(count % len(leases)))
        elif action in "bu" and leases:
            bench.send(leases[-1].worker, m.Blocked() if action == "b" else m.Unblocked())
        elif action == "d" and leases:
            bench.worker_dies(leases.pop().worker)
        elif action == "k":
            bench.tick(0.3 * count)
        bench.workers_join(count)
        for each in clients:
            held[each] += bench.granted(each)
    for client in clients:
        for shape in range(3):
            bench.want(client, shape, 0)
    for client in clients:
        for lease in held[client] + bench.granted(client):
            bench.give_back(client, lease)
    assert bench.machine.resources.free == bench.machine.resources.total


@pytest.mark.parametrize("runtime", [{"env_vars": []}, {"env_vars": {"A": 1}}, {"env_vars": {"A=B": "x"}}])
def test_an_environment_that_is_none_is_refused(runtime):
    bench = Bench()
    driver = bench.driver()
    with pytest.raises(ValueError):
        bench.define(driver, 1, runtime=runtime, CPU=1)
