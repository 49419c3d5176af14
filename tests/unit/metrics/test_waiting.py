"""How long tasks waited is counted once for every task of a cluster, whoever tells of it first and wherever it ran."""

from __future__ import annotations

import random

import pytest

from obsray import ids
from obsray.metrics.exporter import Families
from obsray.telemetry.collector import Collector
from obsray.telemetry.events import Outcome, ProcessKind
from obsray.telemetry.spine import Ring

NS = 1_000_000_000
START = 1_700_000_000 * NS
HEAD, LEFT, RIGHT = b"headHEAD", b"leftLEFT", b"rigtRIGT"


class Node:
    """A node of which only two rings are there: of its driver and of its worker, each with a reader of its own."""

    def __init__(self, directory, node):
        self.node = node
        self.rings, self.readers = {}, {}
        for kind in (ProcessKind.DRIVER, ProcessKind.WORKER):
            place = directory / f"{node.hex()}-{kind.name}"
            (place / "rings").mkdir(parents=True)
            self.rings[kind] = Ring(place / "rings", ids.worker_id(node[:4] * 2, kind.name[:4].encode()), kind, node)
            self.readers[kind] = Collector(place, 1 << 30)
        self.families = Families(self.readers[ProcessKind.DRIVER], node.hex()[:8], node == HEAD)
        # Two readers, one book: texts have to be the same.
        self.texts = self.families.series.texts

    @property
    def driver(self):
        return self.rings[ProcessKind.DRIVER]

    @property
    def worker(self):
        return self.rings[ProcessKind.WORKER]


class Cluster:
    def __init__(self, directory):
        self.nodes = {node: Node(directory, node) for node in (HEAD, LEFT, RIGHT)}
        self.submitted = 0

    def submit(self, owner, at=START):
        ring = self.nodes[owner].driver
        self.submitted += 1
        task = ids.task_id(ring.process, self.submitted)
        ring.task_submitted(at, task, ids.NIL_TASK, task, bytes(16), 0, 0, 7, 0, 0, 0, 0, 0)
        return task

    def end(self, task, node, waited=2.0, attempt=0, at=START):
        ring = self.nodes[node].worker
        dispatched = at + int(waited * NS)
        ring.task_ended(
            dispatched + NS, task, attempt, 1, 0, bytes(16), 0, dispatched, dispatched, dispatched, 0,
            0.0, 0.0, 1.0, 0.0, 0.5, 0.0, 0,
        )  # fmt: skip

    def tell(self, node, kind):
        """A node's collector reads one of its processes, and the head takes it over."""
        told = self.nodes[node]
        batches = []
        reader = told.readers[kind]
        reader.folds[:] = [batches.append]
        while reader.poll():
            pass
        for batch in batches:
            # Rings of one session share their texts; here there is only one text.
            told.families.update(batch)
            if node != HEAD:
                self.nodes[HEAD].families.update_gathered(batch)

    def tell_all(self, chance=random):
        order = [(node, kind) for node in self.nodes for kind in (ProcessKind.DRIVER, ProcessKind.WORKER)]
        chance.shuffle(order)
        for node, kind in order:
            self.tell(node, kind)
        for node in self.nodes.values():
            node.families.update({})

    def waits(self, node):
        histogram = node.families.series.task_histograms["queue"]
        return int(histogram.counts.sum()), float(histogram.sums.sum())

    @property
    def total(self):
        found = [self.waits(node) for node in self.nodes.values()]
        return sum(count for count, _ in found), sum(seconds for _, seconds in found)


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def test_whatever_is_told_first_and_wherever_it_ran_every_task_counts_once(cluster):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    nodes = list(cluster.nodes)
    tasks = 0
    for _ in range(12):
        for _ in range(chance.randrange(5)):
            tasks += 1
            cluster.end(cluster.submit(chance.choice(nodes)), chance.choice(nodes))
        cluster.tell_all(chance)
    count, seconds = cluster.total
    assert count == tasks and seconds == pytest.approx(2.0 * tasks, abs=0.01)


def test_its_owners_node_counts_a_task_that_ran_there_and_the_head_one_that_did_not(cluster):
    cluster.end(cluster.submit(LEFT), LEFT)
    cluster.end(cluster.submit(LEFT), RIGHT)
    cluster.end(cluster.submit(LEFT), HEAD)
    cluster.end(cluster.submit(HEAD), RIGHT)
    cluster.tell_all()
    assert [cluster.waits(cluster.nodes[node])[0] for node in (HEAD, LEFT, RIGHT)] == [3, 1, 0]


@pytest.mark.parametrize("owner", [HEAD, LEFT])
@pytest.mark.parametrize("told_first", list(ProcessKind)[:2])
def test_a_first_attempt_that_told_nothing_is_followed_by_one_that_counts_from_the_retry(cluster, owner, told_first):
    task = cluster.submit(owner)
    driver = cluster.nodes[owner].driver
    driver.task_retried(START + 30 * NS, task, 0, int(Outcome.WORKER_DIED), bytes(8), 2.0, 0)
    cluster.end(task, RIGHT, waited=33.0, attempt=1)
    if told_first == ProcessKind.WORKER:
        cluster.tell(RIGHT, ProcessKind.WORKER)
    cluster.tell_all()
    assert cluster.total == (1, pytest.approx(1.0, abs=0.01))


def test_a_task_that_is_tried_again_after_it_ended_counts_once(cluster):
    task = cluster.submit(LEFT)
    cluster.end(task, LEFT)
    cluster.nodes[LEFT].driver.task_retried(START + 3 * NS, task, 0, int(Outcome.APP_ERROR), bytes(8), 0.0, 0)
    cluster.end(task, RIGHT, waited=9.0, attempt=1)
    cluster.tell_all()
    cluster.tell_all()
    assert cluster.total == (1, pytest.approx(2.0, abs=0.01))


def test_what_nobody_submitted_is_held_for_a_minute_and_then_let_go(cluster):
    stranger = ids.task_id(b"gone" + HEAD[:4], 5)
    cluster.end(stranger, HEAD)
    cluster.tell_all()
    waiting = cluster.nodes[HEAD].families.series.waiting
    assert len(waiting._held[0]) == 1
    cluster.end(ids.task_id(b"gone" + HEAD[:4], 6), HEAD, at=START + 100 * NS)
    cluster.tell_all()
    assert len(waiting._held[0]) == 1 and cluster.total[0] == 0
