"""The control machine, table by table: what it promises, and what it refuses."""

from __future__ import annotations

import hashlib

import pytest

from obsray.core.control import actors, changes, jobs, kv, membership
from obsray.core.control.journal import sealed
from obsray.core.control.machine import ControlMachine, from_journal, journal_entry
from obsray.core.control.step import Instant, Refusal, Refuse, Refused, Reply
from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol.lifecycle import ActorState, JobState, NodeState

NODE, OTHER_NODE = b"nodenode", b"othernod"
DRIVER = b"driver01"
ACTOR = b"driver01" + (2 << 56 | 1).to_bytes(8, "big")
SECOND_NS = 1_000_000_000


class Store:
    """A machine with a clock that only moves when told to, and request ids that never repeat by accident."""

    def __init__(self, **settings: float) -> None:
        self.machine = ControlMachine(7, membership.MembershipSettings(**settings))
        self.seconds = 100.0
        #: How wrong the wall clock is.
        self.wall_seconds_off = 0.0
        self.requests = 0
        self.events: list[pb.Change] = []

    def now(self) -> Instant:
        wall_seconds = 1_700_000_000 + self.seconds + self.wall_seconds_off
        return Instant(int(self.seconds * SECOND_NS), int(wall_seconds * SECOND_NS))

    def step(self, request):
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            self.requests += 1
            request.request_id = b"request %d" % self.requests
        effects, events = self.machine.step(self.now(), request)
        self.machine.check_invariants()
        self.events += events
        (effect,) = effects
        return effect

    def ask(self, request):
        effect = self.step(request)
        assert isinstance(effect, Reply), effect
        return effect.message

    def refused(self, request) -> Refusal:
        before = self.machine.history.last
        effect = self.step(request)
        assert isinstance(effect, Refuse), effect
        assert effect.detail
        assert self.machine.history.last == before, "a refused request changed something"
        return effect.refusal

    def look(self) -> list[pb.DeclareNode]:
        found = self.machine.overdue(self.now())
        for stimulus in found:
            self.step(stimulus)
        return found

    def pass_time(self, seconds: float) -> list[pb.DeclareNode]:
        """Let time pass as the shell does: looking at the clock several times a second."""
        found, until = [], self.seconds + seconds
        while self.seconds < until:
            self.seconds = min(self.seconds + 0.25, until)
            found += self.look()
        return found

    def node(self, node: bytes = NODE) -> int:
        return self.ask(pb.RegisterNodeRequest(node=pb.NodeDescription(node=node, host="h"))).incarnation

    def beat(self, incarnation: int, node: bytes = NODE) -> int:
        return self.ask(pb.HeartbeatRequest(node=node, incarnation=incarnation)).standing

    def state(self) -> pb.GetStateReply:
        return self.ask(pb.GetStateRequest())


def actor(name: str = "", identifier: bytes = ACTOR, namespace: str = "") -> pb.ActorDescription:
    return pb.ActorDescription(actor=identifier, owner=DRIVER, class_name="Counter", name=name, namespace=namespace)


# --- membership -------------------------------------------------------------------------------------------


def test_a_node_that_keeps_sending_heartbeats_is_never_suspected():
    store = Store()
    incarnation = store.node()
    for _ in range(100):
        assert store.pass_time(0.5) == []
        assert store.beat(incarnation) == pb.NODE_STANDING_MEMBER


def test_a_silent_node_is_first_suspected_and_then_dead():
    store = Store(suspect_seconds=3, dead_seconds=10)
    store.node()
    assert store.pass_time(2.9) == []
    (suspicion,) = store.pass_time(0.2)
    assert suspicion.state == NodeState.SUSPECTED
    assert store.pass_time(6.8) == []
    (death,) = store.pass_time(0.2)
    assert death.state == NodeState.DEAD
    assert store.pass_time(60) == []
    (row,) = store.state().nodes
    assert (row.state, row.reason) == (pb.NODE_STATE_DEAD, "no heartbeat for 10.1 s")


def test_an_interruption_of_five_seconds_costs_nothing_with_the_default_settings():
    store = Store()
    incarnation = store.node()
    declared = store.pass_time(5)
    assert [each.state for each in declared] == [NodeState.SUSPECTED]
    assert store.beat(incarnation) == pb.NODE_STANDING_MEMBER
    (row,) = store.state().nodes
    assert row.state == pb.NODE_STATE_ALIVE


