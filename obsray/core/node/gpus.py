"""Machine: the GPUs of this node, and which of them get no new work because something is wrong with them.

What is wrong says whoever watches them (``obsray/gpu_watch``); here is what follows: what runs on such a GPU goes on,
its leases are asked back, and neither this node nor its bundles give it to anybody until it is well again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from obsray.core.node.intake import Malformed
from obsray.core.node.resources import Resources
from obsray.core.node.step import Step, require
from obsray.core.protocol.lifecycle import GpuState, advance
from obsray.gpu.nvml import Found
from obsray.gpu.words import Health
from obsray.telemetry.events import ProcessKind

if TYPE_CHECKING:
    from obsray.core.node.machine import Client, NodeMachine

REASON_CHARACTERS_MAX = 500


@dataclass(slots=True, eq=False)
class Gpu:
    """One GPU. ``reason`` is why it is out of service, empty while it is in."""

    number: int
    found: Found
    state: GpuState = GpuState.IN_SERVICE
    reason: str = ""


class Gpus:
    """``found`` are the GPUs by number."""

    def __init__(self, machine: NodeMachine, found: dict[int, Found]) -> None:
        self._machine = machine
        self.gpus = {number: Gpu(number, each) for number, each in found.items()}

    def described(self) -> list[dict[str, Any]]:
        """All of them, as ``gpus`` answers."""
        return [
            {
                "gpu": gpu.number, "bus_index": gpu.found.index, "uuid": gpu.found.uuid, "model": gpu.found.model,
                "memory_bytes": gpu.found.memory_bytes, "mig": gpu.found.mig, "state": gpu.state.name,
                "reason": gpu.reason,
            }
            for gpu in self.gpus.values()
        ]  # fmt: skip

    def judged(self, step: Step, client: Client, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """What watches the GPUs says that one is well or is not: ``gpu``, ``healthy``, ``reason``, ``xid``."""
        if client.kind is not ProcessKind.TOOL:
            raise PermissionError("only what watches the GPUs may say how they are")
        gpu = self.gpus.get(arguments.get("gpu", -1))
        healthy, reason, xid = arguments.get("healthy"), arguments.get("reason", ""), arguments.get("xid", 0)
        if gpu is None or not isinstance(healthy, bool) or not isinstance(reason, str) or not isinstance(xid, int):
            raise Malformed("gpu_health: not a GPU of this node, or nothing that can be said of one")
        if healthy != (gpu.state is GpuState.IN_SERVICE):
            self._change(step, gpu, healthy, reason[:REASON_CHARACTERS_MAX], max(0, min(xid, 0xFFFFFFFF)))
        return self.described()

    def _change(self, step: Step, gpu: Gpu, healthy: bool, reason: str, xid: int) -> None:
        advance(gpu, GpuState.IN_SERVICE if healthy else GpuState.OUT_OF_SERVICE)
        gpu.reason = "" if healthy else reason
        for place in self._places():
            if healthy:
                place.put_in(gpu.number)
            else:
                place.take_out(gpu.number, reason)
        health = Health.IN_SERVICE if healthy else Health.OUT_OF_SERVICE
        step.emit.gpu_health_changed(
            step.time_ns, self._machine.node, gpu.number, health, xid, step.emit.intern(reason)
        )
        self._machine.scheduler.offer_changed(step, gpu.number if not healthy else -1)
        self._machine.look(step)

    def _places(self) -> Iterator[Resources]:
        """The node's resources, and those of its bundles: a device of a bundle is out in both."""
        yield self._machine.resources
        for group in self._machine.groups.groups.values():
            for bundle in group.bundles:
                if bundle.pool is not None:
                    yield bundle.pool

    def check_invariants(self) -> None:
        out = {gpu.number for gpu in self.gpus.values() if gpu.state is GpuState.OUT_OF_SERVICE}
        for place in self._places():
            require(set(place.out) == out & set(place.capacity), f"{place.out} are out of service, and should be {out}")
