"""Placement groups as users hold them: made, waited for, looked up, removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from obsray.core import options as opts
from obsray.core.protocol import labels
from obsray.core.protocol import messages as m
from obsray.core.runtime.references import ObjectRef, counted
from obsray.core.runtime.serialization import serialize
from obsray.core.runtime.session import Session
from obsray.errors import PlacementGroupAlreadyExistsError, RaySystemError
from obsray.ids import NIL_WORKER, WORKER_ID_BYTES
from obsray.typed_ids import PlacementGroupID

Bundle = dict[str, float]
_EXAMPLE = 'for example [{"CPU": 1}, {"CPU": 1, "GPU": 1}]'


class PlacementGroup:
    """A handle of a placement group: bundles of resources that are reserved together. Equal by id; may be passed on."""

    def __init__(self, id: PlacementGroupID, bundle_cache: list[Bundle] | None = None) -> None:
        self.id = id
        self.bundle_cache = bundle_cache

    @staticmethod
    def empty() -> PlacementGroup:
        """No group: what is placed "in" it runs anywhere, also where children would go to their parent's group."""
        return PlacementGroup(PlacementGroupID(bytes(PlacementGroupID.SIZE)), [])

    @property
    def is_empty(self) -> bool:
        return self.id.is_nil()

    @property
    def bundle_specs(self) -> list[Bundle]:
        """The resources of each bundle."""
        if self.bundle_cache is None:
            found = session().request("groups", group=self.id.binary())
            if not found:
                raise ValueError(f"there is no placement group {self.id.hex()}")
            self.bundle_cache = shown(found[0]["bundles"])
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        return len(self.bundle_specs)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A reference that becomes this group once it is placed; ``TaskPlacementGroupRemoved`` if it is removed before.

        Raises ValueError for the empty group.
        """
        if self.is_empty:
            raise ValueError("the empty placement group is never placed; there is nothing to wait for")
        found = session()
        value = serialize(self).to_bytes()
        with found.lock:
            found.check_open()
            identifier = found.next_put()
            found.reservations.await_group(identifier, self.id.binary(), value)
            found.after()
        return counted(identifier)

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Whether the group is placed, waiting for it at most so long. Raises ValueError for a negative time."""
        if not isinstance(timeout_seconds, (int, float)) or isinstance(timeout_seconds, bool):
            raise TypeError(f"timeout_seconds={timeout_seconds!r}: must be a number of seconds")
        if timeout_seconds < 0:
            raise ValueError(f"timeout_seconds={timeout_seconds}: must be >= 0")
        if self.is_empty:
            return True
        found = session()
        described = found.request("groups", group=self.id.binary())
        if not described or described[0]["state"] in ("CREATED", "REMOVED"):
            return bool(described) and described[0]["state"] == "CREATED"
        reference = self.ready()
        ready, _ = found.values.wait([reference], 1, timeout_seconds)
        if not ready:
            return False
        with found.lock:
            entry = found.ownership.entries.get(bytes(reference))
            return entry is not None and not entry.failed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()}, bundles={self.bundle_cache})"

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self.id, self.bundle_cache)


def session() -> Session:
    """This process' session; a runtime is started if there is none, as for every other call."""
    from obsray.core.api import session as found

    return found()


def shown(bundles: list[dict[str, int]]) -> list[Bundle]:
    """Bundles as people write them."""
    return [{name: opts.floating(name, amount) for name, amount in bundle.items()} for bundle in bundles]


def read_bundles(bundles: Any) -> list[dict[str, int]]:
    """Bundles in fixed point. Raises TypeError or ValueError saying what is wrong with which."""
    if not isinstance(bundles, list):
        raise ValueError(f"bundles must be a list of dicts, {_EXAMPLE}; got {type(bundles).__name__}")
    if not bundles:
        raise ValueError(f"bundles must not be empty; {_EXAMPLE}")
    return [_read_bundle(index, bundle) for index, bundle in enumerate(bundles)]


