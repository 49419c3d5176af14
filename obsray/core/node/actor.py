"""One actor as its home knows it, and what it asks of a worker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from obsray.core.node.demands import Demand, describe
from obsray.core.node.environments import Runtime, of_job, runtime_of
from obsray.core.node.placement import Placement, placement_of
from obsray.core.node.resources import Amounts, amounts_of
from obsray.core.protocol.environment_key import environment_id
from obsray.core.protocol.lifecycle import ActorState
from obsray.core.protocol.messages import WantActor
from obsray.ids import NIL_WORKER
from obsray.telemetry.events import DeathCause

TEXT_CHARACTERS_MAX = 500


@dataclass(slots=True, eq=False)
class Actor:
    """One actor. ``cause``, ``error`` and ``detail`` say why it died last.

    ``asked`` is the node that looks for a worker since ``attempt`` asked it to; empty while none does.
    """

    id: bytes
    owner: bytes
    spec: dict[str, Any]
    class_name: str
    name: str
    namespace: str
    detached: bool
    restarts_max: int
    need: Amounts
    hold: Amounts
    runtime: Runtime
    shown: str
    waiting_since: float
    placement: Placement
    label: int = 0
    state: ActorState = ActorState.DEPENDENCIES_UNREADY
    incarnation: int = 0
    worker: bytes = NIL_WORKER
    lease: int = 0
    asked: bytes = b""
    attempt: int = 0
    placed_at: float = 0.0
    watchers: dict[bytes, None] = field(default_factory=dict)
    leaving: bool = False
    #: Whether its constructor has ever returned.
    lived: bool = False
    #: Processes in a row that ended before the constructor had returned.
    failures: int = 0
    cause: DeathCause = DeathCause.INTENDED
    error: bytes = b""
    detail: str = ""

    @classmethod
    def read(cls, client: bytes, spec: dict[str, Any], job: int, now: float) -> Actor:
        """What ``CreateActor`` asks for. Raises KeyError, TypeError or ValueError for what cannot be."""
        class_name, restarts_max = str(spec["class_name"])[:TEXT_CHARACTERS_MAX], int(spec["restarts_max"])
        for name, kind in (("actor", bytes), ("task", bytes), ("job", int), ("resources", dict), ("held", dict)):
            if not isinstance(spec[name], kind):
                raise TypeError(f"{name} is not {kind.__name__}")
        if len(spec["actor"]) != 16 or len(spec["task"]) != 16:
            raise ValueError("an id of the wrong size")
        # Placed where all of ``resources`` is free; what it keeps cannot be more than that.
        hold = amounts_of(spec["held"])
        need = {**hold, **{name: max(n, hold.get(name, 0)) for name, n in amounts_of(spec["resources"]).items()}}
        runtime = replace(of_job(runtime_of(spec["runtime"]), job), fresh=True)
        made = f"env:{environment_id(runtime.key).hex()}" if runtime.key else ""
        where = str(spec.get("where", ""))[:TEXT_CHARACTERS_MAX].strip()
        shown = " ".join(filter(None, (class_name, describe(need), made, where)))
        return cls(
            spec["actor"], client, spec, class_name, str(spec["name"]), str(spec["namespace"]), bool(spec["detached"]),
            max(-1, min(restarts_max, 0x7FFFFFFF)), need, hold, runtime, shown, now,
            placement_of(spec.get("placement")),
        )  # fmt: skip

    def demand(self) -> Demand:
        """What it asks of the scheduler."""
        return Demand(
            self.owner, -1, self.class_name, self.need, self.hold, self.runtime, actor=self.id, label=self.label,
            placement=self.placement,
        )  # fmt: skip

    def wanted(self) -> WantActor:
        """What it asks of another node."""
        described = {
            "owner": self.owner,
            "job": self.runtime.job,
            "name": self.class_name,
            "label": self.shown,
            "need": self.need,
            "hold": self.hold,
            "runtime": self.spec["runtime"],
            "placement": self.spec.get("placement"),
        }
        return WantActor(self.id, self.attempt, described)

    @property
    def called(self) -> str:
        """Its name as a part of a sentence about its end; empty if it has none."""
        return f"; it was called {self.name!r} in namespace {self.namespace!r}" if self.name else ""
