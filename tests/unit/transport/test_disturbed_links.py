"""Faults on purpose: what may be said, that all calls and messages are meant, and what they do to a link."""

from __future__ import annotations

import socket
import time
from collections import Counter

import pytest

from obsray import chaos as said
from obsray.chaos import MESSAGES, RPCS, Fault, parse
from obsray.config import Config
from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol import messages as m
from obsray.core.transport import chaos
from obsray.core.transport.chaos import DisturbedLink, Faults, disturb
from obsray.core.transport.connection import Hello
from obsray.core.transport.links import Reactor
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import Silent

WAIT_SECONDS = 30


def test_every_call_and_every_message_can_be_disturbed():
    methods = [method.name for method in pb.DESCRIPTOR.services_by_name["Control"].methods]
    assert Counter(RPCS) == Counter(methods), "obsray/chaos.py: RPCS"
    assert Counter(list(MESSAGES)) == Counter(kind.__name__ for kind in m.MESSAGES.values()), (
        "obsray/chaos.py: MESSAGES"
    )
    assert not set(RPCS) & set(MESSAGES)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("PutKey", "entry 1, 'PutKey': want NAME=REQUEST"),
        ("PutKey=", "entry 1, 'PutKey=': want NAME=REQUEST"),
        ("seed=1;Pusch=1:1:1:1", "entry 2, 'Pusch=1:1:1:1': no call.*did you mean Push"),
        ("xyzzy=1:1:1", r"no message is called 'xyzzy'; \* is all"),
        ("PutKey=1:1", "want three percentages"),
        ("PutKey=1:2:3:4:5", "want three percentages"),
        ("PutKey=a:1:1:1", "REQUEST is 'a', not a number"),
        ("PutKey=1:nan:1:1", "REPLY is nan, not between 0 and 100"),
        ("PutKey=1:1:101:1", "INFLIGHT is 101, not between"),
        ("PutKey=50:50:1", "101 % together"),
        ("PutKey=1:1:1:-1", "MAX is '-1', not a whole number"),
        ("PutKey=1:1:1:1;PutKey=2:2:2", "entry 2.*PutKey is there twice"),
        ("PutKey=delay:1", "want delay:MIN:MAX"),
        ("PutKey=delay:2:1", r"MIN \(2 s\) is more than MAX \(1 s\)"),
        ("*=delay:0:61", "MAX is 61, not between 0 and 60"),
        ("seed=x", "the seed is 'x'"),
        ("Welcome=0:0:5", "link cannot break behind Welcome.*kill the process instead"),
        ("AddHolder=0:0:5", "at one node a link ends only with a process"),
    ],
)
def test_a_wrong_specification_is_refused_with_the_place_that_is_wrong(text, says):
    with pytest.raises(ValueError, match=says):
        parse(text)
    with pytest.raises(ValueError, match=f"^chaos: .*{says}"):
        Config.from_environment(chaos=text)


def test_a_setting_that_comes_from_the_environment_is_called_so(monkeypatch):
    monkeypatch.setenv("OBSRAY_CHAOS", "PutKey=1")
    with pytest.raises(ValueError, match=r"^OBSRAY_CHAOS: entry 1"):
        Config.from_environment()


def test_what_is_said_of_one_holds_instead_of_what_is_said_of_all():
    plan = parse("*=10:10:10:5; rpc.*=20:0:0; PutKey=1:2:3:4; *=delay:0:1; message.*=delay:1:2; seed=9")
    assert plan.seed == 9
    assert plan.losses["PutKey"].request == 1 and plan.losses["GetKey"].request == 20
    assert plan.losses["Push"].request == 10 and plan.losses["GetKey"].faults_max is None
    assert plan.delays["GetKey"] == (0, 1) and plan.delays["Push"] == (1, 2)
    # All of them never means that links break: that must be asked for by name.
    assert not any(plan.losses[name].in_flight for name in MESSAGES)
    assert not parse("") and not parse(" ; seed=3;")


def faults(text: str, emitter: Silent | None = None) -> Faults:
    return Faults(parse(text), "driver", emitter or Silent(), b"w" * 8)


def test_the_same_seed_is_the_same_chance_and_no_more_faults_than_allowed():
    def fates(text):
        found = faults(text)
        return [found.loss("PutKey", tuple(Fault)) for _ in range(1000)]

    first = fates("PutKey=20:10:5;seed=4")
    assert first == fates("PutKey=20:10:5;seed=4") != fates("PutKey=20:10:5;seed=5")
    counts = Counter(first)
    for fault, share in ((Fault.REQUEST_LOST, 200), (Fault.REPLY_LOST, 100), (Fault.IN_FLIGHT, 50)):
        assert share / 2 < counts[fault] < share * 2
    assert len([fate for fate in fates("PutKey=50:0:0:7") if fate is not None]) == 7
    both = faults("*=100:0:0:3")
    assert [both.loss(name, tuple(Fault)) for name in ("PutKey", "GetKey", "Push", "Done")].count(None) == 1