def _read_bundle(index: int, bundle: Any) -> dict[str, int]:
    if not isinstance(bundle, Mapping) or not all(isinstance(name, str) and name for name in bundle):
        raise ValueError(f"bundle {index} must be a dict of resource to amount, {_EXAMPLE}; got {bundle!r}")
    if "object_store_memory" in bundle:
        raise ValueError(
            f"bundle {index}: object_store_memory cannot be reserved; the store is shared and spills to disk when full"
        )
    found = {}
    for name, amount in bundle.items():
        if name not in ("CPU", "GPU", "memory"):
            opts.check_resource(name)
        opts.check_amount(f"bundle {index}: {name}", amount)
        if name == "GPU" and amount > 1 and amount != int(amount):
            raise ValueError(f"bundle {index}: GPU={amount}: more than one GPU must be a whole number")
        found[name] = opts.fixed(name, amount)
    found = {name: amount for name, amount in found.items() if amount}
    if not found:
        raise ValueError(f"bundle {index} ({dict(bundle)!r}) reserves nothing: at least one amount must be above 0")
    return found


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str = "PACK",
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: dict[str, str] | None = None,
) -> PlacementGroup:
    """Reserve bundles of resources together, or not at all. Returns a handle at once; its ``wait()`` tells when.

    ``strategy``: PACK (few nodes), SPREAD (many), STRICT_PACK (one), STRICT_SPREAD (one for each bundle).
    ``topology_strategy={KEY: "STRICT_PACK"}``, in the place of ``strategy``: all on nodes that have the same value of
    the label KEY, such as "ray.io/gpu-domain", whichever that is.
    ``lifetime``: None (until the job that made it ends) or "detached". ``bundle_label_selector``: for each bundle the
    labels that its node must have. Raises ValueError or TypeError for bad values, and PlacementGroupAlreadyExistsError
    for a name that is taken in this namespace.
    """
    wanted = read_bundles(bundles)
    if strategy not in m.GROUP_STRATEGIES:
        raise ValueError(f"strategy={strategy!r}: must be one of {', '.join(m.GROUP_STRATEGIES)}")
    if lifetime not in (None, "detached"):
        raise ValueError(f'lifetime={lifetime!r}: must be None or "detached"')
    if not isinstance(name, str):
        raise TypeError(f"name={name!r}: must be a string")
    if topology_strategy is not None:
        strategy = _by_label(topology_strategy, strategy)
    target = NIL_WORKER
    if _soft_target_node_id is not None:
        if strategy != "STRICT_PACK":
            raise ValueError(f"_soft_target_node_id needs strategy STRICT_PACK, not {strategy}")
        target = node_id_of(_soft_target_node_id, "_soft_target_node_id")
    found = session()
    running, identifier = found.local.running, found.next_group(lifetime == "detached")
    spec = {
        "group": identifier,
        "name": name,
        "namespace": namespace_of(found),
        "strategy": strategy,
        "bundles": wanted,
        "selectors": _bundle_selectors(bundle_label_selector, len(wanted)),
        "detached": lifetime == "detached",
        "job": running.context.get("job", found.job) if running is not None else found.job,
        "target": target,
    }
    try:
        found.call_node(lambda number: m.CreateGroup(number, spec))
    except RaySystemError as error:
        if getattr(error, "kind", "") != "name_taken":
            raise
        raise PlacementGroupAlreadyExistsError(str(error)) from None
    return PlacementGroup(PlacementGroupID(identifier), shown(wanted))


def _by_label(given: Any, strategy: str) -> str:
    """The strategy that ``topology_strategy`` is. Raises TypeError or ValueError."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f"topology_strategy={given!r}: must be a dict of one label, {{'ray.io/gpu-domain': 'STRICT_PACK'}}"
        )
    if strategy != "PACK":
        raise ValueError(f"strategy={strategy!r} and topology_strategy exclude each other: leave strategy out")
    if len(given) != 1:
        raise ValueError(
            f"topology_strategy={dict(given)!r}: must name one label, as {{'ray.io/gpu-domain': 'STRICT_PACK'}}"
        )
    ((key, how),) = given.items()
    if how != "STRICT_PACK":
        raise ValueError(
            f"topology_strategy[{key!r}]={how!r}: must be 'STRICT_PACK', one value of the label for all bundles"
        )
    return m.PACK_BY_LABEL + labels.check_key(key, "topology_strategy")


def _bundle_selectors(given: Any, count: int) -> list[Any]:
    if given is None:
        return []
    if not isinstance(given, list):
        raise TypeError(f"bundle_label_selector must be a list with one dict for each bundle, got {given!r}")
    if len(given) != count:
        raise ValueError(f"bundle_label_selector has {len(given)} entries for {count} bundles")
    return [labels.parse(selector, f"bundle_label_selector[{index}]") for index, selector in enumerate(given)]


def node_id_of(text: Any, what: str) -> bytes:
    """The bytes of a node's id. Raises TypeError or ValueError naming ``what``."""
    if not isinstance(text, str):
        raise TypeError(f"{what}={text!r}: must be a node's id, as in obsray.nodes()[0]['NodeID']")
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != WORKER_ID_BYTES:
        raise ValueError(
            f"{what}={text!r}: must be {2 * WORKER_ID_BYTES} hex digits, as in obsray.nodes()[0]['NodeID']"
        )
    return value


