"""A simulated run for people to read: when, who, what happened and why, one line for each event and fault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from obsray.telemetry.events import BY_NAME
from obsray.telemetry.explain import task_label
from obsray.telemetry.sentences import sentence
from obsray.testing.agenda import START_NS
from obsray.testing.virtual_control import CONTROL_ID

if TYPE_CHECKING:
    from obsray.testing.simulator import Simulator

#: What says how something fares, not what happened; and what its decision says already.
_UNTOLD = frozenset(
    {"resource_sample", "store_sample", "node_sample", "process_sample", "lease_candidate", "task_ended"}
)  # fmt: skip


class _Names:
    """Nodes by number, drivers by number, workers by node and pid."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._names = {node.id: node.name for node in simulator.nodes}
        self._names |= {driver.id: f"driver {number}" for number, driver in enumerate(simulator.drivers)}
        self._names |= {CONTROL_ID: "control store", b"": "fault"}
        if simulator.autoscaler is not None:
            self._names[simulator.autoscaler.id] = simulator.autoscaler.name
        self._names |= {worker: f"worker {pid} of {node.name}" for worker, (node, pid) in simulator.workers.items()}

    def process_label(self, process: bytes) -> str:
        return self._names.get(process) or process.hex()

    def task_label(self, task: bytes) -> str:
        return task_label(self._simulator.ledger.names.get(task, ""), task)


def lines(simulator: Simulator, about: bytes = b"") -> Iterator[str]:
    """All lines of a run, oldest first; with ``about`` only those that mention that id, and faults."""
    names = _Names(simulator)
    width = max(len(name) for name in names._names.values())
    for elapsed_ns, process, name, values in simulator.log.rows:
        if name in _UNTOLD:
            continue
        if process and about and about not in (process, *values) and not _inside(about, values):
            continue
        text = values[0] if not process else sentence(_record(elapsed_ns, process, name, values), names)
        yield f"{elapsed_ns / 1e6:11.3f} ms  {names.process_label(process):<{width}}  {text}"


def _inside(about: bytes, values: Iterable[Any]) -> bool:
    """Whether a task's results, or an actor's calls, are meant."""
    return any(type(value) is bytes and len(value) > len(about) >= 16 and value.startswith(about) for value in values)


def _record(elapsed_ns: int, process: bytes, name: str, values: tuple[Any, ...]) -> dict[str, Any]:
    record: dict[str, Any] = {"event": name, "process": process, "time_ns": START_NS + elapsed_ns}
    for field, value in zip(BY_NAME[name].fields, values, strict=True):
        if field.labels is not None:
            try:
                value = field.labels(value).name.lower()
            except ValueError:
                value = str(value)
        record[field.name] = value
    return record
