"""Every kernel is found the task that launched it, and what cannot be known is not guessed."""

from __future__ import annotations

from collections import Counter

import numpy as np

from obsray.gpu.attribution import OPEN, Attributor, marks_of
from obsray.gpu.parse import Array
from obsray.gpu.words import Attribution
from tests.unit.gpu.captures import STEPS, attributor, marks, parsed, run, task

#: How far the clocks of GPU and host may lie apart.
SKEW_NS = 100_000
WORK = np.dtype([("correlation", "<u4"), ("start", "<u8"), ("end", "<u8")])


def work(*rows: tuple[int, int, int]) -> Array:
    return np.array(list(rows), WORK)


def kernels(name: str) -> Array:
    return np.concatenate([records.kernels for records in parsed(name)])


def per_task(name: str, found: Array) -> Counter[int]:
    return Counter(int(number) for number in marks(name)["number"][found])


def test_with_its_launches_recorded_every_kernel_is_found_by_number_thread_or_launch() -> None:
    answer = attributor("calls").attribute(kernels("calls"))
    assert (answer.mark >= 0).all()
    assert per_task("calls", answer.mark) == {one["external_id"]: 132 for one in run("calls")["tasks"]}
    how = Counter(Attribution(value) for value in answer.how.tolist())
    # The backward pass is launched by a thread of the library, which carries no number.
    assert how == {Attribution.EXTERNAL_ID: STEPS * 39, Attribution.LAUNCH_TIME: STEPS * 93}
    assert (answer.launched_at > 0).all()


def test_without_the_launches_every_kernel_is_found_between_the_calls_around_it() -> None:
    answer = attributor("step").attribute(kernels("step"))
    assert (answer.mark >= 0).all()
    assert per_task("step", answer.mark) == {one["external_id"]: 132 for one in run("step")["tasks"]}


def test_kernels_lie_inside_the_span_of_their_task() -> None:
    for name in ("step", "calls"):
        found = kernels(name)
        rows = marks(name)[attributor(name).attribute(found).mark]
        assert (found["start"].astype(np.int64) >= rows["started"] - SKEW_NS).all()
        assert (found["end"].astype(np.int64) <= rows["ended"] + SKEW_NS).all()


def test_copies_are_found_like_kernels() -> None:
    for name in ("step", "calls"):
        copies = np.concatenate([records.copies for records in parsed(name)])
        answer = attributor(name).attribute(copies)
        # Those made before the first step belong to no task.
        inside = copies["start"] >= np.uint64(run(name)["tasks"][0]["start_ns"])
        assert per_task(name, answer.mark[inside]) == {one["external_id"]: 9 for one in run(name)["tasks"]}
        assert (answer.mark[~inside] == -1).all()


def attributed(rows: list[tuple[object, ...]], *asked: tuple[int, int, int]) -> list[tuple[int, Attribution]]:
    made = Attributor()
    made.add_marks(marks_of(rows))
    answer = made.attribute(work(*asked))
    return [
        (int(made.rows["number"][mark]) if mark >= 0 else 0, Attribution(how))
        for mark, how in zip(answer.mark.tolist(), answer.how.tolist(), strict=True)
    ]


def test_two_tasks_at_once_leave_work_of_unknown_launch_without_a_task() -> None:
    rows = [(1, 100, 300, 7, 0, 0, task(1)), (2, 200, 400, 8, 0, 0, task(2))]
    found = attributed(rows, (9, 120, 150), (9, 220, 250), (9, 350, 360), (9, 150, 250), (9, 500, 510))
    assert found == [
        (1, Attribution.RUN_TIME), (0, Attribution.NONE), (2, Attribution.RUN_TIME), (0, Attribution.NONE),
        (0, Attribution.NONE),
    ]  # fmt: skip


def test_a_task_that_ends_in_the_instant_in_which_the_next_begins_is_not_running_with_it() -> None:
    rows = [(1, 100, 200, 7, 0, 0, task(1)), (2, 200, 300, 7, 0, 0, task(2))]
    assert attributed(rows, (9, 200, 210), (9, 190, 199)) == [(2, Attribution.RUN_TIME), (1, Attribution.RUN_TIME)]


def test_a_task_that_never_ended_owns_what_ran_since() -> None:
    rows = [(1, 100, OPEN, 7, 0, 0, task(1))]
    assert attributed(rows, (9, 150, 1 << 40)) == [(1, Attribution.RUN_TIME)]


def test_a_later_mark_of_a_number_replaces_the_earlier() -> None:
    made = Attributor()
    made.add_marks(marks_of([(1, 100, OPEN, 7, 0, 0, task(1)), (2, 110, OPEN, 8, 0, 0, task(2))]))
    made.add_marks(marks_of([(1, 100, 130, 7, 0, 0, task(1))]))
    answer = made.attribute(work((5, 140, 150), (5, 120, 125)))
    assert made.rows["number"][answer.mark[0]] == 2
    assert answer.mark[1] == -1


def test_nothing_known_attributes_nothing() -> None:
    answer = Attributor().attribute(work((1, 2, 3)))
    assert answer.mark.tolist() == [-1] and answer.how.tolist() == [Attribution.NONE]
    assert len(attributor("step").attribute(work()).mark) == 0


def test_the_thread_tells_tasks_of_threaded_actors_apart() -> None:
    (records,) = parsed("calls")
    made = Attributor()
    tasks = run("calls")["tasks"]
    whole = (tasks[0]["start_ns"], tasks[-1]["end_ns"])
    threads = sorted(set(records.runtime_calls["thread"].tolist()) | set(records.driver_calls["thread"].tolist()))
    assert len(threads) == 2
    made.add_marks(marks_of([(1, *whole, threads[0], 0, 0, task(1)), (2, *whole, threads[1], 0, 0, task(2))]))
    made.add_records(records)
    answer = made.attribute(records.kernels)
    assert set(answer.how.tolist()) == {Attribution.LAUNCHING_THREAD}
    by_thread = Counter(made.rows["thread"][answer.mark].tolist())
    assert sorted(by_thread.values()) == [STEPS * 39, STEPS * 93]
