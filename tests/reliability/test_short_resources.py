"""Memory, disk and descriptors run out: checks B1, B2, B3, B7, B8 and B9 of docs/reliability.md."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.programs import conserved, leftovers, views
from tests.reliability.control_groups import control_group

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(150 if "OBSRAY_DESCRIPTORS" not in os.environ else 600)

MIB = 1 << 20
#: ``OBSRAY_DESCRIPTORS=256`` asks for what B9 says: some 250 actors, each a process, use them up.
DESCRIPTORS = int(os.environ.get("OBSRAY_DESCRIPTORS", "96"))

FULL = """
import numpy as np
from pathlib import Path
from obsray import exceptions
from tests.reliability.oracle import Oracle

# A mount namespace of its own, where shared memory is tiny.
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x00020000) != 0:
    say(skip=os.strerror(ctypes.get_errno()))
    sys.exit()
for command in ("mount --make-rprivate /", "mount -t tmpfs -o size=4m none /dev/shm"):
    done = subprocess.run(command.split(), capture_output=True, text=True)
    if done.returncode != 0:
        say(skip=done.stderr)
        sys.exit()
context = start(object_store_memory=48 << 20)
session = context.address_info["session_dir"]
oracle = Oracle(Path(session))

@obsray.remote
def small(x):
    return x

def megabyte(x):
    return np.full(1 << 20, x, np.uint8)

kept = [obsray.put(megabyte(x)) for x in range(30)]
whole = all(int(obsray.get(ref)[-1]) == x for x, ref in enumerate(kept))
say(whole=whole)

# A disk that is full soon.
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", session + "/spill"], check=True)
error = None
try:
    for x in range(30, 120):
        kept.append(obsray.put(megabyte(x)))
except exceptions.ObjectStoreFullError as caught:
    error = str(caught)
me = obsray.get_runtime_context().get_worker_id()[:8]
say(error=error, me=me, kept=len(kept), small=obsray.get([small.remote(x) for x in range(20)]) == list(range(20)))
# Room again: also what could not be brought back from the disk meanwhile is whole.
for ref in kept:
    try:
        obsray.get(ref)
    except exceptions.ObjectLostError as caught:
        assert "no room" in str(caught)
        break
del ref, kept[-12:]
whole = all(int(obsray.get(ref)[-1]) == x for x, ref in enumerate(kept))
say(whole=whole)
del kept[:]
again = [obsray.put(megabyte(x)) for x in range(20)]
say(again=all(int(obsray.get(ref)[-1]) == x for x, ref in enumerate(again)))
del again
oracle.check("object_spilled", "object_allocation_failed")
say(oracle=True)
obsray.shutdown()
"""


def test_shared_memory_and_disk_may_be_full_and_values_stay_whole(program, root):
    """B1, B2, B3: no SIGBUS wherever memory is short, errors with sizes and holders, and it goes on with room."""
    test = program(FULL, OBSRAY_STORE_WAIT_SECONDS_MAX="2")
    said = test.hear()
    if "skip" in said:
        pytest.skip(f"no mount namespace can be made here: {said['skip']}")
    assert test.hear() == {"whole": True}
    full = test.hear()
    assert full["small"] is True and 35 <= full["kept"] < 60
    assert "MiB" in full["error"] and "disk" in full["error"], full["error"]
    # Who has the most: the program itself.
    assert f"most belongs to {full['me']}" in full["error"], full["error"]
    assert test.hear() == {"whole": True}
    assert test.hear() == {"again": True}
    assert test.hear() == {"oracle": True}
    assert test.wait() == 0, test.errors()
    assert leftovers(root) == []


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group of 450 MiB."""
    for group in control_group("memory", "obsray-guard"):
        (group / "memory.limit_in_bytes").write_text(str(450 * MIB))
        yield group


