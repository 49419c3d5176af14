"""What a dead process leaves behind: which tasks it ran, told apart from not knowing."""

from __future__ import annotations

from obsray.core.node.black_box import BlackBox
from obsray.ids import NIL_TASK, task_id
from obsray.telemetry.events import ProcessKind
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
