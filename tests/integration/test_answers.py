"""Analyses of real runs: causes planted in a running program are named, and the books of its workers close."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from obsray.telemetry.answers.replay import Change
from obsray.telemetry.past import difference, views_at
from tests.integration.programs import eventually, views

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(300)
#: Many processes start here, on machines that may do other things meanwhile.
PATIENCE_SECONDS = 120.0

PLANTED = """
import asyncio
import threading
import numpy as np
from obsray.util.placement_group import placement_group
# What waits for room in the store waits until somebody has asked why: it does not go on in a file.
waits = {"store_wait_seconds_max": 600.0, "store_fallback_wait_seconds": 601.0}
start(resources={"slot": 1}, object_store_memory=100 * 1024 * 1024, _system_config={"hang_seconds": 2.0, **waits})

@obsray.remote
def hog(): time.sleep(600)
@obsray.remote(num_cpus=0)
def use(*values): return 1
@obsray.remote(num_gpus=1)
def gpu(): pass
@obsray.remote(num_cpus=0)
def bad(): raise ValueError("planted")
@obsray.remote(num_cpus=0, max_retries=0)
def crash(): os._exit(7)
@obsray.remote(num_cpus=0, label_selector={"zone": "mars"})
def labelled(): pass
@obsray.remote(num_cpus=0, resources={"slot": 1})
def outer(): return obsray.get(inner.remote())
@obsray.remote(num_cpus=0, resources={"slot": 1})
def inner(): return 1
@obsray.remote(num_cpus=0)
def big(size): return np.zeros(size, np.uint8)
@obsray.remote(num_cpus=0)
def hold(references):
    values = obsray.get(references)
    time.sleep(600)
    return len(values)
@obsray.remote(num_cpus=0)
class Plain:
    def slow(self): time.sleep(600)
    def fast(self, value=None): return 1
    def again(self, me): return obsray.get(me[0].fast.remote())
@obsray.remote(num_cpus=0, max_concurrency=2)
class Wide:
    def slow(self): time.sleep(600)
    def fast(self): return 1
@obsray.remote(num_cpus=0, max_concurrency=1)
class Async:
    async def fast(self): return 1
    async def again(self, me): return await me[0].fast.remote()
    async def both(self, me, other): return await asyncio.gather(me[0].fast.remote(), other[0])
@obsray.remote(num_cpus=0)
class Slow:
    def __init__(self): time.sleep(600)
    def call(self): return 1

hogs = [hog.remote() for _ in range(2)]
busy, wide, limited, itself, ordered = Plain.remote(), Wide.remote(), Plain.options(max_pending_calls=1).remote(), \\
    Plain.remote(), Plain.remote()
slow, alone, gathers = Slow.remote(), Async.remote(), Async.remote()
asleep = [busy.slow.remote(), wide.slow.remote(), wide.slow.remote(), limited.slow.remote()]
try: limited.fast.remote()
except obsray.exceptions.PendingCallsLimitExceeded: pass
stored = [big.remote(30_000_000) for _ in range(3)]
obsray.wait(stored, num_returns=3)
holder = hold.remote(stored)
failed = bad.remote()
waiting = hog.remote()
behind = ordered.fast.remote(waiting)
tasks = {
    "held_cpu": waiting, "no_gpu": gpu.remote(), "argument": use.remote(waiting), "failed": failed,
    "failed_argument": use.remote(failed), "crashed": crash.remote(), "labels": labelled.remote(),
    "deadlock": outer.remote(), "busy_actor": busy.fast.remote(), "concurrency": wide.fast.remote(),
    "ordering": ordered.fast.remote(), "constructor": slow.call.remote(), "calls_itself": itself.again.remote([itself]),
    "awaits_itself": alone.again.remote([alone]),
}
gathered = gathers.both.remote([gathers], [waiting])
threading.Thread(target=obsray.get, args=(tasks["deadlock"],), daemon=True).start()
group = placement_group([{"CPU": 9}])
listen()
full = big.remote(60_000_000)
say(tasks={name: reference.hex()[:32] for name, reference in {**tasks, "store_full": full}.items()},
    limited=limited._actor_id.hex(), group=group.id.hex(), holder=holder.hex()[:32])