def test_a_control_store_that_stood_still_blames_nobody_for_the_silence():
    store = Store()
    incarnation = store.node()
    store.pass_time(1)
    store.seconds += 3600
    assert store.look() == []
    assert store.beat(incarnation) == pb.NODE_STANDING_MEMBER


@pytest.mark.parametrize("jumps", [(3600.0,), (-3600.0,), (300.0, -300.0, 300.0, -86_400.0)])
def test_a_wall_clock_that_jumps_kills_nobody_and_saves_nobody(jumps):
    store = Store()
    incarnation = store.node()
    for seconds in jumps:
        store.wall_seconds_off = seconds
        assert store.pass_time(1) == [] and store.beat(incarnation) == pb.NODE_STANDING_MEMBER
    store.wall_seconds_off = -3600.0
    assert [each.state for each in store.pass_time(11)] == [NodeState.SUSPECTED, NodeState.DEAD]


def test_a_node_declared_dead_is_fenced_for_good():
    store = Store()
    incarnation = store.node()
    store.ask(pb.RegisterActorRequest(actor=actor("a"), node=NODE, node_incarnation=incarnation))
    store.pass_time(11)
    assert store.beat(incarnation) == pb.NODE_STANDING_FENCED
    assert store.refused(pb.RegisterNodeRequest(node=pb.NodeDescription(node=NODE))) is Refusal.FENCED
    late = pb.UpdateActorRequest(actor=ACTOR, node=NODE, node_incarnation=incarnation, state=1)
    assert store.refused(late) is Refusal.FENCED
    assert store.refused(pb.LeaveNodeRequest(node=NODE, incarnation=incarnation)) is Refusal.FENCED
    assert store.node(OTHER_NODE) > incarnation


def test_a_dead_node_stays_fenced_after_its_row_is_forgotten(monkeypatch):
    monkeypatch.setattr(membership, "NODES_DEAD_MAX", 1)
    store = Store()
    incarnations = [store.node(node) for node in (NODE, OTHER_NODE)]
    for node, incarnation in zip((NODE, OTHER_NODE), incarnations, strict=True):
        store.ask(pb.LeaveNodeRequest(node=node, incarnation=incarnation))
    assert [row.description.node for row in store.state().nodes] == [OTHER_NODE]
    assert store.beat(incarnations[0]) == pb.NODE_STANDING_FENCED
    assert store.refused(pb.RegisterNodeRequest(node=pb.NodeDescription(node=NODE))) is Refusal.FENCED


def test_a_node_that_registers_again_fences_its_earlier_self():
    store = Store()
    first, second = store.node(), store.node()
    assert second > first
    assert store.beat(first) == pb.NODE_STANDING_FENCED
    assert store.beat(second) == pb.NODE_STANDING_MEMBER


def test_a_heartbeat_of_an_unknown_node_asks_it_to_register():
    assert Store().beat(1) == pb.NODE_STANDING_UNKNOWN


def test_the_death_of_a_node_takes_its_actors_and_jobs_along():
    store = Store()
    incarnation, other = store.node(), store.node(OTHER_NODE)
    store.ask(pb.RegisterActorRequest(actor=actor("a"), node=NODE, node_incarnation=incarnation))
    elsewhere = ACTOR[:-1] + b"\x09"
    store.ask(pb.RegisterActorRequest(actor=actor("b", elsewhere), node=OTHER_NODE, node_incarnation=other))
    store.ask(pb.StartJobRequest(driver=DRIVER, node=NODE))
    store.ask(pb.LeaveNodeRequest(node=NODE, incarnation=incarnation, reason="told to"))
    state = store.state()
    assert {row.description.actor: row.state for row in state.actors} == {ACTOR: ActorState.DEAD, elsewhere: 0}
    assert [row.state for row in state.jobs] == [JobState.ENDED]
    assert store.refused(pb.GetNamedActorRequest(name="a")) is Refusal.NOT_FOUND


# --- jobs -------------------------------------------------------------------------------------------------


def test_jobs_are_numbered_from_one_and_a_driver_has_only_one():
    store = Store()
    start = [pb.StartJobRequest(driver=driver, node=NODE) for driver in (DRIVER, b"driver02", DRIVER)]
    assert [store.ask(request).job for request in start] == [1, 2, 1]


def test_a_number_that_a_node_has_given_out_is_taken_over():
    store = Store()
    assert store.ask(pb.StartJobRequest(driver=DRIVER, node=NODE, job=5)).job == 5
    assert store.refused(pb.StartJobRequest(driver=b"driver02", node=NODE, job=5)) is Refusal.EXISTS
    assert store.refused(pb.StartJobRequest(driver=DRIVER, node=NODE, job=6)) is Refusal.EXISTS
    assert store.ask(pb.StartJobRequest(driver=b"driver02", node=NODE)).job == 6


