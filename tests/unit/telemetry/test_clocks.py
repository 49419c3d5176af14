"""Records of several nodes are read on the head's clock."""

from __future__ import annotations

import pytest

from obsray.telemetry.clocks import Clocks
from obsray.telemetry.columns import Columns, concat, empty
from obsray.telemetry.events import BY_NAME, ProcessKind
from obsray.telemetry.spine import Ring
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from tests.unit.telemetry.test_gathering import HEAD, OTHER, collector_at, hand_over, serving, store_all

__all__ = ["serving"]

NS = 1_000_000_000
WORKER = b"wrk1" + OTHER[:4]
DRIVER = b"drv1" + HEAD[:4]
TASK = DRIVER + bytes(7) + b"\x01"


def node_of(process: bytes) -> bytes | None:
    return {WORKER: OTHER, DRIVER: HEAD}.get(process)


def marks(*rows: tuple[int, bytes]) -> Columns:
    """``user_mark`` records: time and process."""
    import numpy as np

    event = BY_NAME["user_mark"]
    made = {name: np.zeros(len(rows), values.dtype) for name, values in empty(event).arrays.items()}
    made["time_ns"] = np.array([at for at, _ in rows], "<u8")
    made["process"] = np.array([process for _, process in rows], "V8")
    return Columns(event, made)


def measured(*rows: tuple[int, float]) -> Columns:
    """``clock_measured`` of the other node: its time, its offset in seconds."""
    import numpy as np

    event = BY_NAME["clock_measured"]
    made = {name: np.zeros(len(rows), values.dtype) for name, values in empty(event).arrays.items()}
    made["node"] = np.array([OTHER] * len(rows), "V8")
    made["node_time"] = np.array([at for at, _ in rows], "<u8")
    made["offset_seconds"] = np.array([offset for _, offset in rows])
    return Columns(event, made)


def test_only_the_records_of_other_nodes_are_moved_each_by_what_was_measured_then():
    clocks = Clocks(node_of)
    found = marks((10 * NS, DRIVER), (15 * NS, WORKER), (31 * NS, WORKER), (20 * NS, DRIVER), (6 * NS, WORKER))
    assert clocks.corrected(found) is found
    # Five seconds ahead until its clock says 30, then one behind; what was before the first counts like the first.
    clocks.learn(measured((14 * NS, 5.0), (30 * NS, -1.0)))
    clocks.learn(measured((30 * NS, -1.0)))
    assert clocks.corrected(found)["time_ns"].tolist() == [
        10 * NS,
        10 * NS,
        32 * NS,
        20 * NS,
        1 * NS,
    ]
    assert found["time_ns"][1] == 15 * NS, "what was read is changed"


def test_what_no_clock_says_is_not_believed():
    clocks = Clocks(node_of)
    clocks.learn(measured((1 << 63, 1.0), (5, float("nan")), (5, 1e12)))
    assert not clocks


def test_many_pieces_of_many_processes_come_out_as_one_by_one():
    clocks = Clocks(node_of)
    clocks.learn(measured((0, 2.5)))
    rows = [(n * NS, WORKER if n % 3 else DRIVER) for n in range(10, 40)]
    at_once = clocks.corrected(marks(*rows))["time_ns"].tolist()
    assert at_once == concat([clocks.corrected(marks(row)) for row in rows])["time_ns"].tolist()


@pytest.mark.parametrize("skew", [3.0, -3.0])
@pytest.mark.parametrize("late", [False, True])
def test_a_task_on_a_node_whose_clock_is_wrong_is_told_in_the_right_order(tmp_path, serving, skew, late):
    base = 1_700_000_000 * NS

    def there(seconds: float) -> int:
        return base + round((seconds + skew) * NS)

    def here(seconds: float) -> int:
        return base + round(seconds * NS)

    head, other = collector_at(tmp_path / "head", HEAD), collector_at(tmp_path / "other", OTHER)
    node = Ring(tmp_path / "head" / "rings", HEAD, ProcessKind.NODE, HEAD)
    driver = Ring(tmp_path / "head" / "rings", DRIVER, ProcessKind.DRIVER, HEAD)
    worker = Ring(tmp_path / "other" / "rings", WORKER, ProcessKind.WORKER, OTHER)
    # Known to a millisecond, and half of one wrong: the task ends before it began, as far as that can be told.
    node.clock_measured(here(0.0), OTHER, skew + 0.0005, 0.001, 0.002, 8, there(0.0))
    name = driver.intern("work")
    driver.task_submitted(here(1.0), TASK, bytes(16), bytes(16), bytes(16), name, 0, 1, 0, 0, 0, 3, 0)
    driver.tasks_dispatched(here(1.001), WORKER, 1, 1, 0, 1, 0, 1, 0, TASK)
    name = worker.intern("work")
    worker.task_ended(
        there(1.0022), TASK, 0, 1, 1, bytes(16), name, here(1.001), there(1.0012), there(1.0013), 0, 0, 0, 0.0009, 0,
        0, 0, 0,
    )  # fmt: skip
    driver.task_finished(here(1.0024), TASK, 0, 0, 0, 0)
    opened = Store.open(tmp_path / "head")
    views = Views(opened)
    if not late:
        opened.refresh()
    for collector in (head, other):
        store_all(collector)
    hand_over(serving, {}, head)
    head.flush()
    views.refresh()
    row = views.task(TASK.hex())
    assert row is not None
    at, table = views.task_table.index.row(TASK), views.task_table
    parts = ("submitted", "dispatched", "arrived", "started", "ended", "finished")
    times = [int(table[f"{part}_at"][at]) for part in parts]
    assert times == sorted(times), "an effect before its cause"
    assert times[4] - times[3] == round(0.0009 * NS), "a duration is not what was measured"
    events = [record["event"] for record in views.story(TASK.hex())]
    told = [event for event in events if event in ("task_submitted", "task_ended", "task_finished")]
    assert told == ["task_submitted", "task_ended", "task_finished"]
    (ended,) = opened.select("task_ended")
    assert abs(int(ended["started_at"][0]) - here(1.0013)) < NS // 1000
    assert int(ended["dispatched_at"][0]) == here(1.001), "the owner's clock was right"
    (batch,) = [batch for kind, batch in opened.records(["task_ended"]) if kind == "task_ended"]
    assert abs(batch.column("time_ns")[0].as_py() - here(1.0022)) < NS // 1000