listen()
"""
KNOTS = ({"outer", "inner"}, {"Async.again", "Async.fast"}, {"Async.both", "Async.fast"})
#: What was planted -> the code of the answer, that of its root, a word of the sentence.
EXPECTED = {
    "held_cpu": ("NO_CAPACITY", "NO_CAPACITY", "held by hog"),
    "no_gpu": ("INFEASIBLE", "INFEASIBLE", "GPU 1"),
    "argument": ("WAIT_ARGUMENTS", "NO_CAPACITY", "the result of hog"),
    "failed": ("APP_ERROR", "APP_ERROR", "ValueError: planted"),
    "failed_argument": ("ARGUMENT_FAILED", "APP_ERROR", "ValueError: planted"),
    "crashed": ("WORKER_DIED", "WORKER_DIED", "exited with code 7"),
    "labels": ("LABELS", "LABELS", "zone=mars"),
    "deadlock": ("DEADLOCK", "DEADLOCK", "waits for itself"),
    "busy_actor": ("ACTOR_BUSY", "RUNNING", "busy with Plain.slow"),
    "concurrency": ("CONCURRENCY", "RUNNING", "max_concurrency of 2 is full"),
    "ordering": ("ORDERING", "NO_CAPACITY", "in the order in which they were made"),
    "constructor": ("ACTOR_PENDING", "RUNNING", "its constructor has been running"),
    "calls_itself": ("DEADLOCK", "DEADLOCK", "waits for itself"),
    "awaits_itself": ("DEADLOCK", "DEADLOCK", "waits for itself"),
    "store_full": ("STORE_FULL", "STORE_FULL", "57.2 MiB wanted"),
}


def test_causes_planted_in_a_running_program_are_named(program):
    driver = program(PLANTED)
    directory = driver.hear()["directory"]
    view = views(directory)

    def holds() -> bool:
        rows = view.tasks([("name", "=", "hold")])["rows"]
        return bool(rows) and rows[0]["state"] == "RUNNING" and _pinned(view) == 3

    eventually(holds, PATIENCE_SECONDS)
    driver.tell()
    said = driver.hear()
    found: dict[str, Any] = {}

    def named(name: str) -> bool:
        found[name] = why = view.why(said["tasks"][name])
        code, root, word = EXPECTED[name]
        return (why["code"], why["root_code"]) == (code, root) and word in why["sentence"]

    wrong = set(EXPECTED)

    def all_named() -> bool:
        wrong.difference_update({name for name in wrong if named(name)})
        return not wrong

    try:
        eventually(all_named, PATIENCE_SECONDS)
    except AssertionError:
        raise AssertionError("\n".join(f"{name}: {found[name]['sentence']}" for name in wrong)) from None
    assert view.why(said["limited"])["code"] == "QUOTA"

    def hangs() -> bool:
        looked = view.hangs()
        cycles = [{one["name"] for one in hang["members"]} for hang in looked["hangs"] if hang["kind"] == "cycle"]
        named = [names for names in KNOTS if names in cycles]
        waits = [one for one in looked["drivers"] if one["for_id"] == said["tasks"]["deadlock"]]
        return len(named) == len(KNOTS) and bool(waits) and any(hang["drivers"] for hang in looked["hangs"])

    eventually(hangs, PATIENCE_SECONDS)
    assert view.why(said["group"])["code"] == "INFEASIBLE"
    # The collector had somebody look, because no dashboard does.
    eventually(lambda: any("outer" in row["text"] for row in view.store.rows("hang_found")), PATIENCE_SECONDS)
    assert {row["hang"] for row in view.store.rows("hang_found")} <= {"cycle", "stuck"}


HANGS = """
start(_system_config={"hang_seconds": 0.2})

