"""What an answer to "why?" is made of: a code, a sentence, facts, and what it waits for in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from obsray.causes import gist

Row = dict[str, Any]
#: Links of a chain that the sentence tells one by one; of longer ones the end is told.
LINKS_TOLD_MAX = 3
#: The longest part of an error that a sentence quotes.
QUOTED_MAX = 300


def quoted(error: str) -> str:
    """What a sentence says of an error: its most telling line, and the next one if that only announces it."""
    said = gist(error)
    if said.endswith((":", "raised")):
        lines = [line.strip() for line in error.splitlines() if line.strip()]
        at = lines.index(said.strip()) if said.strip() in lines else -1
        told = [line for line in lines[at + 1 :] if line.startswith("ERROR") or "Error" in line] or lines[at + 1 :]
        if told and not told[0].startswith("trace "):
            said = f"{said} {told[0]}"
    return said[:QUOTED_MAX]


class Code(Enum):
    """Why something does not run, runs, or ended: the heads of the lattice."""

    WAIT_ARGUMENTS = "WAIT_ARGUMENTS"
    ARGUMENT_LOST = "ARGUMENT_LOST"
    ARGUMENT_FAILED = "ARGUMENT_FAILED"
    INFEASIBLE = "INFEASIBLE"
    LABELS = "LABELS"
    AFFINITY = "AFFINITY"
    NO_CAPACITY = "NO_CAPACITY"
    FAIRNESS = "FAIRNESS"
    BEHIND_OTHERS = "BEHIND_OTHERS"
    WORKER_START = "WORKER_START"
    WORKER_LIMIT = "WORKER_LIMIT"
    ENVIRONMENT = "ENVIRONMENT"
    ENVIRONMENT_FAILED = "ENVIRONMENT_FAILED"
    PLACEMENT = "PLACEMENT"
    PLACEMENT_REMOVED = "PLACEMENT_REMOVED"
    DRAINING = "DRAINING"
    ELSEWHERE = "ELSEWHERE"
    SCHEDULER = "SCHEDULER"
    STORE_FULL = "STORE_FULL"
    TRANSFER = "TRANSFER"
    RESTORE = "RESTORE"
    ON_ITS_WAY = "ON_ITS_WAY"
    ACTOR_PENDING = "ACTOR_PENDING"
    ACTOR_RESTARTING = "ACTOR_RESTARTING"
    ACTOR_BUSY = "ACTOR_BUSY"
    CONCURRENCY = "CONCURRENCY"
    ORDERING = "ORDERING"
    QUOTA = "QUOTA"
    BLOCKED_IN_GET = "BLOCKED_IN_GET"
    DEADLOCK = "DEADLOCK"
    STANDS_STILL = "STANDS_STILL"
    RETRYING = "RETRYING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    CANCELLED = "CANCELLED"
    APP_ERROR = "APP_ERROR"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    WORKER_DIED = "WORKER_DIED"
    NODE_DIED = "NODE_DIED"
    ACTOR_DIED = "ACTOR_DIED"
    ACTOR_UNAVAILABLE = "ACTOR_UNAVAILABLE"
    OWNER_DIED = "OWNER_DIED"
    SYSTEM_ERROR = "SYSTEM_ERROR"
    IN_STORE = "IN_STORE"
    SPILLED = "SPILLED"
    FREED = "FREED"
    LOST = "LOST"
    IDLE = "IDLE"
    LAUNCH_BOUND = "LAUNCH_BOUND"
    SYNCHRONISING = "SYNCHRONISING"
    WAIT_INPUT = "WAIT_INPUT"
    STORING = "STORING"
    NOTHING_SUBMITTED = "NOTHING_SUBMITTED"
    BETWEEN_KERNELS = "BETWEEN_KERNELS"
    NOT_OBSERVED = "NOT_OBSERVED"
    UNKNOWN = "UNKNOWN"


@dataclass(slots=True)
class Answer:
    """Why one thing is as it is. ``subject`` and ``predicate`` make the sentence; ``because`` is what it waits for."""

    noun: str
    id: str
    name: str
    subject: str
    state: str
    code: Code
    predicate: str
    fix: str = ""
    facts: list[str] = field(default_factory=list)
    time: list[Row] = field(default_factory=list)
    eta_seconds: float | None = None
    because: Answer | None = None

    def chain(self) -> Iterator[Answer]:
        """This and what it waits for, up to the root."""
        link: Answer | None = self
        while link is not None:
            yield link
            link = link.because

    @property
    def root(self) -> Answer:
        """What everything else in the chain waits for."""
        *_, last = self.chain()
        return last

    @property
    def sentence(self) -> str:
        """The whole chain in one sentence."""
        links = list(self.chain())
        text = f"{self.subject} {self.predicate}"
        told = links[1:] if len(links) <= LINKS_TOLD_MAX + 1 else links[1:2]
        for link in told:
            text += f", which {link.predicate}"
        if len(told) < len(links) - 1:
            text += f"; {len(links) - 2} further on, {self.root.subject} {self.root.predicate}"
        return text

    def to_row(self) -> Row:
        """As plain values, for JSON."""
        links = list(self.chain())
        return {
            "id": self.id, "noun": self.noun, "name": self.name, "state": self.state, "code": self.code.value,
            "root_code": self.root.code.value, "sentence": self.sentence, "fix": self.fix or self.root.fix,
            "facts": list(self.facts), "time": list(self.time), "eta_seconds": self.eta_seconds,
            "chain": [
                {
                    "noun": link.noun, "id": link.id, "name": link.name, "state": link.state, "code": link.code.value,
                    "text": f"{link.subject} {link.predicate}",
                }
                for link in links
            ],
        }  # fmt: skip