def namespace_of(found: Session) -> str:
    """The namespace in which this code names things."""
    executor = found.executor
    if executor is not None and executor.actor is not None:
        return str(executor.actor.spec["namespace"])
    return found.namespace


def _checked(group: Any, what: str) -> PlacementGroup:
    if not isinstance(group, PlacementGroup):
        raise TypeError(f"{what} takes a PlacementGroup, got {type(group).__name__}")
    return group


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """End a group: tasks and actors in it are killed, those that wait for it fail. Twice is harmless."""
    group = _checked(placement_group, "remove_placement_group")
    if group.is_empty:
        return
    found = session()
    with found.lock:
        found.check_open()
        found.node.send(m.encode(m.RemoveGroup(group.id.binary())))
        found.after()
    # The answer comes from where the group is at home, and after the removal: who returns from here can count on it.
    found.request("groups", group=group.id.binary())


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group of this name. Raises ValueError if this namespace has none that has not been removed."""
    name = placement_group_name
    if not isinstance(name, str) or not name:
        raise ValueError(f"get_placement_group needs a name, got {name!r}")
    found = session()
    namespace = namespace_of(found)
    described = found.request("get_group", name=name, namespace=namespace)
    if described is None:
        raise ValueError(
            f"no placement group is called {name!r} in namespace {namespace!r}; "
            "`obsray list placement-groups` shows those that exist"
        )
    return PlacementGroup(PlacementGroupID(described["group"]), shown(described["bundles"]))


_SCHEDULING_STATES = {
    "CREATED": "FINISHED", "REMOVED": "REMOVED", "PREPARED": "SCHEDULING_STARTED", "RESCHEDULING": "QUEUED",
}  # fmt: skip


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What is known about one group, or about all, by id; ``{}`` for one that nobody remembers."""
    wanted = None if placement_group is None else _checked(placement_group, "placement_group_table").id.binary()
    rows = {row["group"].hex(): _row(row) for row in session().request("groups", group=wanted)}
    return rows if wanted is None else rows.get(wanted.hex(), {})


def _row(described: dict[str, Any]) -> dict[str, Any]:
    state, reason = described["state"], described["reason"]
    waiting = "INFEASIBLE" if reason in ("INFEASIBLE", "LABELS") else "NO_RESOURCES" if reason != "NONE" else "QUEUED"
    milliseconds = described["pending_seconds"] * 1000
    return {
        "placement_group_id": described["group"].hex(),
        "name": described["name"],
        "bundles": dict(enumerate(shown(described["bundles"]))),
        "bundles_to_node_id": {index: node.hex() for index, node in enumerate(described["nodes"])},
        "strategy": described["strategy"],
        "state": state,
        "is_detached": described["detached"],
        "creator_job_id": int(described["job"]).to_bytes(4, "big").hex(),
        "reason": described["deficit"],
        "stats": {
            "end_to_end_creation_latency_ms": milliseconds,
            "scheduling_latency_ms": milliseconds,
            "scheduling_attempt": described["attempts"],
            "highest_retry_delay_ms": 0.0,
            "scheduling_state": _SCHEDULING_STATES.get(state, waiting),
        },
    }


def get_current_placement_group() -> PlacementGroup | None:
    """The group that this task or actor runs in, None outside of groups and in drivers."""
    running = session().running()
    group = running.context.get("group") if running is not None else None
    if not group:
        return None
    assert running is not None
    return PlacementGroup(PlacementGroupID(group), shown(running.context["bundles"]))
