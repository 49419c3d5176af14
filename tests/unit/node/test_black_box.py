"""What a dead process leaves behind: which tasks it ran, and whether the kernel killed it for memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from node_bench import Bench

from obsray.core.node.black_box import EXPLAINS_SECONDS, BlackBox, MemoryKills
from obsray.core.node.worker_processes import WorkerProcesses
from obsray.core.system.cgroup import Cgroup
from obsray.ids import NIL_TASK, task_id
from obsray.telemetry.events import DeathCause, ProcessKind
from obsray.telemetry.spine import Ring

WORKER, OWNER = b"worker_1", b"owner___"
KILLED = 9


def session(tmp_path, *ran: tuple[int, bool]):
    """A session in which WORKER ran tasks, one on each thread: (number, whether it still ran)."""
    (tmp_path / "rings").mkdir()
    (tmp_path / "logs").mkdir()
    ring = Ring(tmp_path / "rings", WORKER, ProcessKind.WORKER)
    for slot, (number, still) in enumerate(ran):
        ring.running(slot, task_id(OWNER, number), 1000 + number, 0, 0)
        if not still:
            ring.idle(slot)
    return BlackBox(tmp_path)


def test_a_task_that_had_just_ended_is_named_because_its_result_may_be_lost(tmp_path):
    end = session(tmp_path, (7, False)).read(WORKER, 1, KILLED, 0)
    assert end.started == (task_id(OWNER, 7),) and end.last_task == task_id(OWNER, 7)


def test_tasks_that_ran_come_before_those_that_had_ended_and_the_newest_first(tmp_path):
    end = session(tmp_path, (1, False), (2, True), (3, False), (4, True)).read(WORKER, 1, KILLED, 0)
    assert end.started == tuple(task_id(OWNER, number) for number in (4, 2, 3, 1))


def test_a_process_that_ran_nothing_is_known_to_have_run_nothing(tmp_path):
    end = session(tmp_path).read(WORKER, 1, KILLED, 0)
    assert (end.started, end.attempts) == ((NIL_TASK,), (0,))


def test_of_a_process_without_a_black_box_nothing_is_known(tmp_path):
    end = session(tmp_path).read(b"silent__", 1, KILLED, 0)
    assert end.started == () and end.last_task == NIL_TASK


def test_a_process_that_left_in_the_middle_of_a_task_with_code_0_is_asked_as_well(tmp_path):
    assert session(tmp_path, (5, True)).read(WORKER, 1, 0, 0).started == (task_id(OWNER, 5),)


FRAMES = [f'  File "user.py", line {line} in deep' for line in range(40)]
ABOVE = [
    '  File "executor.py", line 890 in call_user_code',
    '  File "zygote.py", line 3 in main',
    "",
    "Extension modules: a",
]
FATAL = ["Fatal Python error: Aborted", "", "Stack (most recent call first):"]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ([], []),
        ([f"line {number}" for number in range(30)], [f"line {number}" for number in range(10, 30)]),
        (["a", "b", *FATAL, *FRAMES[:2], *ABOVE], ["a", "b", *FATAL, *FRAMES[:2]]),
        (["far", *"abcde", *FATAL, *FRAMES, *ABOVE], [*"abcde", *FATAL, *FRAMES[:17]]),
        ([*FATAL, *FRAMES[:1], "", "Extension modules: a"], [*FATAL, *FRAMES[:1]]),
        ([*FATAL, *FRAMES[:1], *ABOVE, "again", *FATAL, *FRAMES[1:2], *ABOVE], [*ABOVE, "again", *FATAL, *FRAMES[1:2]]),
    ],
    ids=["nothing", "no crash", "what came before", "deep", "not in user code", "twice"],
)
def test_the_last_lines_of_a_crash_are_those_of_the_users_code(tmp_path, written, told):
    box = session(tmp_path)
    (tmp_path / "logs" / f"worker-{WORKER.hex()}.err").write_text("\n".join(written))
    assert box.tail(WORKER).splitlines() == told


class Scene:
    """A node with workers, in a control group whose count of kills is set by hand."""

    def __init__(self, tmp_path, workers: int) -> None:
        self.count = tmp_path / "memory.events"
        self.kernel_has_killed(0)
        for name in ("rings", "logs", "sockets"):
            (tmp_path / name).mkdir()
        (tmp_path / "cgroup.controllers").write_text("memory")
        (tmp_path / "membership").write_text("0::/\n")
        self.group = Cgroup(tmp_path, tmp_path / "membership")
        self.bench = Bench(prestart=workers)
        self.bench.do(self.bench.machine.start)
        self.workers = [self.bench.pool.workers[worker] for worker in self.bench.workers_join()]
        self.said: list[tuple] = []
        node = SimpleNamespace(
            session=tmp_path, links={}, machine=self.bench.machine, do=self.bench.do, log=lambda text: None,
            forks=SimpleNamespace(receive=lambda: [self.said.pop(0)]),
        )  # fmt: skip
        self.processes = WorkerProcesses(node)
        self.processes.black_box = BlackBox(tmp_path, self.group)

    def kernel_has_killed(self, count: int) -> None:
        self.count.write_text(f"low 0\noom {count}\noom_kill {count}\n")

    def node_kills(self, index: int, cause: DeathCause, why: str) -> None:
        self.bench.do(lambda step: self.bench.pool.kill(step, self.workers[index], cause, why))

    def hears_of_the_end(self, index: int) -> dict:
        """The zygote tells of a death by SIGKILL; how it was recorded."""
        worker = self.workers[index]
        self.said.append(("ended", worker.id, worker.pid, KILLED, 100 << 20))
        self.processes._on_zygote()
        return self.bench.records.named("worker_died")[-1]


@pytest.mark.parametrize("first", [0, 1])
def test_when_node_and_kernel_kill_at_the_same_time_both_deaths_are_told_as_what_they_were_in_either_order(
    tmp_path, first
):
    scene = Scene(tmp_path, 2)
    scene.node_kills(0, DeathCause.OOM, "95 % of the container were in use")
    scene.kernel_has_killed(1)
    told = {index: scene.hears_of_the_end(index) for index in (first, 1 - first)}
    assert (told[0]["cause"], told[0]["error"]) == (DeathCause.OOM, "95 % of the container were in use")
    assert told[1]["cause"] is DeathCause.OOM and "killed by the kernel for memory" in told[1]["error"]


def test_one_kill_of_the_kernel_explains_one_death(tmp_path):
    scene = Scene(tmp_path, 2)
    scene.kernel_has_killed(1)
    assert [scene.hears_of_the_end(index)["cause"] for index in (0, 1)] == [DeathCause.OOM, DeathCause.SIGNAL]


def test_whom_the_kernel_killed_and_whose_end_is_heard_of_late_was_not_killed_by_its_node(tmp_path):
    scene = Scene(tmp_path, 1)
    scene.kernel_has_killed(1)
    scene.bench.leave(scene.workers[0].id)
    scene.bench.run_until_quiet(3)
    assert scene.bench.killed() == [scene.workers[0].id], "its link was closed, and it had not been heard that it ended"
    assert scene.hears_of_the_end(0)["cause"] is DeathCause.OOM


def test_a_kill_of_the_kernel_that_hit_another_process_explains_no_death_long_afterwards(tmp_path):
    scene, now = Scene(tmp_path, 0), 100.0
    kills = MemoryKills(scene.group, lambda: now)
    scene.kernel_has_killed(2)
    kills.look()
    now += EXPLAINS_SECONDS
    assert kills.explains()
    now += 0.1
    assert not kills.explains()
    scene.kernel_has_killed(3)
    assert kills.explains() and not kills.explains()
