"""Machine: the jobs of drivers: what they say about them, and what ends with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from obsray.core.node.environments import runtime_of
from obsray.core.node.intake import Malformed
from obsray.core.node.step import ReportJob, Step
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import WorkerState
from obsray.telemetry.events import DeathCause, ProcessKind

if TYPE_CHECKING:
    from obsray.core.node.machine import Client, NodeMachine

PATHS_MAX = 1000
TEXT_CHARACTERS_MAX = 500
_U32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class JobDescription:
    """``told`` is what workers of the job get to know; ``runtime`` what its tasks run in, made now if ``eager``."""

    entrypoint: str
    namespace: str
    metadata: str
    runtime: dict[str, Any] | None
    eager: bool
    told: dict[str, Any]

    @classmethod
    def read(cls, description: dict[str, Any]) -> JobDescription:
        """What ``DescribeJob`` carries. Raises TypeError or ValueError for what cannot be."""
        path = description.get("sys_path") or ()
        if not isinstance(path, list | tuple) or not all(isinstance(entry, str) for entry in path):
            raise TypeError("sys_path is not a list of text")
        if len(path) > PATHS_MAX:
            raise ValueError(f"sys_path has more than {PATHS_MAX} entries")
        metadata, runtime = description.get("metadata") or {}, description.get("runtime")
        if not isinstance(metadata, dict) or not isinstance(runtime, dict | None):
            raise TypeError("metadata or runtime is not a dict")
        shown = json.dumps({str(name): str(value) for name, value in metadata.items()}, sort_keys=True)
        return cls(
            entrypoint=str(description.get("entrypoint", ""))[:TEXT_CHARACTERS_MAX],
            namespace=str(description.get("namespace", ""))[:TEXT_CHARACTERS_MAX],
            metadata=shown[:TEXT_CHARACTERS_MAX] if metadata else "",
            runtime=runtime,
            eager=description.get("eager") is not False,
            told=dict(description),
        )


class Jobs:
    """The jobs of this node's drivers, and what is known of those of others."""

    def __init__(self, machine: NodeMachine) -> None:
        self.machine = machine
        #: How many there have been here; in a cluster it starts at a number that no other node's reaches.
        self.count = 0
        #: What drivers said about their jobs.
        self.descriptions: dict[int, dict[str, Any]] = {}

    def describe(self, step: Step, client: Client, message: m.DescribeJob) -> None:
        """A driver says what its job is."""
        machine = self.machine
        if client.kind is not ProcessKind.DRIVER or client.described:
            raise Malformed("a job is described once, by its driver")
        try:
            description = JobDescription.read(message.description)
        except (KeyError, TypeError, ValueError) as error:
            raise Malformed(f"DescribeJob: {error!r}") from None
        client.described = True
        self.descriptions[client.job] = description.told
        machine.abroad.job_described(step, client.job, client.id, description.told)
        machine.pool.environments.job_paths[client.job] = description.told.get("sys_path") or ()
        intern = step.emit.intern
        step.emit.job_started(
            step.time_ns, client.job, client.id, client.pid & _U32, intern(description.entrypoint),
            intern(description.namespace), intern(description.metadata),
        )  # fmt: skip
        step.effects.append(ReportJob(client.job, client.id, client.pid, description.entrypoint, description.namespace))
        if description.runtime and description.eager:
            runtime = runtime_of(description.runtime)
            machine.pool.environments.define(runtime, description.runtime, client.job)
            machine.pool.prepare(step, runtime)

    def of(self, client_id: bytes) -> int:
        """Whose job a client works for; 0 if nobody has described it."""
        machine = self.machine
        worker = machine.pool.workers.get(client_id)
        if worker is not None:
            return worker.job
        client = machine.clients.get(client_id)
        return client.job if client is not None and (client.described or client.foreign) else 0

    def end(self, step: Step, job: int) -> None:
        """A driver ended: of its job only detached actors stay, and what works for them."""
        machine = self.machine
        stay = machine.actors.detached_workers() | machine.guests.detached_workers()
        # Whether those of other nodes stay is decided there.
        stay |= {
            lease.worker.id
            for lease in machine.scheduler.leases.values()
            if not lease.demand.actor and machine.peers.home_of(lease.demand.client) is not None
        }
        found = list(stay)
        while found:
            # Tasks and actors of a detached actor are its own.
            client = found.pop()
            theirs = {lease.worker.id for lease in machine.scheduler.leases.values() if lease.demand.client == client}
            new = (theirs | machine.actors.workers_of(client)) - stay
            stay |= new
            found += new
        machine.actors.job_ended(step, job, stay)
        for worker in list(machine.pool.workers.values()):
            if worker.job == job and worker.id not in stay and worker.state is WorkerState.LEASED:
                machine.pool.kill(step, worker, DeathCause.OWNER_DIED, f"the driver of its job ({job:08x}) ended")
        machine.pool.job_ended(step, job)