def test_a_job_ends_once(monkeypatch):
    monkeypatch.setattr(jobs, "JOBS_ENDED_MAX", 1)
    store = Store()
    for driver in (DRIVER, b"driver02"):
        job = store.ask(pb.StartJobRequest(driver=driver, node=NODE)).job
        for _ in range(2):
            store.ask(pb.EndJobRequest(job=job, cause=2))
    assert len(store.events) == 4
    assert [row.job for row in store.state().jobs] == [2], "the oldest ended job is forgotten"
    assert store.refused(pb.EndJobRequest(job=99)) is Refusal.NOT_FOUND


# --- actors -----------------------------------------------------------------------------------------------


def test_a_name_belongs_to_one_living_actor_and_is_free_again_after_its_death():
    store = Store()
    sender = {"node": NODE, "node_incarnation": store.node()}
    second = ACTOR[:-1] + b"\x02"
    store.ask(pb.RegisterActorRequest(actor=actor("counter"), **sender))
    assert store.refused(pb.RegisterActorRequest(actor=actor("counter", second), **sender)) is Refusal.EXISTS
    store.ask(pb.RegisterActorRequest(actor=actor("counter", ACTOR[:-1] + b"\x03", "elsewhere"), **sender))
    assert store.ask(pb.GetNamedActorRequest(name="counter")).actor.description.actor == ACTOR
    store.ask(pb.UpdateActorRequest(actor=ACTOR, state=int(ActorState.DEAD), detail="killed", **sender))
    assert store.refused(pb.GetNamedActorRequest(name="counter")) is Refusal.NOT_FOUND
    store.ask(pb.RegisterActorRequest(actor=actor("counter", second), **sender))


def test_an_actor_moves_only_along_its_lifecycle_and_never_back_to_an_older_process():
    store = Store()
    sender = {"actor": ACTOR, "node": NODE, "node_incarnation": store.node()}
    store.ask(pb.RegisterActorRequest(actor=actor(), node=NODE, node_incarnation=sender["node_incarnation"]))
    assert store.refused(pb.UpdateActorRequest(state=int(ActorState.ALIVE), **sender)) is Refusal.FENCED
    for state, incarnation in (("PENDING_CREATION", 0), ("ALIVE", 0), ("RESTARTING", 1), ("ALIVE", 1)):
        update = {"state": int(ActorState[state]), "incarnation": incarnation, "address": "/sock", **sender}
        store.ask(pb.UpdateActorRequest(**update))
    assert store.refused(pb.UpdateActorRequest(state=int(ActorState.DEAD), incarnation=0, **sender)) is Refusal.FENCED
    (row,) = store.state().actors
    assert (row.state, row.incarnation, row.address) == (ActorState.ALIVE, 1, "/sock")
    assert store.refused(pb.UpdateActorRequest(state=9, incarnation=1, **sender)) is Refusal.INVALID


def test_actors_are_listed_page_by_page(monkeypatch):
    monkeypatch.setattr(actors, "ACTORS_DEAD_MAX", 1)
    store = Store()
    sender = {"node": NODE, "node_incarnation": store.node()}
    identifiers = [ACTOR[:-1] + bytes([number]) for number in range(5)]
    for number, identifier in reversed(list(enumerate(identifiers))):
        name = f"n{number}" if number % 2 else ""
        store.ask(pb.RegisterActorRequest(actor=actor(name, identifier, "space"), **sender))
    page = store.ask(pb.ListActorsRequest(actors_max=3))
    assert ([row.description.actor for row in page.actors], page.more) == (identifiers[:3], True)
    page = store.ask(pb.ListActorsRequest(actors_max=3, after=identifiers[2]))
    assert ([row.description.actor for row in page.actors], page.more) == (identifiers[3:], False)
    named = store.ask(pb.ListActorsRequest(named_only=True))
    assert [row.description.name for row in named.actors] == ["n1", "n3"]
    assert not store.ask(pb.ListActorsRequest(namespace="")).actors
    for identifier in identifiers[:2]:
        store.ask(pb.UpdateActorRequest(actor=identifier, state=int(ActorState.DEAD), **sender))
    assert len(store.state().actors) == 4, "the oldest dead actor is forgotten"
    assert len(store.ask(pb.ListActorsRequest(living_only=True)).actors) == 3


# --- keys, values, functions ------------------------------------------------------------------------------