class Recorder(Silent):
    """Remembers what was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple] = []
        for event in ("chaos_started", "fault_injected", "fault_hit", "delay_injected"):
            setattr(self, event, lambda *fields, event=event: self.told.append((event, *fields)))
        self.texts = [""]

    def intern(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts) - 1


class Pair:
    """Two ends of a link, the first with faults."""

    def __init__(self, text: str, answering: str = "") -> None:
        self.emitter = Recorder()
        self.received: list[tuple] = []
        self.answers: list[tuple] = []
        self.closed: list[str] = []
        self.here = Reactor(lambda link, messages: self.answers.extend(messages), lambda link: self.closed.append("h"))
        self.there = Reactor(self.on_messages, lambda link: self.closed.append("t"))
        disturb(self.here, faults(text, self.emitter))
        disturb(self.there, faults(answering, self.emitter))
        one, other = socket.socketpair()
        self.link = self.here.adopt(one, Hello(b"t" * 8, int(ProcessKind.WORKER), 0))
        self.other = self.there.adopt(other, Hello(b"h" * 8, int(ProcessKind.WORKER), 0))
        assert isinstance(self.link, DisturbedLink)

    def on_messages(self, link, messages) -> None:
        self.received += messages
        for message in messages:
            link.send((41, message[0], None, "", ""))

    def until(self, done) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not done():
            assert time.monotonic() < deadline
            self.here.run_once(0.01)
            self.there.run_once(0.01)

    def close(self) -> None:
        self.here.shutdown()
        self.there.shutdown()


def encoded(kind: type) -> tuple:
    return m.encode(kind(*range(len(kind._fields) - 1)))


def test_whatever_message_is_lost_or_late_arrives_once_whole_and_in_its_place(monkeypatch):
    monkeypatch.setattr(chaos, "REPEAT_SECONDS", 0.002)
    pair = Pair("message.*=50:0:0;message.*=delay:0:0.001;seed=2", "message.*=0:50:0;seed=2")
    sent = [encoded(kind) for kind in m.MESSAGES.values()]
    # One that is the last of its kind lets nothing wait; it has a test of its own.
    sent = [message for message in sent if message[0] not in chaos._LAST]
    try:
        for number in range(0, len(sent), 40):
            for message in sent[number : number + 40]:
                pair.link.send(message)
            pair.until(lambda: len(pair.received) == min(len(sent), number + 40))  # noqa: B023
        pair.until(lambda: len(pair.answers) == len(sent))
        assert pair.received == sent
        assert [answer[1] for answer in pair.answers] == [message[0] for message in sent]
    finally:
        pair.close()
    told = Counter(event for event, *_ in pair.emitter.told)
    assert told["fault_injected"] > 40 and told["delay_injected"] == len(sent)


def test_nothing_stays_behind_when_somebody_says_goodbye():
    pair = Pair("message.*=100:0:0")
    try:
        pair.link.send(encoded(m.Blocked))
        pair.link.send(encoded(m.Goodbye))
        pair.here.flush()
        pair.here.shutdown()
        deadline = time.monotonic() + WAIT_SECONDS
        while len(pair.received) < 2:
            assert time.monotonic() < deadline
            pair.there.run_once(0.01)
        assert pair.received == [encoded(m.Blocked), encoded(m.Goodbye)]
    finally:
        pair.there.shutdown()


@pytest.mark.parametrize("name", sorted(said.BREAKABLE))
def test_a_link_breaks_behind_the_message_and_both_sides_know(name):
    pair = Pair(f"{name}=0:0:100:1")
    kind = getattr(m, name)
    try:
        pair.link.send(encoded(m.Recall) if kind is not m.Recall else encoded(m.Returned))
        pair.link.send(encoded(kind))
        pair.link.send(encoded(m.Done) if kind is not m.Done else encoded(m.Returned))
        pair.until(lambda: len(pair.closed) == 2)
        assert [message[0] for message in pair.received][-1] == kind._field_defaults["tag"]
        assert len(pair.received) == 2
    finally:
        pair.close()


def test_the_record_of_a_fault_names_all_that_it_hit():
    emitter = Recorder()
    found = faults("", emitter)
    tasks = [bytes([number]) * 16 for number in range(3)]
    found.tell("Push", Fault.IN_FLIGHT, 0.0, b"", m.encode(m.Push(1, 1, 0, None, [(task, 0) for task in tasks])))
    found.tell("Done", Fault.REPLY_LOST, 0.0, b"", m.encode(m.Done([(tasks[0], 0, 0, [], None, 1)])))
    found.tell("FreeObjects", Fault.DELAYED, 0.1, b"", m.encode(m.FreeObjects([b"o" * 20])))
    found.tell("RegisterActor", Fault.REPLY_LOST, 0.0, b"", pb.RegisterActorRequest(actor={"actor": b"a" * 16}))
    # Whatever somebody sends must not end the one that looks at it.
    found.tell("LeaseReturn", Fault.REPLY_LOST, 0.0, b"", encoded(m.LeaseReturn))
    found.tell("", Fault.REPLY_LOST, 0.0, b"", (99999, 1))
    told = emitter.told[1:]
    assert [event for event, *_ in told] == [
        "fault_injected", "fault_hit", "fault_hit", "fault_injected", "delay_injected", "fault_injected",
        "fault_injected", "fault_injected",
    ]  # fmt: skip
    assert told[0][6] == tasks[0] and [each[-1] for each in told[1:3]] == tasks[1:]
    assert told[3][6] == tasks[0] and told[4][7] == b"o" * 20 and told[5][8] == b"a" * 16
    found.close()
    found.tell("", Fault.REPLY_LOST, 0.0, b"", (99999, 1))
    assert len(emitter.told) == 9
