"""Shell: the end of a node, in order: nothing of it is left but its logs and telemetry."""

from __future__ import annotations

import shutil
import signal
import time
from typing import TYPE_CHECKING

from obsray.core.node.doorman import LastDoor
from obsray.core.node.services import wait_all
from obsray.core.node.workers import SIGNAL_KILL, Ended
from obsray.core.protocol.lifecycle import WorkerState
from obsray.core.protocol.messages import Exit, NodeLeaves, encode
from obsray.core.system.processes import clean_session
from obsray.core.transport import chaos
from obsray.telemetry import session_file

if TYPE_CHECKING:
    from obsray.core.node.shell import Node

#: A worker in the middle of a task cannot end in order; it gets only this long.
BUSY_GRACE_SECONDS = 0.3
#: The collector of a node that has hardly begun has to start before it can give its records to the head.
COLLECTOR_SECONDS_MAX = 4.0


def end(node: Node) -> None:
    """End in order; after this nothing of the runtime is left but its logs and telemetry."""
    grace = node.config.shutdown_grace_seconds
    node.log(f"ending: {node.ending}")
    # Nodes that the autoscaler has started here leave while all else is still there.
    node.nursery.close(2 * grace + 1)
    # 1. Nobody new comes in, and the other nodes know, after what workers here have printed so far.
    node.log_mirror.look()
    node.neighbours.send_all(encode(NodeLeaves(node.ending, _is_the_last(node))))
    if node.options.clustered and not node.fenced:
        node.reporter.leave(node.ending)
    node.neighbours.close()
    last_door = None
    if node.door is not None:
        node.door.close()
        if node.options.clustered and not node.options.head:
            last_door = LastDoor(node.door)
            node.services.start({"collector"})
    node.listener.close()
    node.machine.pool.draining = True
    # 2. Everybody is told, also who was stopped; workers end by themselves, what does not is killed.
    node.forks.wake()
    for link in node.links.values():
        link.send(encode(Exit(node.ending)))
    _end_workers(node, 0.0 if node.fenced else grace)
    # 3. Files and threads of the object store.
    node.transfers.close()
    node.disk.close(grace)
    node.environments.close()
    # 4. What serves people, and what the cluster's state lives in.
    node.reporter.close(grace)
    node.services.end({"dashboard", "control", "gpu-watch"}, grace)
    # 5. The last records are written before the collector reads for the last time.
    now = time.time_ns()
    node.emitter.node_stopped(now, node.node, node.emitter.intern(node.ending))
    chaos.deactivate()
    node.emitter.close(now)
    node.services.end({"collector"}, grace if last_door is None else max(grace, COLLECTOR_SECONDS_MAX))
    if last_door is not None:
        last_door.close()
    # 6. The zygote ends what workers may have left running, then itself.
    node.forks.close()
    wait_all([node.forks.pid], grace, node.log)
    if node.old_sessions.is_alive():
        node.old_sessions.join(grace)
    # 7. Sockets, spilled objects, memory. Clients see their links close only now, when all is gone.
    clean_session(node.session)
    shutil.rmtree(node.sockets, ignore_errors=True)
    node.reactor.shutdown()
    node.arena.close()


def _is_the_last(node: Node) -> bool:
    """Whether the cluster ends with this node: no control store stands by, or may be started where its state is."""
    known = session_file.read(node.session).get("control_addresses") or ()
    return node.options.head and node.options.storage is None and len(known) < 2


def _end_workers(node: Node, grace: float) -> None:
    started = time.monotonic()
    workers = node.machine.pool.workers
    for worker in workers.values():
        # One that somebody has stopped could not hear that it shall end.
        node.forks.signal(worker.id, signal.SIGCONT)
    while workers:
        waited = time.monotonic() - started
        for worker in list(workers.values()):
            busy = worker.state in (WorkerState.LEASED, WorkerState.STARTING)
            if waited >= (min(grace, BUSY_GRACE_SECONDS) if busy else grace) and not worker.killed:
                worker.killed = True
                node.forks.signal(worker.id, SIGNAL_KILL)
        if waited >= 2 * grace + 1 or node.forks.socket is None:
            node.log(f"{len(workers)} workers did not end")
            # The zygote kills them when it ends; this is the last chance to record it.
            for name in list(workers):
                node.do(node.machine.worker_ended, Ended(name, node.forks.pids.get(name, 0), 0, SIGNAL_KILL))
            return
        node.turn(0.05)
