"""What the head says of the whole cluster, and what is said of processes, jobs and transfers, from events alone."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from obsray import ids
from obsray.metrics.catalog import JOBS_MAX, METRICS, NAMES_MAX, OTHER
from obsray.metrics.exporter import Families
from obsray.metrics.gpu_jobs import GpuJobs
from obsray.metrics.host import Host
from obsray.metrics.processes import by_state
from obsray.metrics.targets import FILE, Targets
from obsray.telemetry.collector import Collector, own_ring
from obsray.telemetry.columns import Texts
from obsray.telemetry.events import (
    DeathCause,
    HangKind,
    LeaseOutcome,
    ProcessKind,
    ScalingCause,
    ScalingVerdict,
    WaitKind,
)
from obsray.telemetry.spine import Ring

NS = 1_000_000_000
START = 1_700_000_000 * NS
NODE = bytes(range(8))


class Told:
    """A session of which only a ring is there: ``ring`` tells, ``value`` asks what is exposed."""

    def __init__(self, directory, head=True):
        (directory / "rings").mkdir()
        self.ring = Ring(directory / "rings", ids.worker_id(NODE, b"drvr"), ProcessKind.DRIVER, NODE)
        self.collector = Collector(directory, 1 << 30, own_ring(directory, NODE))
        self.families = Families(self.collector, "n0", head)
        self.collector.folds.append(self.families.update)
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self.families)

    def text(self, name):
        return self.ring.intern(name)

    def samples(self, name):
        while self.collector.poll():
            pass
        families = text_string_to_metric_families(generate_latest(self.registry).decode())
        return [s for family in families for s in family.samples if s.name == name]

    def value(self, name, **labels):
        return sum(s.value for s in self.samples(name) if labels.items() <= s.labels.items())

    def actor(self, number, name="Counter", at=START):
        actor = ids.task_id(self.ring.process, number, ids.SEQUENCE_ACTOR)
        self.ring.actor_created(at, actor, ids.NIL_TASK, self.text(name), 0, 0, 0, 0, 0, 1, bytes(16))
        return actor


@pytest.fixture
def told(tmp_path):
    return Told(tmp_path)


def test_nodes_are_counted_by_what_was_said_last_of_each(told):
    for at, node, state in (
        (0, b"a" * 8, "alive"),
        (1, b"b" * 8, "alive"),
        (2, b"b" * 8, "suspected"),
        (3, b"b" * 8, "dead"),
    ):
        told.ring.node_changed(START + at, node, told.text(state), 1, 0)
    assert [told.value("obsray_nodes", state=state) for state in ("alive", "suspected", "dead")] == [1, 0, 1]
    assert told.value("obsray_node_changes_total", state="alive") == 2
    assert told.value("obsray_node_changes_total", state="dead") == 1


def test_an_actor_is_in_one_state_at_a_time_and_none_after_its_death(told):
    actor, worker = told.actor(1), ids.worker_id(NODE, b"wrk1")
    assert told.value("obsray_actors", actor_class="Counter", state="pending") == 1
    told.ring.actor_placed(START + 1, actor, worker, NODE, 0.1, 1)
    told.ring.actor_alive(START + 2, actor, worker, 1, 0.2, 7)
    told.ring.actor_restarting(START + 3, actor, worker, 1, int(DeathCause.SIGNAL), 0)
    assert told.value("obsray_actors") == told.value("obsray_actors", state="restarting") == 1
    assert told.value("obsray_actor_restarts_total", actor_class="Counter", cause="signal") == 1
    told.ring.actor_died(START + 4, actor, worker, 1, int(DeathCause.KILLED_BY_REQUEST), told.text("Counter"), 0)
    assert told.value("obsray_actors") == 0
    assert told.value("obsray_actor_deaths_total", actor_class="Counter", cause="killed_by_request") == 1
    told.ring.actor_alive(START + 5, actor, worker, 1, 0.2, 7)
    assert told.value("obsray_actors") == 0, "news of a dead actor that came late"


def test_an_actor_that_nobody_took_on_ends_with_its_creator_unless_it_is_detached(told):
    placed, waits = told.actor(1), told.actor(2)
    told.ring.actor_placed(START + 1, placed, bytes(8), NODE, 0.0, 0)
    detached = ids.task_id(told.ring.process, 3, ids.SEQUENCE_ACTOR)
    told.ring.actor_created(START, detached, ids.NIL_TASK, told.text("D"), 0, 0, 0, 0, 1, 1, bytes(16))
    assert told.value("obsray_actors", state="pending") == 2
    told.ring.worker_died(START + NS, told.ring.process, 1, DeathCause.UNKNOWN, 0, 0, 0, bytes(16), 0)
    assert told.value("obsray_actors", state="pending") == 1 == told.value("obsray_actors", state="starting")
    assert waits not in told.families.cluster.actors
    late = told.actor(4)
    told.value("obsray_actors")
    assert late not in told.families.cluster.actors, "what its creator recorded may be read after its end"


def test_classes_beyond_the_bound_are_called_other_and_the_bound_is_visible(told):
    for number in range(NAMES_MAX + 7):
        told.actor(number, f"C{number}")
    assert told.value("obsray_actors") == NAMES_MAX + 7
    assert told.value("obsray_actors", actor_class=OTHER) == 7
    assert told.value("obsray_metric_label_values", label="actor_class") == NAMES_MAX
    assert told.value("obsray_metric_label_values_limit", label="actor_class") == NAMES_MAX


def test_a_hang_counts_from_when_it_is_found_until_it_is_over(told):
    first, second = (ids.task_id(told.ring.process, number) for number in (1, 2))
    assert told.value("obsray_hangs") == 0 and len(told.samples("obsray_hangs")) == len(HangKind)
    told.ring.hang_found(START, first, HangKind.CYCLE, 2, 0, told.text("they wait for each other"))
    told.ring.hang_found(START, second, HangKind.STUCK, 1, 0, told.text("it waits"))
    assert told.value("obsray_hangs", kind="cycle") == told.value("obsray_hangs", kind="stuck") == 1
    told.ring.hang_over(START + NS, first, HangKind.CYCLE, 1.0)
    assert told.value("obsray_hangs", kind="cycle") == 0 and told.value("obsray_hangs", kind="stuck") == 1


def ended(told, task, seconds, at=START + 5):
    run = told.text("f")
    told.ring.task_ended(at, task, 0, 1, 0, bytes(16), run, at, at, at, 0, 0.0, 0.0, seconds, 0.0, seconds / 2, 0.0, 0)


def test_what_jobs_cost_follows_from_whose_tasks_ran(told):
    nested = ids.worker_id(NODE, b"wrk1")
    told.ring.job_started(START, 7, told.ring.process, 1, 0, 0, 0)
    told.ring.task_submitted(
        START, ids.task_id(nested, 1), ids.NIL_TASK, bytes(16), bytes(16), told.text("f"), 0, 7, 0, 0, 0, 0, 0
    )
    ended(told, ids.task_id(told.ring.process, 1), 2.0)
    ended(told, ids.task_id(nested, 1), 3.0)
    ended(told, ids.task_id(ids.worker_id(b"elsewher", b"wrk9"), 1), 4.0)
    assert told.value("obsray_job_task_seconds_total", job_id="00000007") == pytest.approx(5.0)
    assert told.value("obsray_job_cpu_seconds_total", job_id="00000007") == pytest.approx(2.5)
    assert told.value("obsray_job_attempts_total", job_id="00000007") == 2
    assert told.value("obsray_job_task_seconds_total", job_id="unknown") == pytest.approx(4.0)


def test_work_waits_for_the_news_whose_it_is_and_is_never_taken_back_from_anybody(told):
    far = ids.worker_id(b"elsewher", b"wrk9")
    now = time.time_ns()
    assert told.value("obsray_job_attempts_total") == 0, "and the rings' own records are read"
    ended(told, ids.task_id(far, 1), 4.0, now)
    assert told.value("obsray_job_attempts_total", job_id="unknown") == 0
    told.ring.job_started(now + NS, 7, far, 1, 0, 0, 0)
    assert told.value("obsray_job_task_seconds_total", job_id="00000007") == pytest.approx(4.0)
    assert told.value("obsray_job_attempts_total", job_id="unknown") == 0


def test_the_newest_jobs_have_series_and_nothing_is_lost_of_the_older_ones(told):
    jobs = JOBS_MAX + 20
    for job in range(1, jobs + 1):
        driver = ids.worker_id(NODE, job.to_bytes(4, "big"))
        told.ring.job_started(START, job, driver, 1, 0, 0, 0)
        ended(told, ids.task_id(driver, 1), 1.0)
        if not job % 40:
            told.collector.poll()
    assert told.value("obsray_job_attempts_total") == jobs
    assert told.value("obsray_job_attempts_total", job_id=f"{jobs:08x}") == 1
    assert len(told.samples("obsray_job_attempts_total")) == JOBS_MAX + 1
    assert told.value("obsray_job_attempts_total", job_id=OTHER) == 20


def test_counters_never_go_back_and_dead_processes_have_no_series(told):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    alive: dict[bytes, float] = {}
    before = 0.0
    for step in range(60):
        at = START + step * NS
        if chance.random() < 0.4 or not alive:
            alive[ids.worker_id(NODE, chance.randbytes(4))] = 0.0
        for worker in alive:
            alive[worker] += chance.random()
            told.ring.process_sample(at, worker, 1, int(ProcessKind.WORKER), 100, 50, alive[worker], 1, 3)
        if chance.random() < 0.3:
            worker = chance.choice(list(alive))
            del alive[worker]
            told.ring.worker_died(at + 1, worker, 1, int(DeathCause.SIGNAL), 0, 9, 0, bytes(16), 0)
        now = told.value("obsray_process_cpu_seconds_total", process="worker")
        assert now >= before
        before = now
        assert told.value("obsray_processes", process="worker") == len(alive)
        assert told.value("obsray_process_resident_memory_bytes", process="worker") == 100 * len(alive)


def test_a_sample_that_comes_after_the_news_of_a_death_counts_only_what_is_new(told):
    worker = ids.worker_id(NODE, b"wrk1")
    told.ring.process_sample(START, worker, 1, int(ProcessKind.WORKER), 100, 50, 3.0, 1, 3)
    assert told.value("obsray_process_cpu_seconds_total", process="worker") == 3
    told.ring.worker_died(START + 2, worker, 1, int(DeathCause.SIGNAL), 0, 9, 0, bytes(16), 0)
    for second in (1, 2):
        told.ring.process_sample(START + second, worker, 1, int(ProcessKind.WORKER), 100, 50, 3.0 + second, 1, 3)
    assert told.value("obsray_process_cpu_seconds_total", process="worker") == 5
    assert told.value("obsray_processes", process="worker") == 0


def test_what_stands_still_is_counted_until_it_goes_on_or_is_gone(told):
    ring, nobody = told.ring, bytes(8)

    def count(process):
        return told.value("obsray_processes_halted", process=process)

    assert count("worker") == count("control") == 0, "there is a series before there is a halt"
    for pid, name in ((1, "worker"), (2, "worker"), (3, "control")):
        ring.process_halted(START + pid, nobody, pid, ring.intern(name), ring.intern("it was stopped (SIGSTOP)"))
    assert (count("worker"), count("control"), count("zygote")) == (2, 1, 0)
    # In one batch, and at one instant: what was told last is so.
    ring.process_resumed(START + 9, nobody, 1, ring.intern("worker"), 8.0, ring.intern("it goes on"))
    ring.process_resumed(START + 9, nobody, 3, ring.intern("control"), 6.0, ring.intern("its node woke it"))
    ring.process_halted(START + 9, nobody, 3, ring.intern("control"), ring.intern("it was stopped (SIGSTOP)"))
    assert (count("worker"), count("control")) == (1, 1)


def test_the_time_of_workers_adds_up_to_processes_times_time(told):
    for second in range(11):
        told.ring.node_sample(START + second * NS, 0.0, 6, 3, 2, 1, 1, 0, 0, 0)
    total = told.value("obsray_worker_seconds_total")
    assert total == pytest.approx(7 * 10), "six processes and one that starts, ten seconds"
    assert told.value("obsray_worker_seconds_total", activity="idle") == pytest.approx(30)


def test_a_worker_is_blocked_while_all_it_runs_waits_be_it_an_actor_or_not(told):
    process = told.ring.process
    one, two = (ids.task_id(process, number) for number in (1, 2))

    def blocked(*running, replaying=False):
        while told.collector.poll():
            pass
        runs = told.families.processes.runs({process: list(running)}, replaying)
        assert (runs.tasks, runs.processes) == (len(running), bool(running))
        return runs.blocked

    assert blocked(one) == 0
    told.ring.task_blocked(START, one, int(WaitKind.GET), 1, bytes(24))
    assert blocked(one) == 1 and blocked(one, two) == 0 and blocked() == 0
    told.ring.task_unblocked(START + 1, one, int(WaitKind.GET), 0.1)
    told.ring.task_blocked(START + 2, one, int(WaitKind.GET), 1, bytes(24))
    told.ring.task_blocked(START + 3, two, int(WaitKind.GET), 1, bytes(24))
    assert blocked(one) == 1 and blocked(one, two) == 1
    told.ring.task_unblocked(START + 4, one, int(WaitKind.GET), 0.1)
    assert blocked(one, two) == 0 and blocked(two) == 1
    sample = {"workers": 3, "workers_starting": 0, "workers_idle": 1, "workers_leased": 0, "workers_actor": 2}
    runs = told.families.processes.runs({process: [two], bytes(12): [one]}, replaying=True)
    assert by_state(sample, runs) == {"starting": 0, "idle": 1, "busy": 1, "blocked_in_get": 1, "leased": 0}
    told.ring.worker_died(START + 5, process, 1, int(DeathCause.SIGNAL), 0, 9, 0, bytes(16), 0)
    assert blocked(two) == 0, "who comes after it under the same number waits for nothing"


def test_time_that_was_not_sampled_is_not_made_up(told):
    for second in (0, 1, 3600):
        told.ring.node_sample(START + second * NS, 0.0, 1, 1, 0, 0, 0, 0, 0, 0)
    assert told.value("obsray_worker_seconds_total") == pytest.approx(1)


def test_a_transfer_is_in_flight_from_its_beginning_to_its_end(told):
    first, second = (ids.task_id(told.ring.process, n) + bytes(4) for n in (1, 2))
    for identifier in (first, second):
        told.ring.transfer_begun(START, identifier, NODE, NODE, 10, 0.0, 1, 1)
    assert told.value("obsray_object_pulls_inflight") == 2
    told.ring.transfer_done(START + 1, first, NODE, NODE, 10, 0.0, 0.5, 1, 1)
    told.ring.transfer_failed(START + 1, second, NODE, NODE, 10, 0, 0.0, 0.0, 1, 0)
    told.ring.transfer_begun(START + 2, second, NODE, NODE, 10, 0.0, 1, 2)
    assert told.value("obsray_object_pulls_inflight") == 1


def test_leases_count_as_waited_for_only_when_granted(told):
    for outcome in LeaseOutcome:
        told.ring.lease_decided(START, 1, NODE, 0, int(outcome), 1, NODE, bytes(8), 1, 1, 0, 2.0, 0, 0, bytes(16), -1)
    assert told.value("obsray_scheduler_lease_wait_seconds_count") == 1
    assert told.value("obsray_scheduler_lease_wait_seconds_sum") == pytest.approx(2.0)


def test_the_jobs_of_each_gpu_are_written_where_dcgm_exporter_looks(told, tmp_path):
    (tmp_path / "jobs").mkdir()
    first, second = ids.worker_id(NODE, b"wrk1"), ids.worker_id(NODE, b"wrk2")
    for worker, job in ((first, 7), (second, 18)):
        (tmp_path / "jobs" / worker.hex()).write_text(str(job))
    gpu_jobs = GpuJobs(tmp_path, tmp_path / "mapping")
    told.collector.folds.append(gpu_jobs.update)

    def kernel(worker, gpu, at):
        told.ring.gpu_kernel(at, worker, ids.NIL_TASK, 0, 1, 0, gpu, 0, 0, 0, at, 0.1, at, 1, 1, 1, 1, 1, 1, 1, 0, 0)
        told.collector.poll()
        gpu_jobs.write(at)

    kernel(first, 0, START)
    kernel(second, 0, START + NS)
    kernel(second, 1, START + NS)
    assert (tmp_path / "mapping" / "0").read_text() == "00000007\n00000012\n"
    assert (tmp_path / "mapping" / "1").read_text() == "00000012\n"
    kernel(first, 0, START + 100 * NS)
    assert (tmp_path / "mapping" / "0").read_text() == "00000007\n", "the other was long ago"
    assert (tmp_path / "mapping" / "1").read_text() == ""
    assert sorted(path.name for path in (tmp_path / "mapping").iterdir()) == ["0", "1"]


def test_a_job_that_holds_memory_of_a_gpu_uses_it_also_where_no_kernel_is_captured(told, tmp_path):
    (tmp_path / "jobs").mkdir()
    worker = ids.worker_id(NODE, b"wrk1")
    (tmp_path / "jobs" / worker.hex()).write_text("7")
    gpu_jobs = GpuJobs(tmp_path, tmp_path / "mapping")
    told.collector.folds.append(gpu_jobs.update)
    # Its second GPU by CUDA_VISIBLE_DEVICES=GPU-x,GPU-y, which NVML and DCGM call 6.
    told.ring.gpu_found(START, NODE, 1, 6, told.ring.intern("GPU-y"), 0, 0, 80 << 30, 0, 0)
    told.ring.gpu_process_sample(START, NODE, 1, worker, ids.NIL_TASK, 1 << 30, 4321, 4321)
    told.collector.poll()
    gpu_jobs.write(START)
    assert (tmp_path / "mapping" / "6").read_text() == "00000007\n"


def test_gpus_are_told_with_their_uuid_and_what_is_not_known_has_no_series(told, tmp_path):
    (tmp_path / "jobs").mkdir()
    worker = ids.worker_id(NODE, b"wrk1")
    (tmp_path / "jobs" / worker.hex()).write_text("7")
    ring, now = told.ring, time.time_ns()
    uuid, model = ring.intern("GPU-y"), ring.intern("NVIDIA H100 80GB HBM3")
    ring.gpu_found(now, NODE, 0, 0, uuid, model, ring.intern("H100"), 80 << 30, 0, 0)
    ring.gpu_found(now, NODE, 1, 1, 0, 0, 0, 0, 0, 0)
    ring.gpu_sample(
        now, NODE, 0, 0.5, 0.25, 3 << 30, 80 << 30, 300.0, 700.0, math.nan, 1980, math.nan, ring.intern("heat"), 2, 1, 5
    )
    ring.gpu_process_sample(now, NODE, 0, worker, ids.NIL_TASK, 1 << 30, 4321, 4321)
    ring.gpu_health_changed(now, NODE, 0, 1, 79, ring.intern("Xid 79"))
    which = {"gpu": "0", "uuid": "GPU-y"}
    assert told.value("obsray_gpu_info", **which, model="NVIDIA H100 80GB HBM3", accelerator_type="H100") == 1
    assert told.value("obsray_gpu_info", gpu="1", uuid="") == 1
    assert told.value("obsray_gpu_utilization_ratio", **which) == 0.5
    assert told.value("obsray_gpu_memory_bytes", **which, state="used") == 3 << 30
    assert told.value("obsray_gpu_held_memory_bytes", **which, job_id="00000007") == 1 << 30
    assert told.value("obsray_gpu_held_memory_bytes", **which, job_id="foreign") == 5
    assert told.value("obsray_gpu_slowed", **which, cause="heat") == 1
    assert told.value("obsray_gpu_slowed", **which, cause="power cap") == 0
    assert told.value("obsray_gpu_clock_hertz", **which) == 1.98e9
    assert told.value("obsray_gpu_in_service", **which) == 0
    assert told.value("obsray_gpu_in_service", gpu="1") == 1
    assert not told.samples("obsray_gpu_temperature_celsius") and not told.samples("obsray_gpu_energy_joules_total")


def test_only_the_head_speaks_for_the_cluster(tmp_path):
    told = Told(tmp_path, head=False)
    told.samples("obsray_nodes")
    served = {family.name for family in told.families.collect()}
    assert served == {name for name, metric in METRICS.items() if metric.served_by == "node"}


def test_targets_are_the_living_nodes_and_survive_the_collector(tmp_path):
    told = Told(tmp_path)
    targets = Targets(tmp_path, told.collector.texts)
    told.collector.folds.append(targets.update)
    other, dead = b"other...", b"dead...."
    for node, port in ((NODE, 1), (other, 2), (dead, 3)):
        told.ring.metrics_served(START, node, told.text(f"http://127.0.0.1:{port}/metrics"))
    told.collector.poll()
    facts = {
        "node": NODE.hex(), "control_address_tcp": "127.0.0.1:6379", "dashboard_url": "http://127.0.0.1:8265",
        "nodes": {node.hex(): {"alive": node != dead} for node in (NODE, other, dead)},
    }  # fmt: skip
    targets.write(facts)
    found = json.loads((tmp_path / FILE).read_text())
    assert {(entry["targets"][0], entry["labels"]["role"]) for entry in found} == {
        ("127.0.0.1:1", "head"), ("127.0.0.1:2", "node"), ("127.0.0.1:8265", "dashboard"),
    }  # fmt: skip
    assert {entry["labels"]["cluster"] for entry in found} == {"127.0.0.1:6379"}
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    again = Targets(tmp_path, Texts())
    assert again.entries(facts) == found


def test_the_autoscaler_says_what_nodes_there_are_and_what_becomes_of_what_waits(told):
    assert told.value("obsray_autoscaler_nodes") == 0
    text = told.text
    told.ring.instance_requested(START, b"node_one", text("big"), ScalingCause.GROUP, 1, text("for a group"))
    told.ring.instance_joined(START + NS, b"node_one", text("big"), 1.0)
    told.ring.instance_failed(START + NS, b"node_two", text("big"), 1, 2.0, text("no quota"))
    told.ring.node_type_sample(START + NS, text("big"), 2, 1, 0, 0, 5, 0, 0.25, text("CPU:4"), 0)
    told.ring.demand_judged(START, text("CPU:1"), ScalingVerdict.AT_MAX, 7, text("big"), text("full"))
    told.ring.demand_judged(START, text("CPU:9"), ScalingVerdict.INFEASIBLE, 2, 0, text("too big"))
    told.ring.demand_judged(START + NS, text("CPU:9"), ScalingVerdict.INFEASIBLE, 0, 0, 0)
    assert told.value("obsray_autoscaler_nodes", node_type="big", state="running") == 2
    assert told.value("obsray_autoscaler_nodes", node_type="big", state="starting") == 1
    assert told.value("obsray_autoscaler_nodes_limit", node_type="big") == 5
    assert told.value("obsray_autoscaler_demand", verdict="at_max") == 7
    assert told.value("obsray_autoscaler_demand", verdict="infeasible") == 0
    assert told.value("obsray_autoscaler_launches_total", cause="group") == 1
    assert told.value("obsray_autoscaler_launch_failures_total", node_type="big") == 1
    assert told.value("obsray_autoscaler_start_seconds_count") == 1
    assert told.value("obsray_autoscaler_decide_seconds") == 0.25


def test_tasks_of_an_owner_that_is_gone_do_not_wait_for_ever(told):
    """A driver that was killed tells of no end of its tasks; also what comes after the news of its death is over."""
    dead = Ring(told.ring.directory, ids.worker_id(NODE, b"dead"), ProcessKind.DRIVER, NODE)

    def submit(ring, number):
        name = ring.intern("f")
        fields = (ids.NIL_TASK, bytes(16), bytes(16), name, name, 1, 0, 0, 0, 0, 0)
        ring.task_submitted(START + number, ids.task_id(ring.process, number), *fields)

    for number in range(1, 6):
        submit(dead, number)
    dead.task_finished(START + 9, ids.task_id(dead.process, 1), 0, 0, 0, 0)
    submit(told.ring, 1)
    assert told.value("obsray_tasks_pending") == 5 == told.value("obsray_tasks_unfinished", fn="f")
    told.ring.worker_died(START + 10, dead.process, 1, int(DeathCause.SIGNAL), 0, 9, 0, bytes(16), 0)
    assert told.value("obsray_tasks_pending") == 1 == told.value("obsray_tasks_unfinished", fn="f")
    submit(dead, 6)
    assert told.value("obsray_tasks_pending") == 1
    assert told.value("obsray_tasks_submitted_total") == 7 and told.value("obsray_tasks_finished_total") == 1
    told.ring.job_ended(START + 11, 1, told.ring.process, int(DeathCause.INTENDED))
    assert told.value("obsray_tasks_pending") == 0


def test_what_a_machine_counts_never_goes_back(monkeypatch, tmp_path):
    looks = [
        {"eth0": 100, "veth1": 50, "lo": 9}, {"eth0": 110}, {"eth0": 120, "veth2": 5}, {"eth0": 10, "veth2": 6},
    ]  # fmt: skip
    times = iter([{"user": 1.0, "iowait": 5.0}, {"user": 2.0, "iowait": 4.0}, {"user": 3.0, "iowait": 4.5}, {}])
    rows = iter(looks)

    def counted(pernic):
        return {name: SimpleNamespace(bytes_recv=n, bytes_sent=n) for name, n in next(rows).items()}

    monkeypatch.setattr("psutil.net_io_counters", counted)
    monkeypatch.setattr("psutil.cpu_times", lambda: SimpleNamespace(_asdict=lambda: next(times)))
    machine, seen = Host(), []
    for _ in looks:
        found = {family.name: family for family in machine.families("n0", tmp_path)}
        seen.append(
            {(name, *sample.labels.values()): sample.value
             for name in ("obsray_node_network_bytes", "obsray_node_cpu_seconds") for sample in found[name].samples}
        )  # fmt: skip
    for before, after in itertools.pairwise(seen):
        assert all(after[key] >= value for key, value in before.items()), (before, after)
    assert [each["obsray_node_network_bytes", "n0", "received"] for each in seen] == [150, 160, 175, 176]
    assert seen[2]["obsray_node_cpu_seconds", "n0", "iowait"] == 5.0