def test_a_key_is_overwritten_only_on_request():
    store = Store()
    put = store.ask(pb.PutKeyRequest(key=b"k", value=b"first"))
    assert (put.written, put.existed) == (True, False)
    put = store.ask(pb.PutKeyRequest(key=b"k", value=b"second"))
    assert (put.written, put.existed) == (False, True)
    assert store.ask(pb.GetKeyRequest(key=b"k")).value == b"first"
    put = store.ask(pb.PutKeyRequest(key=b"k", value=b"", overwrite=True))
    assert (put.written, put.existed) == (True, True)
    got = store.ask(pb.GetKeyRequest(key=b"k"))
    assert (got.found, got.value) == (True, b""), "an empty value is a value"
    assert not store.ask(pb.GetKeyRequest(namespace="other", key=b"k")).found


def test_keys_are_listed_and_deleted_by_prefix():
    store = Store()
    for key in (b"b", b"ab", b"aa"):
        store.ask(pb.PutKeyRequest(key=key, value=b"1"))
    assert list(store.ask(pb.ListKeysRequest(prefix=b"a")).keys) == [b"aa", b"ab"]
    assert store.ask(pb.DeleteKeyRequest(key=b"a")).keys_deleted == 0
    assert store.ask(pb.DeleteKeyRequest(key=b"a", prefix=True)).keys_deleted == 2
    assert store.ask(pb.DeleteKeyRequest(key=b"", prefix=True)).keys_deleted == 1
    assert not store.state().key_spaces


def test_values_have_limits_and_say_so(monkeypatch):
    monkeypatch.setattr(kv, "VALUE_BYTES_MAX", 10)
    monkeypatch.setattr(kv, "VALUES_BYTES_MAX", 25)
    monkeypatch.setattr(kv, "KEYS_MAX", 2)
    store = Store()
    assert store.refused(pb.PutKeyRequest(key=b"k", value=bytes(11))) is Refusal.INVALID
    assert store.refused(pb.PutKeyRequest(key=b"", value=b"")) is Refusal.INVALID
    store.ask(pb.PutKeyRequest(key=b"1", value=bytes(10)))
    store.ask(pb.PutKeyRequest(key=b"2", value=bytes(10)))
    assert store.refused(pb.PutKeyRequest(key=b"3", value=b"")) is Refusal.FULL, "too many keys"
    store.ask(pb.DeleteKeyRequest(key=b"2"))
    assert store.refused(pb.PutKeyRequest(key=b"long key", value=bytes(10))) is Refusal.FULL, "too many bytes"


def test_a_function_is_kept_once_under_its_own_hash_only(monkeypatch):
    monkeypatch.setattr(kv, "FUNCTIONS_BYTES_MAX", 10)
    store = Store()
    blob = b"pickled"
    digest = hashlib.sha256(blob).digest()
    for _ in range(2):
        store.ask(pb.PutFunctionRequest(hash=digest, blob=blob, name="f"))
    assert len(store.events) == 1
    assert store.ask(pb.GetFunctionRequest(hash=digest)).blob == blob
    assert store.refused(pb.PutFunctionRequest(hash=bytes(32), blob=blob)) is Refusal.INVALID
    more = b"pickle more"
    assert store.refused(pb.PutFunctionRequest(hash=hashlib.sha256(more).digest(), blob=more)) is Refusal.FULL
    assert store.refused(pb.GetFunctionRequest(hash=bytes(32))) is Refusal.NOT_FOUND
    assert store.refused(pb.GetFunctionRequest(hash=b"short")) is Refusal.INVALID


# --- repetition, history, journal -------------------------------------------------------------------------


def test_a_repeated_request_gets_the_first_answer_and_changes_nothing():
    store = Store()
    request = pb.RegisterNodeRequest(request_id=b"once", node=pb.NodeDescription(node=NODE))
    first, second = store.ask(request), store.ask(request)
    assert first == second
    assert len(store.events) == 1
    put = pb.PutKeyRequest(request_id=b"once", key=b"k", value=b"v")
    assert store.ask(put).written, "request ids of different methods have nothing to do with each other"
    store.ask(pb.DeleteKeyRequest(key=b"k"))
    assert store.ask(put).written
    assert not store.ask(pb.GetKeyRequest(key=b"k")).found


@pytest.mark.parametrize("request_id", [b"", bytes(65)])
def test_a_request_that_changes_something_must_have_a_request_id(request_id):
    machine = ControlMachine(1)
    request = pb.PutKeyRequest(request_id=request_id, key=b"k")
    ((effect,), events) = machine.step(Instant(0, 0), request)
    assert isinstance(effect, Refuse) and effect.refusal is Refusal.INVALID and not events


