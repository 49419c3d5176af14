"""The wall clock of every process jumps while programs run: check C7 of docs/reliability.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.programs import views

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(150)

#: Loaded by every Python process at its start: the wall clock is what a file says, another one in every other process.
SITE = """
import os, time

real_time, real_time_ns = time.time, time.time_ns

def offset():
    try:
        with open(os.environ["WALL_OFFSET"]) as file:
            return int(file.read() or 0) * (1 if os.getpid() % 2 else -1)
    except (OSError, ValueError):
        return 0

time.time = lambda: real_time() + offset()
time.time_ns = lambda: real_time_ns() + offset() * 1_000_000_000
"""

PROGRAM = """
import threading
from pathlib import Path
from tests.reliability.oracle import Oracle

def jump(seconds):
    path = os.environ["WALL_OFFSET"]
    with open(path + ".new", "w") as file:
        file.write(str(seconds))
    os.rename(path + ".new", path)

jump(0)
session = Path(start().address_info["session_dir"])
oracle = Oracle(session)

@obsray.remote
def slow(x):
    time.sleep(0.01)
    return x, time.time()

@obsray.remote
class Counter:
    def __init__(self):
        self.count = 0
    def next(self):
        self.count += 1
        return self.count

counter = Counter.remote()
over = threading.Event()

def strobe():
    turn = 0
    while not over.wait(0.05):
        turn += 1
        jump((3600, -3600, 0, 300)[turn % 4])

strobing = threading.Thread(target=strobe)
strobing.start()
values, calls = [], []
for turn in range(4):
    answers = obsray.get([slow.remote(x) for x in range(40)], timeout=60)
    values += [value for value, _ in answers]
    calls += obsray.get([counter.next.remote() for _ in range(20)], timeout=60)
walls = [wall for _, wall in answers]
began = time.monotonic()
ready, waiting = obsray.wait([slow.options(num_cpus=99).remote(0)], timeout=1.0)
took = time.monotonic() - began
over.set()
strobing.join()
jump(0)
say(
    values=values == list(range(40)) * 4, calls=calls == list(range(1, 81)), waited=1.0 <= took < 10 and not ready,
    jumped=max(walls) - min(walls) > 300, alive=all(node["Alive"] for node in obsray.nodes()),
)
# It waits for what there is not.
obsray.cancel(waiting[0])
del counter, ready, waiting
oracle.check()
say(oracle=True)
listen()
obsray.shutdown()
"""


def test_wall_clocks_that_jump_by_hours_kill_nobody_and_no_duration_is_negative(program, tmp_path):
    """C7: timeouts and leases go by monotonic clocks; every process has a wall clock of its own, an hour off or two."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    root = str(Path(__file__).resolve().parents[2])
    test = program(PROGRAM, PYTHONPATH=f"{tmp_path}:{root}", WALL_OFFSET=str(tmp_path / "offset"))
    session = test.hear()["directory"]
    said = test.hear()
    assert all(said.values()), said
    assert test.hear() == {"oracle": True}
    view = views(session)
    rows = view.tasks(limit=1000)["rows"]
    assert sum(row["state"] == "FINISHED" for row in rows) >= 240
    for row in rows:
        negative = {key: value for key, value in row.items() if key.endswith("seconds") and (value or 0) < 0}
        assert not negative, row
    assert not [row for row in view.workers() if row["signal"] or row["exit_code"]]
    test.tell()
    assert test.wait() == 0, test.errors()