@obsray.remote(num_cpus=0)
class Knot:
    def fast(self): return 1
    def again(self, me): return obsray.get(me[0].fast.remote())

knot = Knot.remote()
reference = knot.again.remote([knot])
say(task=reference.task_id().hex())
listen()
obsray.kill(knot)
try:
    obsray.get(reference)
except obsray.exceptions.RayActorError:
    say()
listen()
"""


def test_without_a_dashboard_the_collector_has_a_hang_found_recorded_and_its_end_too(program):
    driver = program(HANGS)
    view, task = views(driver.hear()["directory"]), driver.hear()["task"]

    def recorded(event: str) -> list[dict[str, Any]]:
        return [row for row in view.store.rows(event) if row["task"].hex() == task]

    eventually(lambda: recorded("hang_found"), PATIENCE_SECONDS)
    assert "can ever go on" in recorded("hang_found")[0]["text"]
    assert any(row["event"] == "hang_found" for row in view.story(task))
    watcher = recorded("hang_found")[0]["process"].hex()
    driver.tell()
    driver.hear()
    eventually(lambda: recorded("hang_over"), PATIENCE_SECONDS)
    # Nothing waits any more, so nobody looks.

    def nobody_looks() -> bool:
        view.refresh()
        return not any(alive for state, alive in view.store.ring_states() if state.process.hex() == watcher)

    eventually(nobody_looks, PATIENCE_SECONDS)
    driver.tell()


def _pinned(view: Any) -> int:
    return int(view.objects([("pins", ">", 0)])["total"])


MIXED = """
import asyncio
import numpy as np
start()

@obsray.remote
def load(seconds):
    time.sleep(seconds)
    return np.zeros(200_000)
@obsray.remote
def spin(seconds):
    end = time.time() + seconds
    while time.time() < end: pass
@obsray.remote
def nested(count): return len(obsray.get([load.remote(0.01) for _ in range(count)]))
@obsray.remote
def add(a, b): return float(a.sum() + b.sum())
@obsray.remote(num_cpus=0)
class Loop:
    async def go(self, seconds): await asyncio.sleep(seconds)
@obsray.remote(num_cpus=0, max_concurrency=3)
class Threads:
    def go(self, seconds): time.sleep(seconds)

loop, threads = Loop.remote(), Threads.remote()
obsray.get([load.remote(0.02) for _ in range(20)])
say()
time.sleep(0.2)
obsray.get([nested.remote(3) for _ in range(4)])
say()
obsray.get([spin.remote(0.05) for _ in range(6)])
say()
obsray.get([loop.go.remote(0.1) for _ in range(10)] + [threads.go.remote(0.05) for _ in range(9)])
obsray.get([add.remote(load.remote(0.01), load.remote(0.02)) for _ in range(5)])
say(books=obsray.telemetry.books()["error_ratio"])
"""


def test_the_books_of_a_real_run_close_and_can_be_read_during_the_run(program):
    driver = program(MIXED)
    directory = driver.hear()["directory"]
    for _ in range(3):
        driver.hear()
    assert driver.hear()["books"] <= 0.01
    assert driver.process.wait(PATIENCE_SECONDS) == 0
    found = views(directory).books()
    total = sum(row["seconds"] for row in found["activities"])
    assert found["error_ratio"] <= 0.01 and abs(total - found["slots"] * found["wall_seconds"]) <= 0.01 * total
    seconds = {row["activity"]: row["seconds"] for row in found["activities"]}
    assert seconds["run off CPU"] > 0.4 and seconds["run on CPU"] > 0 and seconds["blocked in get"] > 0
    assert seconds["starting"] > 0 and seconds["idle: nothing submitted"] > 0.1
    assert {"load", "spin", "nested", "add", "Loop.go", "Threads.go"} <= {row["name"] for row in found["functions"]}


PATHS = """
from obsray.core.runtime import unplaceable
unplaceable.AFTER_SECONDS = 0.02  # gets look around after that, and go on
start()

