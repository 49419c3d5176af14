"""A simulated run as a session directory, so that whatever reads telemetry can be tried on it."""

from __future__ import annotations

import time
from pathlib import Path
from struct import pack_into

from obsray.telemetry import session_file
from obsray.telemetry.events import BY_NAME, ProcessKind
from obsray.telemetry.spine import Ring
from obsray.testing.agenda import START_NS
from obsray.testing.recorded_session import DEAD_PID
from obsray.testing.simulator import Simulator
from obsray.testing.virtual_node import NODE_ID

#: Fields that are instants.
_INSTANTS = frozenset({"dispatched_at", "arrived_at", "started_at", "first_at"})


def write_session(run: Simulator, directory: Path) -> Path:
    """Write what a simulation recorded, as a session that is over: it ends now, and is as long as it was."""
    (directory / "rings").mkdir(parents=True)
    (directory / "telemetry").mkdir()
    log = run.log
    # What faults did no process tells.
    rows = [row for row in log.rows if row[1]]
    begin, end = START_NS + rows[0][0], START_NS + rows[-1][0]
    shift = time.time_ns() - end
    drivers = {driver.id for driver in run.drivers}
    rings: dict[bytes, Ring] = {}
    for elapsed_ns, process, event, values in rows:
        ring = rings.get(process)
        if ring is None:
            kind = ProcessKind.DRIVER if process in drivers else ProcessKind.WORKER
            kind = ProcessKind.NODE if process == NODE_ID else kind
            ring = rings[process] = Ring(directory / "rings", process, kind, NODE_ID)
        told = []
        for field, value in zip(BY_NAME[event].fields, values, strict=True):
            moved = value + shift if field.name in _INSTANTS and value else value
            told.append(ring.intern(value) if field.code == "str" else moved)
        getattr(ring, event)(START_NS + elapsed_ns + shift, *told)
    for process in rings:
        for path in (directory / "rings").glob(f"{process.hex()}.*.ring"):
            with open(path, "r+b") as file:
                header = bytearray(file.read(32))
                pack_into("<I", header, 12, DEAD_PID)
                file.seek(0)
                file.write(header)
    session_file.update(
        directory, session=directory.name, directory=str(directory), node=NODE_ID.hex(), node_pid=DEAD_PID,
        started_at_ns=begin + shift, stopped_at_ns=end + shift,
        # Nodes count in ten-thousandths.
        resources={"CPU": int(run.scenario.cpus * 10_000)},
    )  # fmt: skip
    return directory
