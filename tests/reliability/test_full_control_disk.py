"""The disk of the control store's storage is full: check B5 of docs/reliability.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.programs import conserved, views

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(150)

PROGRAM = """
from obsray.cluster_utils import Cluster
from obsray.experimental import internal_kv as kv
from obsray import exceptions
from obsray.telemetry import session_file
from pathlib import Path
from tests.reliability.oracle import Oracle

# A mount namespace of its own, with a small disk for the control store.
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x00020000) == 0, os.strerror(ctypes.get_errno())
disk = Path(os.environ["DISK"])
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], check=True)

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "storage": str(disk / "control")})
context = obsray.init(address=cluster.address)
session = context.address_info["session_dir"]
oracle = Oracle(Path(session))

@obsray.remote
def small(x):
    return x

@obsray.remote
class Named:
    def value(self):
        return 7

named = Named.options(name="named").remote()
assert obsray.get(named.value.remote(), timeout=60) == 7
kv.put("key", "kept")
pid = session_file.read(Path(session))["control_pid"]
filler = disk / "filler"
with open(filler, "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
refused = None
for number in range(2000):
    try:
        kv.put(f"more {number}", bytes(3000))
    except exceptions.RpcError as error:
        refused = str(error)
        break
kept = kv.keys("more ")
say(
    session=session, refused=refused, read=kv.get("key") == b"kept", whole=len(kept) == number,
    named=obsray.get(obsray.get_actor("named").value.remote(), timeout=60) == 7,
    tasks=obsray.get([small.remote(x) for x in range(100)], timeout=60) == list(range(100)),
    alive=all(node["Alive"] for node in obsray.nodes()),
)
filler.unlink()
for _ in range(300):
    try:
        kv.put("key", "again")
        break
    except exceptions.RpcError:
        time.sleep(0.1)
late = Named.options(name="late").remote()
say(
    again=kv.get("key") == b"again", late=obsray.get(late.value.remote(), timeout=60) == 7,
    same=session_file.read(Path(session))["control_pid"] == pid, kept=kv.keys("more ") == kept,
)
del named, late
oracle.check("control_read_only")
say(oracle=True)
listen()
obsray.shutdown()
cluster.shutdown()
"""


def test_with_a_full_disk_the_control_store_answers_and_keeps_changes_again_when_there_is_room(program, tmp_path):
    """B5: reads go on, changes are refused with a reason, nothing is started again, and it is told."""
    disk = tmp_path / "disk"
    disk.mkdir()
    test = program(PROGRAM, DISK=str(disk))
    full = test.hear()
    assert "has no room" in full.pop("refused") and "control.db" in full.get("refused", "control.db")
    session = Path(full.pop("session"))
    assert all(full.values()), full
    again = test.hear()
    assert all(again.values()), again
    assert test.hear() == {"oracle": True}
    told = [row["event"] for row in views(session).troubles(200)]
    assert "control_read_only" in told
    conserved(session)
    test.tell()
    assert test.wait() == 0, test.errors()


def test_a_damaged_storage_is_refused_in_a_sentence_and_stays_as_it_was(tmp_path):
    """B5: one flipped bit in the middle of the log; the process says where, and changes nothing."""
    from tests.integration.test_control_process import COMMAND, make_session

    session = make_session(tmp_path)
    storage = tmp_path / "storage"
    writer = (
        "import os, sys; from pathlib import Path; from obsray.core.control.sqlite_storage import SqliteStorage as S\n"
        "s = S(Path(sys.argv[1])); s.acquire(); s.load()\n"
        "for n in range(20): s.append([bytes(1000)])\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", writer, str(storage)], check=True, timeout=60)
    log = storage / "control.db-wal"
    damaged = bytearray(log.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    log.write_bytes(damaged)
    ended = subprocess.run(
        [*COMMAND, str(session), "--storage", str(storage)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1 and f"{log} is damaged at byte " in ended.stderr and "Traceback" not in ended.stderr
    assert log.read_bytes() == bytes(damaged)