@obsray.remote
def link(*values): time.sleep(0.1)

obsray.get([link.remote() for _ in range(2)])
last = link.remote()
for _ in range(9): last = link.remote(last, link.remote())
obsray.get(last)
say()
time.sleep(0.5)
obsray.get([link.remote() for _ in range(20)])
say(seconds=obsray.telemetry.critical_path()["seconds"], noun=obsray.telemetry.why(last)["noun"],
    put=obsray.telemetry.why(obsray.put(1))["noun"])
"""


def test_the_path_of_a_real_run_and_its_replay_meet_what_happened(program):
    driver = program(PATHS)
    directory = driver.hear()["directory"]
    driver.hear()
    said = driver.hear()
    told = said["seconds"]
    assert (said["noun"], said["put"]) == ("task", "object")
    assert driver.process.wait(PATIENCE_SECONDS) == 0
    view = views(directory)
    view.refresh()
    waits = [row for row in view.store.rows("process_waited") if any(row["object"])]
    assert len(waits) == 3, "one a get, however often it looked around"
    found = view.critical_path()
    kinds = {row["kind"]: row["seconds"] for row in found["kinds"]}
    assert found["seconds"] == pytest.approx(told, rel=0.5) and sum(kinds.values()) == pytest.approx(found["seconds"])
    assert kinds["driver"] > 0.45, "the driver slept"
    # Two to begin with, ten in a chain, twenty on two workers.
    assert kinds["run"] > 15 * 0.1 and found["functions"][0]["name"] == "link"
    replayed = view.what_if(rough=True)
    # How near it is where nothing disturbs is for the unit tests to say; here other programs run beside.
    assert replayed["error_ratio"] <= 0.5, replayed["sentence"]
    faster = {row["change"]: row["speedup"] for row in replayed["scenarios"]}
    assert faster["driver 2 x faster"] < faster["link 2 x faster"]


NAPS = """
start(num_cpus=int(os.environ["CPUS"]))

@obsray.remote
def nap(): time.sleep(float(os.environ["SECONDS"]))

obsray.get([nap.remote() for _ in range(16)])
"""


def test_what_a_run_on_one_cpu_foretells_is_about_what_runs_on_two_and_four_take(program):
    drivers = {cpus: program(NAPS, CPUS=str(cpus), SECONDS="0.4") for cpus in (1, 2, 4)}
    directories = {cpus: driver.hear()["directory"] for cpus, driver in drivers.items()}
    for driver in drivers.values():
        assert driver.process.wait(PATIENCE_SECONDS) == 0
    took = {cpus: views(directory).what_if(changes=[])["actual_seconds"] for cpus, directory in directories.items()}
    alone = views(directories[1])
    foretold = {
        cpus: alone.what_if(changes=[Change(workers=float(cpus))], rough=True)["scenarios"][0]["seconds"]
        for cpus in (2, 4)
    }
    print(f"16 naps of 0.4 s took {took}, the run on one CPU foretold {foretold}")
    assert took[1] >= 6.4 > foretold[2] > foretold[4] > 1.6 * 0.9
    # Processes start, here beside each other and beside whatever else this machine does.
    assert (abs(foretold[2] - took[2]) < 2.0 and abs(foretold[4] - took[4]) < 2.0) or max(took.values()) > 12.0


NESTED = """
start(num_cpus=int(os.environ["CPUS"]))

@obsray.remote
def child(): time.sleep(0.3)

@obsray.remote
def parent():
    time.sleep(0.2)
    obsray.get([child.remote() for _ in range(4)])
    time.sleep(0.1)