GREEDY = """
from obsray import exceptions

open(os.environ["GROUP"] + "/cgroup.procs", "w").write(str(os.getpid()))
from pathlib import Path
from tests.reliability.oracle import Oracle

context = start(num_cpus=4, object_store_memory=32 << 20, _system_config={"memory_usage_ratio_max": 0.8})
oracle = Oracle(Path(context.address_info["session_dir"]))

@obsray.remote
def eat(megabytes, seconds):
    kept = []
    for _ in range(megabytes // 10):
        kept.append(bytearray(b"x" * (10 << 20)))
        time.sleep(0.1)
    time.sleep(seconds)
    return megabytes

for ref in [eat.remote(80, 0.5) for _ in range(4)]:
    say(value=obsray.get(ref, timeout=100))
try:
    obsray.get(eat.options(max_retries=0).remote(2000, 0), timeout=100)
except exceptions.OutOfMemoryError as error:
    say(error=str(error))
say(after=obsray.get(eat.remote(10, 0), timeout=60))
del ref
oracle.check("memory_pressure", "worker_died", "task_retried")
say(oracle=True)
listen()
obsray.shutdown()
"""


def test_when_memory_runs_out_the_newest_task_that_may_run_again_goes_first_and_all_end_well(program, memory_group):
    """B7, B8: one at a time, with the numbers, and others and the node live on."""
    test = program(GREEDY, GROUP=str(memory_group))
    session = test.hear()["directory"]
    assert [test.hear() for _ in range(4)] == [{"value": 80}] * 4
    error = test.hear()["error"]
    assert "was killed" in error and "450.0 MiB" in error and "it held" in error
    assert test.hear() == {"after": 10}
    assert test.hear() == {"oracle": True}
    view = views(session)
    troubles = view.troubles(200)
    # One at a time: who was chosen is dead before the next is.
    pressed = [row["worker"] for row in view.store.rows("memory_pressure")]
    chosen = {row["worker"]: row["time_ns"] for row in view.store.rows("memory_pressure")}
    died = {row["worker"]: row["time_ns"] for row in view.store.rows("worker_died")}
    assert pressed and len(chosen) == len(pressed), "one was chosen twice"
    for first, second in itertools.pairwise(sorted(chosen, key=chosen.__getitem__)):
        assert died[first] <= chosen[second]
    assert {row["fields"]["cause"] for row in troubles if row["event"] == "worker_died"} == {"oom"}
    conserved(session)
    test.tell()
    assert test.wait() == 0, test.errors()


EXHAUSTED = """
import resource
from pathlib import Path
from tests.reliability.oracle import Oracle

oracle = Oracle(Path(start().address_info["session_dir"]))

@obsray.remote
class Counter:
    def __init__(self):
        self.calls = 0
    def count(self):
        self.calls += 1
        return self.calls

@obsray.remote(max_retries=-1)
def small(x):
    return x

counter = Counter.remote()
obsray.get(counter.count.remote())
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
taken = []
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    full = error.errno
references = [small.remote(x) for x in range(50)]
calls = [counter.count.remote() for _ in range(50)]
say(full=full, calls=obsray.get(calls, timeout=60) == list(range(2, 52)))
for fd in taken:
    os.close(fd)
say(values=obsray.get(references, timeout=60) == list(range(50)))
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
del counter, calls, references
oracle.check()
say(oracle=True)
obsray.shutdown()
"""


def test_without_descriptors_a_program_waits_and_goes_on_when_there_are_some(program, root):
    """B9: what is connected works on, what needs a new connection is tried again."""
    test = program(EXHAUSTED)
    session = test.hear()["directory"]
    assert test.hear() == {"full": 24, "calls": True}
    assert test.hear() == {"values": True}
    assert test.hear() == {"oracle": True}
    assert test.wait() == 0, test.errors()
    conserved(session)
    assert leftovers(root) == []


