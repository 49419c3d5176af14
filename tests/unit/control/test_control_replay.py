"""Random histories of the control machine: invariants after every step, and a replay that gives the same machine."""

from __future__ import annotations

import random

import pytest

from obsray.core.control.journal import MemoryJournal
from obsray.core.control.machine import ControlMachine, from_journal, journal_entry
from obsray.core.control.step import Instant
from obsray.core.protocol import control_pb2 as pb

NODES = [bytes([number]) * 8 for number in range(1, 6)]
STEPS = 400


class History:
    """Draws plausible and implausible requests, so that refusals and races are part of every history."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_ns = 0
        self.requests: list[bytes] = [b"first"]

    def now(self) -> Instant:
        self.now_ns += int(self.random.expovariate(2) * 1e9)
        return Instant(self.now_ns, 10**18 + self.now_ns)

    def request_id(self) -> bytes:
        if self.random.random() < 0.1:
            return self.random.choice(self.requests)
        self.requests.append(self.random.randbytes(8))
        return self.requests[-1]

    def stimulus(self, machine: ControlMachine):
        choice, node = self.random.choice, self.random.choice(NODES)
        row = machine.membership.entries.get(node)
        incarnation = row.row.incarnation if row and self.random.random() < 0.9 else self.random.randrange(9)
        actor = self.random.choice(NODES) + bytes(7) + bytes([self.random.randrange(6)])
        sender = {"node": node, "node_incarnation": incarnation, "request_id": self.request_id()}
        description = pb.ActorDescription(actor=actor, owner=actor[:8], name=choice(["", "a", "b"]))
        key, request_id = choice([b"a", b"ab", b"b"]), self.request_id()
        return choice(
            [
                pb.RegisterNodeRequest(request_id=request_id, node=pb.NodeDescription(node=node)),
                pb.HeartbeatRequest(node=node, incarnation=incarnation),
                pb.HeartbeatRequest(node=node, incarnation=incarnation),
                pb.LeaveNodeRequest(request_id=request_id, node=node, incarnation=incarnation),
                pb.StartJobRequest(request_id=request_id, driver=choice(NODES), node=node, job=choice([0, 0, 3])),
                pb.EndJobRequest(request_id=request_id, job=self.random.randrange(6)),
                pb.RegisterActorRequest(actor=description, **sender),
                pb.UpdateActorRequest(
                    actor=actor, state=self.random.randrange(5), incarnation=self.random.randrange(2), **sender
                ),
                pb.UpdateActorRequest(actor=actor, state=2, **sender),
                pb.PutKeyRequest(request_id=request_id, key=key, value=b"v" * self.random.randrange(9), overwrite=True),
                pb.PutKeyRequest(request_id=request_id, key=key, value=b"w"),
                pb.DeleteKeyRequest(request_id=request_id, key=key, prefix=choice([True, False])),
            ]
        )


def run(seed: int, journal: MemoryJournal) -> tuple[ControlMachine, list[bytes]]:
    """One history; returns the machine and everything it said."""
    history, machine = History(seed), ControlMachine(1)
    said = []
    for _ in range(STEPS):
        now = history.now()
        for stimulus in [*machine.overdue(now), history.stimulus(machine)]:
            before = snapshot(machine)
            effects, events = machine.step(now, stimulus)
            machine.check_invariants()
            if events:
                journal.append(journal_entry(now, stimulus))
                again, more = machine.step(now, stimulus)
                if not isinstance(stimulus, pb.HeartbeatRequest | pb.DeclareNode):
                    assert again == effects and not more, "a repetition was answered differently"
            else:
                assert snapshot(machine) == before, "a step without events changed a table"
            said += [repr(effects).encode(), *(event.SerializeToString(deterministic=True) for event in events)]
    return machine, said


def snapshot(machine: ControlMachine) -> bytes:
    ((effect,), _) = machine.step(Instant(0, 0), pb.GetStateRequest())
    values = sorted((name, sorted(space.items())) for name, space in machine.keys.spaces.items())
    return effect.message.SerializeToString(deterministic=True) + repr(values).encode()


@pytest.mark.parametrize("seed", range(8))
def test_invariants_hold_and_the_journal_alone_gives_the_same_machine(seed):
    print("seed", seed)
    journal = MemoryJournal()
    machine, _ = run(seed, journal)
    replayed = ControlMachine(1)
    for entry in journal.replay():
        replayed.step(*from_journal(entry))
        replayed.check_invariants()
    assert snapshot(replayed) == snapshot(machine)
    assert replayed.changes_after(1, 0) == machine.changes_after(1, 0)


@pytest.mark.parametrize("seed", range(8))
def test_a_snapshot_takes_the_place_of_all_entries_before_it(seed):
    print("seed", seed)
    journal = MemoryJournal()
    machine, _ = run(seed, journal)
    entries = list(journal.replay())
    half = random.Random(seed).randrange(len(entries))
    before = ControlMachine(1)
    for entry in entries[:half]:
        before.step(*from_journal(entry))
    restored = ControlMachine(1)
    restored.restore(before.snapshot())
    restored.check_invariants()
    for entry in entries[half:]:
        restored.step(*from_journal(entry))
        restored.check_invariants()
    assert snapshot(restored) == snapshot(machine)
    assert restored.snapshot() == machine.snapshot()


def test_the_same_seed_gives_the_same_history_byte_for_byte():
    assert run(99, MemoryJournal())[1] == run(99, MemoryJournal())[1]


def test_after_a_recovery_every_silence_begins_anew():
    journal = MemoryJournal()
    request = pb.RegisterNodeRequest(request_id=b"r", node=pb.NodeDescription(node=NODES[0]))
    journal.append(journal_entry(Instant(0, 0), request))
    machine = ControlMachine(1)
    for entry in journal.replay():
        machine.step(*from_journal(entry))
    # The machine has been off for a day, by a clock that began anew with it.
    machine.recovered(Instant(5, 5))
    assert machine.overdue(Instant(5 + 10**9, 6)) == []