@pytest.mark.parametrize(
    "request_",
    [
        pb.RegisterNodeRequest(node=pb.NodeDescription(node=b"short")),
        pb.RegisterNodeRequest(node=pb.NodeDescription(node=NODE, host="h" * 2000)),
        pb.RegisterNodeRequest(node=pb.NodeDescription(node=NODE, labels={str(n): "" for n in range(300)})),
        pb.StartJobRequest(driver=b"", node=NODE),
        pb.StartJobRequest(driver=DRIVER, node=NODE, entrypoint="\N{SNOWMAN}" * 6000),
        pb.GetFunctionRequest(hash=b""),
        pb.HeartbeatRequest(node=b""),
    ],
    ids=lambda request: f"{type(request).__name__} {request.ByteSize()} bytes",
)
def test_a_field_that_breaks_its_rule_is_refused(request_):
    assert Store().refused(request_) is Refusal.INVALID


def test_a_message_that_is_no_stimulus_is_a_bug_of_the_shell():
    with pytest.raises(TypeError, match="WatchRequest"):
        ControlMachine(1).step(Instant(0, 0), pb.WatchRequest())


def test_changes_are_numbered_without_gap_and_a_reader_too_far_behind_is_told_so():
    store = Store()
    store.machine.history = changes.History(7, changes_max=10)
    for number in range(35):
        store.ask(pb.PutKeyRequest(key=b"%d" % number, value=b""))
    assert [change.sequence for change in store.events] == list(range(1, 36))
    assert [change.key.key for change in store.machine.changes_after(7, 33)] == [b"33", b"34"]
    assert store.machine.changes_after(7, 35) == []
    assert len(store.machine.changes_after(7, 25)) == 10
    for epoch, sequence in ((7, 3), (7, 36), (8, 35), (7, -1)):
        with pytest.raises(Refused) as caught:
            store.machine.changes_after(epoch, sequence)
        assert caught.value.refusal is Refusal.TOO_OLD


def test_a_snapshot_and_the_changes_after_it_miss_nothing():
    store = Store()
    store.node()
    state = store.state()
    store.ask(pb.PutKeyRequest(key=b"k", value=b"v"))
    assert [change.WhichOneof("row") for change in store.machine.changes_after(state.epoch, state.sequence)] == ["key"]


def test_a_snapshot_with_too_many_rows_says_that_it_is_cut():
    store = Store()
    for number in range(3):
        store.ask(pb.StartJobRequest(driver=b"driver%02d" % number, node=NODE))
    state = store.ask(pb.GetStateRequest(rows_max=2))
    assert (len(state.jobs), state.truncated) == (2, True)
    assert not store.state().truncated


def test_a_damaged_journal_entry_is_an_error_and_not_a_guess():
    with pytest.raises(ValueError):
        from_journal(b"\xff\xff\xff")
    with pytest.raises(ValueError, match="without a stimulus"):
        from_journal(sealed(b""))
    now, request = Instant(1, 2), pb.EndJobRequest(request_id=b"r", job=3)
    assert from_journal(journal_entry(now, request)) == (now, request)


def test_the_states_on_the_wire_are_those_of_the_lifecycles():
    for ours, theirs, prefix in (
        (NodeState, pb.NodeState, "NODE_STATE_"),
        (JobState, pb.JobState, "JOB_STATE_"),
        (ActorState, pb.ActorState, "ACTOR_STATE_"),
    ):
        assert {prefix + state.name: state.value for state in ours} == dict(theirs.items())


def test_programs_of_a_node_that_was_declared_dead_change_no_key():
    store = Store(suspect_seconds=3, dead_seconds=10)
    store.node()
    put = pb.PutKeyRequest(request_id=b"1", namespace="n", key=b"k", value=b"before", node=NODE)
    assert store.ask(put).written
    store.pass_time(10.5)
    late = [
        pb.PutKeyRequest(request_id=b"2", namespace="n", key=b"k", value=b"after", overwrite=True, node=NODE),
        pb.DeleteKeyRequest(request_id=b"3", namespace="n", key=b"k", node=NODE),
        pb.PutFunctionRequest(request_id=b"4", hash=bytes(32), node=NODE),
    ]
    for request in late:
        assert store.refused(request) is Refusal.FENCED
    assert store.ask(pb.GetKeyRequest(namespace="n", key=b"k")).value == b"before"
