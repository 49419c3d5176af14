"""The numbers of the cluster as its head knows them, out of the records of all nodes: nodes, actors, control store."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from prometheus_client.core import Metric

from obsray.metrics import exposed
from obsray.metrics.catalog import NAMES_MAX, OTHER
from obsray.telemetry.columns import Batch, Texts
from obsray.telemetry.events import DeathCause, HangKind
from obsray.telemetry.processes import Unplaced

#: Event -> the state that an actor is in after it, and which of two of the same instant is the later one.
_AFTER = {
    "actor_created": ("pending", 0),
    "actor_placed": ("starting", 1),
    "actor_alive": ("alive", 2),
    "actor_restarting": ("restarting", 3),
}
_CAUSES = {int(cause): cause.name.lower() for cause in DeathCause}
#: Actors that are remembered to be dead, because records of different processes do not come in order.
_DEAD_KEPT = 10_000


class ClusterSeries:
    """States of nodes and actors. ``update`` folds a batch of any node."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.nodes: dict[bytes, tuple[int, str]] = {}
        #: Actor -> (time and order of the last event, state).
        self.actors: dict[bytes, tuple[tuple[int, int], str]] = {}
        self.classes: list[str] = []
        self.restarts: Counter[tuple[str, str]] = Counter()
        self.deaths: Counter[tuple[str, str]] = Counter()
        self.epoch = 0
        #: Whether the control store has no room, and since when that is known.
        self.read_only = (0, 0)
        #: First task of a hang and its kind -> when it was last told of, and whether that it is over.
        self._hangs: dict[tuple[bytes, int], tuple[int, bool]] = {}
        self._unplaced = Unplaced()
        self._class_of: dict[bytes, str] = {}
        self._dead: set[bytes] = set()
        self._dead_order: deque[bytes] = deque()

    def update(self, batch: Batch) -> None:
        """Fold the new records."""
        if "node_changed" in batch:
            columns = batch["node_changed"]
            for node, code, time_ns in zip(columns["node"], columns["state"], columns["time_ns"].tolist(), strict=True):
                if time_ns >= self.nodes.get(node.tobytes(), (0, ""))[0]:
                    self.nodes[node.tobytes()] = (time_ns, self.texts[int(code)])
        for event in ("control_started", "control_took_over"):
            if event in batch:
                self.epoch = max(self.epoch, int(batch[event]["epoch"].max()))
        self._classes(batch)
        for event in ("control_started", "control_took_over", "control_writable", "control_read_only"):
            if event in batch:
                newest = int(batch[event]["time_ns"].max())
                self.read_only = max(self.read_only, (newest, int(event == "control_read_only")))
        for event, (state, order) in _AFTER.items():
            if event in batch:
                columns = batch[event]
                for actor, time_ns in zip(columns["actor"], columns["time_ns"].tolist(), strict=True):
                    self._moved(actor.tobytes(), (time_ns, order), state)
        self._ended(batch)
        self._orphaned(batch)
        for event in ("hang_found", "hang_over"):
            if event in batch:
                columns = batch[event]
                for task, kind, at in zip(
                    columns["task"], columns["hang"].tolist(), columns["time_ns"].tolist(), strict=True
                ):
                    # Found and over at the same time is over.
                    told = (at, event == "hang_over")
                    self._hangs[task.tobytes(), kind] = max(told, self._hangs.get((task.tobytes(), kind), told))
        for key in [key for key, (_, over) in self._hangs.items() if over][:-_DEAD_KEPT]:
            del self._hangs[key]

    def _classes(self, batch: Batch) -> None:
        for event in ("actor_created", "actor_died"):
            if event in batch:
                for actor, code in zip(batch[event]["actor"], batch[event]["class_name"].tolist(), strict=True):
                    self._class_of.setdefault(actor.tobytes(), self._class_name(self.texts[code]))

    def _class_name(self, name: str) -> str:
        name = name or "unnamed"
        if name not in self.classes:
            if len(self.classes) >= NAMES_MAX:
                return OTHER
            self.classes.append(name)
        return name

    def _moved(self, actor: bytes, when: tuple[int, int], state: str) -> None:
        known = self.actors.get(actor)
        if actor not in self._dead and (known is None or known[0] <= when):
            self.actors[actor] = (when, state)

    def _ended(self, batch: Batch) -> None:
        for event, counts in (("actor_restarting", self.restarts), ("actor_died", self.deaths)):
            if event not in batch:
                continue
            columns = batch[event]
            for actor, cause in zip(columns["actor"], columns["cause"].tolist(), strict=True):
                name = _CAUSES.get(cause, "unknown")
                counts[self._class_of.get(actor.tobytes(), OTHER), name] += 1
        if "actor_died" in batch:
            for actor in batch["actor_died"]["actor"]:
                self._bury(actor.tobytes())

    def _orphaned(self, batch: Batch) -> None:
        """Actors that nobody had taken on when their creator ended are over."""
        if "actor_created" in batch:
            created = batch["actor_created"]
            for actor in created["actor"][created["detached"] == 0]:
                if self._unplaced.created(actor.tobytes()) is not None:
                    self._never_placed(actor.tobytes())
        for event in ("actor_placed", "actor_died"):
            if event in batch:
                for actor in batch[event]["actor"]:
                    self._unplaced.taken(actor.tobytes())
        for actor, _ in self._unplaced.ended(batch):
            self._never_placed(actor)

    def _never_placed(self, actor: bytes) -> None:
        if self.actors.get(actor, ((0, 0), ""))[1] == "pending":
            self._bury(actor)

    def _bury(self, actor: bytes) -> None:
        self.actors.pop(actor, None)
        if actor not in self._dead:
            self._dead.add(actor)
            self._dead_order.append(actor)
        while len(self._dead_order) > _DEAD_KEPT:
            oldest = self._dead_order.popleft()
            self._dead.discard(oldest)
            self._class_of.pop(oldest, None)

    def families(self) -> Iterator[Metric]:
        """The families of the head."""
        nodes, epoch = exposed.gauge("obsray_nodes"), exposed.gauge("obsray_control_epoch")
        by_state = Counter(state for _, state in self.nodes.values())
        for state in sorted({"alive", "suspected", "dead"} | by_state.keys()):
            nodes.add_metric([state], by_state[state])
        read_only = exposed.gauge("obsray_control_read_only")
        read_only.add_metric([], self.read_only[1])
        if self.epoch:
            epoch.add_metric([], self.epoch)
        actors = exposed.gauge("obsray_actors")
        living = Counter((self._class_of.get(actor, OTHER), state) for actor, (_, state) in self.actors.items())
        for labels, count in sorted(living.items()):
            actors.add_metric(labels, count)
        restarts, deaths = exposed.counter("obsray_actor_restarts"), exposed.counter("obsray_actor_deaths")
        for family, counts in ((restarts, self.restarts), (deaths, self.deaths)):
            for labels, count in sorted(counts.items()):
                family.add_metric(labels, count)
        hangs, there = (
            exposed.gauge("obsray_hangs"),
            Counter(kind for (_, kind), (_, over) in self._hangs.items() if not over),
        )
        for code in HangKind:
            hangs.add_metric([code.name.lower()], there[code])
        yield from (nodes, epoch, read_only, actors, restarts, deaths, hangs)
