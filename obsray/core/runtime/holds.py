"""Machine: what owners at other nodes are told of references, until they have heard it, and whether both sides agree.

A connection between two nodes can break although both processes live, with what was under way on it. What is said of
holds is therefore numbered, kept until it is acknowledged, and said again on the next connection; a number counts
once and in order. What a value registers on its way can be lost with the value: so an owner looks now and then at what
holders elsewhere are said to hold, and holders at its own node by somebody elsewhere, and asks about what has not
changed since the last look. Only what two answers to two questions contradict is corrected: the value that registers it
is not under way any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from obsray.core.protocol.messages import HoldsAsked, HoldsTold, encode
from obsray.ids import WORKER_ID_BYTES, mark_of

#: Objects in one question.
ASKED_MAX = 1000
_NOTHING: frozenset[bytes] = frozenset()


class Correspondence:
    """What was said of holds, by and to this process, over connections that may break."""

    def __init__(self) -> None:
        #: Owner -> what it has not acknowledged, numbered without a gap.
        self.unheard: dict[bytes, deque[tuple[int, tuple[Any, ...]]]] = {}
        self._last: dict[bytes, int] = {}
        self._heard: dict[bytes, int] = {}

    def tell(self, owner: bytes, objects: list[bytes], holder: bytes) -> tuple[Any, ...]:
        """The message that says it, as it goes out now."""
        number = self._last[owner] = self._last.get(owner, 0) + 1
        message = encode(HoldsTold(number, objects, holder))
        self.unheard.setdefault(owner, deque()).append((number, message))
        return message

    def again(self, owner: bytes) -> list[tuple[Any, ...]]:
        """What has to be said again on a new connection."""
        return [message for _, message in self.unheard.get(owner, ())]

    def acknowledged(self, owner: bytes, number: int) -> None:
        """The owner has heard everything up to ``number``."""
        unheard = self.unheard.get(owner)
        while unheard and unheard[0][0] <= number:
            unheard.popleft()
        if unheard is not None and not unheard:
            del self.unheard[owner]

    def hear(self, sender: bytes, number: int) -> tuple[bool, int]:
        """Whether this counts (the next one, for the first time), and up to which number all was heard."""
        heard = self._heard.get(sender, 0)
        if number == heard + 1:
            self._heard[sender] = number
            return True, number
        return False, heard

    def forget(self, worker: bytes) -> None:
        """A process is gone."""
        for table in (self.unheard, self._last, self._heard):
            table.pop(worker, None)


class Audit:
    """Do holders hold what they are counted for, where a connection between two nodes may have lost it?"""

    def __init__(self, worker: bytes) -> None:
        self._mark = mark_of(worker)
        self.number = 0
        #: (holder, object) -> count, at the last look.
        self._before: dict[tuple[bytes, bytes], int] = {}
        #: What one answer has contradicted: the count then, and the answer.
        self._disputed: dict[tuple[bytes, bytes], tuple[int, int]] = {}
        #: Holders at this node, and what somebody at another has registered them for since they last agreed.
        self._unsure: dict[bytes, set[bytes]] = {}

    def registered_abroad(self, holder: bytes, objects: Iterable[bytes]) -> None:
        """Somebody at another node has registered a holder, to which it sends a value that may be lost."""
        if mark_of(holder) == self._mark:
            self._unsure.setdefault(holder, set()).update(objects)

    def look(
        self, held_by: dict[bytes, set[bytes]], holders: dict[bytes, dict[bytes, int]]
    ) -> tuple[list[tuple[bytes, tuple[Any, ...]]], list[tuple[bytes, bytes]]]:
        """Questions for holders, and journeys that cannot last so long: pairs of holder and object."""
        self.number += 1
        before, self._before = self._before, {}
        questions: list[tuple[bytes, tuple[Any, ...]]] = []
        over: list[tuple[bytes, bytes]] = []
        unsure, self._unsure = self._unsure, {}
        for holder, held in held_by.items():
            if mark_of(holder) == self._mark:
                held = held & unsure.get(holder, _NOTHING)
                if held:
                    self._unsure[holder] = held
            if not held:
                continue
            same = []
            for identifier in sorted(held):
                count = holders[identifier].get(holder, 0)
                self._before[holder, identifier] = count
                if before.get((holder, identifier)) == count:
                    same.append(identifier)
            if len(holder) > WORKER_ID_BYTES:
                over += self._journeys(holder, same)
                continue
            questions += [
                (holder, encode(HoldsAsked(self.number, same[start : start + ASKED_MAX])))
                for start in range(0, len(same), ASKED_MAX)
            ]
        self._disputed = {pair: known for pair, known in self._disputed.items() if pair in self._before}
        return questions, over

    def _journeys(self, holder: bytes, same: list[bytes]) -> list[tuple[bytes, bytes]]:
        """A value that is said to be on its way here for three looks was lost with its connection."""
        over = []
        for identifier in same:
            count = self._before[holder, identifier]
            if self._disputed.get((holder, identifier)) == (count, 0):
                over.append((holder, identifier))
            else:
                self._disputed[holder, identifier] = (count, 0)
        return over

    def answered(
        self,
        holder: bytes,
        number: int,
        answers: Iterable[tuple[bytes, int]],
        holders: dict[bytes, dict[bytes, int]],
    ) -> list[tuple[bytes, int]]:
        """Objects whose count is wrong by so much, as two answers say. One to an earlier question says nothing."""
        wrong: list[tuple[bytes, int]] = []
        if number != self.number:
            return wrong
        for identifier, held in answers:
            pair = holder, identifier
            count = holders.get(identifier, {}).get(holder, 0)
            if self._before.get(pair) != count or count == held:
                self._disputed.pop(pair, None)
                if self._before.get(pair) == held and holder in self._unsure:
                    self._unsure[holder].discard(identifier)
            elif self._disputed.get(pair) == (count, held):
                del self._disputed[pair]
                wrong.append((identifier, held - count))
            else:
                self._disputed[pair] = (count, held)
        return wrong