EXHAUSTED_NODE = """
import resource
from obsray import exceptions

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
from pathlib import Path
from tests.reliability.oracle import Oracle

oracle = Oracle(Path(start().address_info["session_dir"]))

@obsray.remote(num_cpus=0)
class Idle:
    def value(self):
        return 1

@obsray.remote
def small(x):
    return x

first = Idle.remote()
assert obsray.get(first.value.remote(), timeout=60) == 1
actors = [Idle.remote() for _ in range(ACTORS)]
references = [actor.value.remote() for actor in actors]
ready, waiting = obsray.wait(references, num_returns=len(references), timeout=4)
errors = set()
for reference in ready:
    try:
        obsray.get(reference)
    except exceptions.RayError as error:
        errors.add(type(error).__name__)
short = bool(waiting or errors)
# What is connected works on all the while.
connected = obsray.get(first.value.remote(), timeout=60) == 1
del actors, references, ready, waiting
values = None
for _ in range(20):
    try:
        values = obsray.get([small.remote(x) for x in range(50)], timeout=10)
        break
    except (exceptions.RayError, exceptions.GetTimeoutError):
        continue
again = Idle.remote()
say(
    short=short, errors=sorted(errors), connected=connected, values=values == list(range(50)),
    again=obsray.get(again.value.remote(), timeout=60) == 1,
)
del first, again
# Reading the records takes more than there are.
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
oracle.check()
say(oracle=True)
listen()
obsray.shutdown()
"""


def test_a_node_without_descriptors_lives_and_serves_again_when_there_are_some(program, root):
    """B9: as with RLIMIT_NOFILE 256 and 250 actors, in small: 96 descriptors in every process of the runtime."""
    actors = str(max(90, DESCRIPTORS - 6))
    test = program(EXHAUSTED_NODE.replace("DESCRIPTORS", str(DESCRIPTORS)).replace("ACTORS", actors))
    session = test.hear()["directory"]
    said = test.hear()
    errors = said.pop("errors")
    assert all(said.values()), said
    assert set(errors) <= {"ActorDiedError", "WorkerCrashedError", "ActorUnavailableError"}, errors
    assert test.hear() == {"oracle": True}
    # Each that could not start is tried again with growing pauses.
    assert len(views(session).workers()) < 1000
    conserved(session)
    test.tell()
    assert test.wait() == 0, test.errors()
    assert leftovers(root) == []


CROWDED = """
from obsray import exceptions

group = os.environ["GROUP"]
with open(group + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
from pathlib import Path
from tests.reliability.oracle import Oracle

oracle = Oracle(Path(start().address_info["session_dir"]))

@obsray.remote(num_cpus=0)
class Idle:
    def value(self):
        return 1

first = Idle.remote()
assert obsray.get(first.value.remote(), timeout=60) == 1

def limit(text):
    with open(group + "/pids.max", "w") as file:
        file.write(str(text))

limit(int(open(group + "/pids.current").read()) + 6)
actors = [Idle.remote() for _ in range(12)]
references = [actor.value.remote() for actor in actors]
ready, waiting = obsray.wait(references, num_returns=12, timeout=4)
errors = set()
for reference in ready:
    try:
        obsray.get(reference)
    except exceptions.RayError as error:
        errors.add(type(error).__name__)
connected = obsray.get(first.value.remote(), timeout=60) == 1
short = bool(waiting or errors)
limit("max")
again = Idle.remote()
say(
    short=short, errors=sorted(errors), connected=connected,
    again=obsray.get(again.value.remote(), timeout=60) == 1,
    over=len(obsray.wait(references, num_returns=12, timeout=60)[0]) == 12,
)
del first, again, actors, references, ready, waiting, reference
oracle.check()
say(oracle=True)
listen()
obsray.shutdown()
"""


@pytest.fixture
def process_group() -> Iterator[Path]:
    """A control group that counts processes and threads."""
    yield from control_group("pids", "obsray-crowd")


def test_when_no_process_may_be_started_what_runs_goes_on_and_the_rest_comes_later(program, process_group):
    """B9: ``pids.max`` just above what there is."""
    test = program(CROWDED, GROUP=str(process_group))
    session = test.hear()["directory"]
    said = test.hear()
    errors = said.pop("errors")
    assert all(said.values()), said
    assert set(errors) <= {"ActorDiedError"}, errors
    assert test.hear() == {"oracle": True}
    assert len(views(session).workers()) < 500
    conserved(session)
    test.tell()
    assert test.wait() == 0, test.errors()
