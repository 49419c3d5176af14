"""What a part of the demo hands to the report."""

from __future__ import annotations

from dataclasses import dataclass, field


class Failed(Exception):
    """A part's answer differs from the one-process run, or what it promises to show is not there."""


@dataclass(frozen=True, slots=True)
class PartResult:
    """One part of the demo, finished and checked."""

    name: str
    #: Tasks and actor calls submitted.
    tasks: int
    #: From the first submission to the last result, with obsray.
    seconds: float
    #: The same work in this process alone.
    seconds_alone: float
    #: Id of a task worth a closer look.
    story: str
    #: What was done, for people.
    did: str
    #: What was compared, and that it agreed, for people.
    checked: str
    #: The numbers behind the sentences.
    facts: dict[str, float | int | str] = field(default_factory=dict)

    @property
    def speedup(self) -> float:
        """Seconds alone divided by seconds with obsray."""
        return self.seconds_alone / self.seconds