obsray.get([parent.remote() for _ in range(6)])
"""


def test_what_a_run_of_tasks_that_wait_for_tasks_foretells_is_about_what_other_runs_take(program):
    directories = {}
    for cpus in (2, 4):
        driver = program(NESTED, CPUS=str(cpus))
        directories[cpus] = driver.hear()["directory"]
        assert driver.process.wait(PATIENCE_SECONDS) == 0
    took = {cpus: views(directory).what_if(changes=[])["actual_seconds"] for cpus, directory in directories.items()}
    foretold = {}
    for few, many in ((2, 4), (4, 2)):
        found = views(directories[few]).what_if(changes=[Change(workers=many / few)], rough=True)
        assert found["limits"] == []
        foretold[many] = found["scenarios"][0]["seconds"]
    print(f"tasks that wait for tasks took {took}, each foretold by the other {foretold}")
    # Six parents of 0.3 s and 24 children of 0.3 s: 9 s of work.
    assert foretold[2] > 4.5 * 0.95 and foretold[4] > 2.25 * 0.95
    # Both were run beside whatever else this machine does.
    assert all(abs(foretold[cpus] - took[cpus]) < max(1.0, 0.4 * took[cpus]) for cpus in took) or took[2] > 9.0


def test_what_a_run_foretells_of_a_faster_function_is_about_what_it_takes(program):
    drivers = {seconds: program(NAPS, CPUS="2", SECONDS=seconds) for seconds in ("0.4", "0.1")}
    directories = {seconds: driver.hear()["directory"] for seconds, driver in drivers.items()}
    for driver in drivers.values():
        assert driver.process.wait(PATIENCE_SECONDS) == 0
    slow = views(directories["0.4"]).what_if(changes=[Change(functions={"nap": 4.0})])
    took = views(directories["0.1"]).what_if(changes=[])["actual_seconds"]
    (foretold,) = slow["scenarios"]
    print(f"16 naps of 0.4 s foretold {foretold['seconds']:.2f} s for 0.1 s, {took:.2f} s were measured")
    assert slow["error_ratio"] <= 0.05 and slow["actual_seconds"] >= 3.2
    # Two processes start in both, beside whatever else this machine does.
    assert 0.8 <= foretold["seconds"] < 0.6 * slow["actual_seconds"]
    assert abs(foretold["seconds"] - took) < 0.5


LEAK = """
import numpy as np
start()
kept = []
def keep(size):
    kept.append(obsray.put(np.zeros(size, np.uint8)))
@obsray.remote
def use(value): return len(value)
@obsray.remote(num_cpus=0)
class Cache:
    kept = []
    def keep(self, references): self.kept += references
cache = Cache.remote()
obsray.get(cache.keep.remote([obsray.put(np.zeros(150_000, np.uint8)) for _ in range(3)]))
for number in range(25):
    keep(200_000)
    obsray.get(use.remote(obsray.put(np.zeros(300_000, np.uint8))))
    time.sleep(0.05)
say(memory=obsray.telemetry.memory())
listen()
"""


def test_a_leak_is_found_with_the_line_that_made_it(program):
    driver = program(LEAK)
    directory = driver.hear()["directory"]
    live = driver.hear()["memory"]
    driver.tell()
    assert driver.process.wait(PATIENCE_SECONDS) == 0
    assert len(live["suspects"]) == 1, live
    suspect = live["suspects"][0]["what"]
    assert suspect.startswith("<string>:") and suspect.endswith(" in keep")
    holders = {row["what"]: row["objects"] for row in live["by_holder"]}
    assert sorted(holders.values()) == [3, 25], "the actor keeps what it was given, the driver the rest"
    assert live["by_call_site"][0]["objects"] == 25 and live["by_call_site"][0]["bytes"] >= 25 * 200_000
    over = views(directory).memory()
    assert over["by_call_site"][0]["what"] == suspect and not over["live"]


THEN = """
import numpy as np
from obsray.util.placement_group import placement_group, remove_placement_group
start(resources={"slot": 1})

