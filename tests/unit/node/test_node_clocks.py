"""The head measures how far the clocks of other nodes are from its own, and nothing is decided by it."""

from __future__ import annotations

import random

import pytest
from cluster_bench import ClusterBench

from obsray.core.node.clocks import ASK_SECONDS, BURST, TELL_SECONDS
from obsray.core.node.intake import Malformed
from obsray.core.node.peers import NodeFacts
from obsray.core.node.step import SendNode, Step
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import NodeState

NS = 1_000_000_000


class Pair:
    """A head's machine and one other node that is only a clock: questions and answers take time on their way."""

    def __init__(self, skew: float) -> None:
        self.bench = ClusterBench({"cpus": 1})
        self.head = self.bench.nodes[0]
        self.skew, self.now, self.node = skew, 100.0, b"N999...."
        facts = NodeFacts(self.node, "10.0.0.9:1", "there")
        self.step(self.head.machine.abroad.node_learned, facts, NodeState.ALIVE, "")
        self.effects = self.step(self.head.machine.abroad.peer_linked, self.node)

    def wall_ns(self, skew: float = 0.0) -> int:
        return round((1_000_000 + self.now + skew) * NS)

    def step(self, stimulus, *arguments):
        step = Step(self.now, self.wall_ns(), self.head.records)
        stimulus(step, *arguments)
        return step.effects

    def questions(self):
        found = [m.decode(each.message) for each in self.effects if isinstance(each, SendNode)]
        self.effects = []
        return [each for each in found if isinstance(each, m.ClockQuestion)]

    def answer(self, there: float, back: float) -> bool:
        """The question is on its way for ``there`` seconds, its answer for ``back``. False if nothing was asked."""
        asked = self.questions()
        if not asked:
            return False
        self.now += there
        said = m.encode(m.ClockAnswer(asked[-1].number, self.wall_ns(self.skew)))
        self.now += back
        self.effects = self.step(self.head.machine.abroad.peer_messages, self.node, [said])
        return True

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.effects = self.step(self.head.machine.tick)

    def measured(self):
        return [fields for name, fields in self.head.records.events if name == "clock_measured"]


@pytest.mark.parametrize("skew", [0.0, 7.5, -7.5, 3600.0, -3600.0])
def test_the_offset_is_known_to_within_what_is_said_however_long_messages_take(skew):
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance, pair = random.Random(seed), Pair(skew)
    for _ in range(BURST):
        assert pair.answer(chance.uniform(1e-5, 0.2), chance.uniform(1e-5, 0.2))
    (measured,) = pair.measured()
    assert measured["node"] == pair.node and measured["samples"] == BURST
    assert abs(measured["offset_seconds"] - skew) <= measured["uncertainty_seconds"] + 1e-6
    assert measured["node_time"] == pytest.approx(pair.wall_ns(skew), abs=0.5 * NS)


def test_the_quickest_exchange_counts():
    pair = Pair(2.0)
    for number in range(BURST):
        # All others are slow one way, which looks like an offset.
        pair.answer(0.5 if number != 3 else 0.0001, 0.0001)
    (measured,) = pair.measured()
    assert measured["offset_seconds"] == pytest.approx(2.0, abs=0.0002) and measured["uncertainty_seconds"] < 0.001


def test_a_clock_that_stands_still_is_recorded_rarely_and_one_that_jumps_at_once():
    pair = Pair(1.0)
    while pair.answer(0.001, 0.001):
        pass
    for _ in range(10):
        pair.wait(ASK_SECONDS)
        assert pair.answer(0.001, 0.001)
    assert len(pair.measured()) == 1
    pair.skew = -4.0
    pair.wait(ASK_SECONDS)
    while pair.answer(0.001, 0.001):
        pass
    before, after = pair.measured()
    assert before["offset_seconds"] == pytest.approx(1.0, abs=0.002)
    assert after["offset_seconds"] == pytest.approx(-4.0, abs=0.002) and after["samples"] == BURST
    for _ in range(round(TELL_SECONDS / ASK_SECONDS) + 1):
        pair.wait(ASK_SECONDS)
        pair.answer(0.001, 0.001)
    assert len(pair.measured()) == 3


def test_an_answer_that_does_not_come_is_asked_for_again_and_a_late_one_counts_for_nothing():
    pair = Pair(1.0)
    (first,) = pair.questions()
    pair.wait(6.0)
    (second,) = pair.questions()
    assert second.number > first.number
    late = m.encode(m.ClockAnswer(first.number, pair.wall_ns(99.0)))
    pair.effects = pair.step(pair.head.machine.abroad.peer_messages, pair.node, [late])
    assert not pair.questions() and not pair.measured()
    with pytest.raises(Malformed):
        wrong = m.encode(m.ClockAnswer(second.number, "noon"))
        pair.step(pair.head.machine.abroad.peer_messages, pair.node, [wrong])


def test_only_the_head_asks_and_a_dead_node_is_forgotten():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1}, {"cpus": 1})
    head, one, other = bench.nodes
    assert set(head.machine.clocks.watches) == {one.node, other.node}
    assert not one.machine.clocks.watches and not other.machine.clocks.watches
    assert [fields["node"] for name, fields in head.records.events if name == "clock_measured"]
    bench.kill(one)
    assert set(head.machine.clocks.watches) == {other.node}
