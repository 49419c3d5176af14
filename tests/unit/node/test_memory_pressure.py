"""Which worker goes when memory is about to run out, and why it."""

from __future__ import annotations

from node_bench import Bench

from obsray.core.node.pressure import PAUSE_SECONDS, Candidate, Loss, MemoryGuard, Usage
from obsray.telemetry.events import DeathCause

MIB = 1 << 20
FULL, FREE = Usage(960 * MIB, 1000 * MIB, "container"), Usage(500 * MIB, 1000 * MIB, "container")


class Scene:
    """A node with busy workers, and what each is said to hold."""

    def __init__(self, *losses: Loss, held: int = 100 * MIB) -> None:
        self.bench = Bench(prestart=len(losses), cpus=8)
        self.bench.do(self.bench.machine.start)
        self.workers = [self.bench.pool.workers[worker] for worker in self.bench.workers_join()]
        self.guard = MemoryGuard(self.bench.pool, 0.95)
        self.candidates = [
            Candidate(worker, loss, began, held, b"t" * 16)
            for began, (worker, loss) in enumerate(zip(self.workers, losses, strict=True))
        ]

    def look(self, usage: Usage = FULL) -> list[int]:
        """Memory was measured; which workers were killed so far, by their places."""
        self.bench.do(self.guard.look, usage, lambda: self.candidates)
        return [index for index, worker in enumerate(self.workers) if worker.killed]

    def die(self, index: int) -> dict:
        self.bench.worker_dies(self.workers[index].id, signal=9)
        return self.bench.records.named("worker_died")[-1]


def test_nobody_is_killed_while_there_is_memory():
    scene = Scene(Loss.TASK_THAT_RUNS_AGAIN)
    assert scene.look(FREE) == [] and scene.look(Usage(950 * MIB, 1000 * MIB, "container")) == []


def test_the_newest_task_that_may_run_again_goes_first_and_then_what_is_a_greater_loss():
    again, task, restarts, actor = Loss.TASK_THAT_RUNS_AGAIN, Loss.TASK, Loss.ACTOR_THAT_STARTS_AGAIN, Loss.ACTOR
    scene = Scene(actor, again, task, again, restarts, task)
    order = []
    for _ in range(6):
        before = scene.look(FREE)
        (victim,) = set(scene.look()) - set(before)
        order.append(victim)
        scene.die(victim)
        scene.bench.now += PAUSE_SECONDS
    assert order == [3, 1, 5, 2, 4, 0]


def test_one_goes_at_a_time_and_its_memory_gets_a_moment_to_be_free():
    scene = Scene(*[Loss.TASK_THAT_RUNS_AGAIN] * 3)
    assert scene.look() == [2] == scene.look()
    scene.bench.now += 10
    assert scene.look() == [2], "the first is still there"
    scene.die(2)
    assert len(scene.look()) == 2
    scene.die(1)
    assert len(scene.look()) == 2
    scene.bench.now += PAUSE_SECONDS
    assert len(scene.look()) == 3


def test_who_holds_too_little_to_help_is_left_alone_and_that_is_said():
    scene = Scene(Loss.TASK_THAT_RUNS_AGAIN, held=1 * MIB)
    assert scene.look() == []
    assert scene.bench.records.named("memory_pressure")[-1]["error"] == "no worker holds enough to help"


def test_the_death_says_how_much_was_used_of_how_much_and_by_whom():
    scene = Scene(Loss.TASK_THAT_RUNS_AGAIN, Loss.TASK_THAT_RUNS_AGAIN)
    scene.look()
    died = scene.die(1)
    assert died["cause"] is DeathCause.OOM
    said = scene.bench.records.named("memory_pressure")[-1]
    assert said["error"] == died["error"] and said["held_bytes"] == 100 * MIB
    assert died["error"] == (
        "960.0 MiB of 1000.0 MiB of the container were in use, more than memory_usage_ratio_max (0.95); it held "
        "100.0 MiB, and it was the newest task that runs again of 2"
    )