@obsray.remote
def hold(path):
    while not os.path.exists(path): time.sleep(0.02)
    return np.zeros(300_000, np.uint8)
@obsray.remote
def after(value): raise ValueError("planted")
@obsray.remote(num_cpus=0)
class Counter:
    def add(self): return 1

gate = listen()
counter, other = Counter.remote(), Counter.remote()
obsray.get([counter.add.remote(), other.add.remote()])
kept = obsray.put(np.ones(400_000, np.uint8))
group = placement_group([{"slot": 1}])
obsray.get(group.ready())
held = [hold.remote(gate) for _ in range(5)]
late = after.remote(held[-1])
cancelled = hold.remote(gate)
listen()
obsray.cancel(cancelled)
obsray.kill(other)
remove_placement_group(group)
del kept
open(gate, "w").close()
obsray.wait([late, *held], num_returns=6)
again = [hold.remote(gate + ".never") for _ in range(4)]
listen()
"""
#: What a view shows of each thing, by noun: its id and its state.
SHOWN = {"actors": "actor_id", "workers": "worker_id", "placement_groups": "group_id", "nodes": "node_id",
         "jobs": "job_id"}  # fmt: skip


def shown(view: Any) -> dict[str, dict[str, str]]:
    """The states of all things as a view shows them now."""
    view.refresh()
    found = {
        noun: {row[key]: row["state"] for row in getattr(view, noun)(refresh=False)} for noun, key in SHOWN.items()
    }
    for noun, key in (("tasks", "task_id"), ("objects", "object_id")):
        rows = getattr(view, noun)([], "", 1000, 0, refresh=False)["rows"]
        found[noun] = {row[key]: row["state"] for row in rows}
    return found


def settled(view: Any, counts: dict[str, int]) -> tuple[int, dict[str, dict[str, str]]]:
    """An instant before and after which nothing changed for a while, with so many tasks in these states, and what the
    view showed then."""
    last: dict[str, Any] = {"shown": None, "since": 0.0, "at": 0}

    def quiet() -> bool:
        now = shown(view)
        if now != last["shown"]:
            last.update(shown=now, since=time.monotonic(), at=0)
        lasted = time.monotonic() - last["since"]
        if lasted > 0.15 and not last["at"]:
            last["at"] = time.time_ns()
        states = list(now["tasks"].values())
        return lasted > 0.3 and all(states.count(state) == count for state, count in counts.items())

    eventually(quiet, PATIENCE_SECONDS)
    return last["at"], last["shown"]


def test_the_past_is_what_the_live_view_showed_then(program, tmp_path):
    driver = program(THEN)
    directory = driver.hear()["directory"]
    driver.tell(str(tmp_path / "gate"))
    view = views(directory)
    first = settled(view, {"RUNNING": 2, "PENDING_NODE_ASSIGNMENT": 4, "PENDING_ARGS_AVAIL": 1})
    driver.tell()
    second = settled(view, {"RUNNING": 2, "PENDING_NODE_ASSIGNMENT": 2, "FAILED": 1, "CANCELLED": 1})
    driver.end()
    assert first[1]["actors"] != second[1]["actors"] and first[1]["objects"] != second[1]["objects"]
    for moment, live in (first, second):
        past = shown(views_at(Path(directory), moment))
        for noun, states in live.items():
            assert past[noun] == states, noun
    told = difference(views_at(Path(directory), first[0]), views_at(Path(directory), second[0]))["tasks"]
    for state in ("RUNNING", "FINISHED", "FAILED", "CANCELLED", "PENDING_NODE_ASSIGNMENT", "PENDING_ARGS_AVAIL"):
        before, after = (list(live["tasks"].values()).count(state) for _, live in (first, second))
        assert before == after or (told[state]["before"], told[state]["after"]) == (before, after), state
