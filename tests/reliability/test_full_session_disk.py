"""The disk of the session directory is full: check B11 of docs/reliability.md."""

from __future__ import annotations

import pytest

from tests.integration.programs import leftovers

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(150)

PROGRAM = """
import threading
import obsray.experimental.internal_kv
from pathlib import Path
from tests.integration.programs import views

# A mount namespace of its own, with a small disk for the session.
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x00020000) != 0:
    say(skip=os.strerror(ctypes.get_errno()))
    sys.exit()
disk = os.environ["TMPDIR"]
for command in ("mount --make-rprivate /", f"mount -t tmpfs -o size=48m none {disk}"):
    done = subprocess.run(command.split(), capture_output=True, text=True)
    if done.returncode != 0:
        say(skip=done.stderr)
        sys.exit()
session = Path(start().address_info["session_dir"])

@obsray.remote
def small(x):
    return x

@obsray.remote
def talks(x):
    print("x" * 5000)
    return x

@obsray.remote
def ends():
    os.kill(os.getpid(), signal.SIGKILL)

@obsray.remote(name="new")
def new(x):
    return x

def flood(count):
    for first in range(0, count, 2000):
        numbers = range(first, min(count, first + 2000))
        assert obsray.get([small.remote(x) for x in numbers], timeout=100) == list(numbers)

def book():
    return views(session).ledger()

def until(what):
    # Shorter than the test's own patience, so that it hears why.
    deadline = time.monotonic() + 25
    while not what(book()):
        if time.monotonic() > deadline:
            say(never=book())
        time.sleep(0.1)

def status():
    command = [sys.executable, "-m", "obsray.cli", "status", "--session", str(session)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

flood(2000)
# What runs beside the node has begun, too.
until(lambda book: book["tasks"]["finished"] == 2000 and book["collectors"] and book["totals"]["events_stored"])
obsray.experimental.internal_kv.put("key", "value")
assert book()["totals"]["events_lost"] == 0
filler = open(os.path.join(disk, "filler"), "wb", buffering=0)
def fill():
    try:
        while True:
            filler.write(bytes(1024))
    except OSError:
        pass
fill()
# What the collector lets go is taken again: the disk stays full until everybody is out of room.
over = threading.Event()
def refill():
    while not over.wait(0.02):
        fill()
filling = threading.Thread(target=refill)
filling.start()
rounds = 0
while not (book()["totals"]["events_lost"] and any(row["unstored_since_ns"] for row in book()["collectors"])):
    flood(10_000)
    rounds += 1
    assert rounds < 60, book()
try:
    obsray.get(ends.options(max_retries=0).remote(), timeout=60)
except obsray.exceptions.WorkerCrashedError:
    pass
talked = obsray.get([talks.remote(x) for x in range(20)], timeout=60) == list(range(20))
lost = book()["totals"]["events_lost"]
say(talked=talked, lost=lost, status=status(), fresh=obsray.get(new.remote(7), timeout=60) == 7, rounds=rounds)

over.set()
filling.join()
filler.close()
os.unlink(os.path.join(disk, "filler"))
# Nothing else happens, and still it is noticed that there is room.
until(lambda book: all(not row["unstored_since_ns"] for row in book["collectors"]))
flood(3000)
done = obsray.get([new.remote(x) for x in range(2000)], timeout=60) == list(range(2000))
def caught_up(book):
    rings = [row for row in book["rings"] if row["alive"] and row["kind"] in ("driver", "worker")]
    known = {row["name"]: row for row in views(session).functions()}
    return known.get("new", {"total": 0})["total"] >= 2000 and all(row["dropped"] + row["read"] for row in rings)
until(caught_up)
def logs():
    return "".join(path.read_text() for path in (session / "logs").glob("*.err"))
until(lambda book: "is recorded again" in logs())
say(done=done, submitted=2000 + rounds * 10_000 + 1 + 20 + 1 + 3000 + 2000, status=status())
listen()
obsray.shutdown()
say(book=book(), lines=[row["text"] for row in views(session).troubles(1000) if row["event"].startswith("telemetry_")])
"""


def test_with_a_full_disk_tasks_go_on_and_what_cannot_be_recorded_is_counted_said_and_over_when_there_is_room(
    program, root
):
    """B11: no task fails, new processes start, and afterwards recorded = read + lost in the books of every process."""
    test = program(PROGRAM)
    said = test.hear()
    if "skip" in said:
        pytest.skip(f"a disk of its own needs root: {said['skip']}")
    full = test.hear()
    assert full["talked"] and full["fresh"] and full["lost"] > 0
    assert "CANNOT STORE" in full["status"] and "No space left on device" in full["status"] and "LOST" in full["status"]
    again = test.hear()
    assert again["done"] and "CANNOT STORE" not in again["status"] and "LOST" in again["status"]
    test.tell()
    end = test.hear()
    book, totals = end["book"], end["book"]["totals"]
    for ring in book["rings"]:
        assert ring["last_sequence"] == ring["read"] + ring["gaps"] + ring["dropped"], ring
    assert totals["events_recorded"] == totals["events_read"] + totals["events_lost"]
    assert totals["events_lost"] >= full["lost"] and totals["events_read"] == totals["events_stored"]
    tasks = book["tasks"]
    assert tasks["balance_ok"] and tasks["submitted"] <= again["submitted"]
    # A record may stand for a run of tasks, so this says no more than that the missing ones are explained.
    assert tasks["submitted"] == again["submitted"] or totals["events_lost"] > 0
    assert any("cannot store" in line for line in end["lines"]) and any("stores" in line for line in end["lines"])
    assert test.wait() == 0, test.errors()
    assert leftovers(root) == []
