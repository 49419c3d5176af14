"""The nouns of alerting: a recorded query, an alert with what a person needs to know about it."""

from __future__ import annotations

from dataclasses import dataclass

CRITICAL, WARNING, INFO, NONE = "critical", "warning", "info", "none"
SEVERITIES = (CRITICAL, WARNING, INFO, NONE)
#: Where the pages about alerts are, for people who have the alert and not this repository.
RUNBOOKS = "https://github.com/obsray/obsray/blob/main/docs/runbooks"


@dataclass(frozen=True, slots=True)
class Record:
    """A recording rule: ``name`` is level:metric:operations."""

    name: str
    expr: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alerting rule and its runbook.

    ``wait``: how long it must be so (``for``); ``keep``: how long it goes on firing afterwards. ``summary``: one line,
    may use ``$labels``. ``meaning``, ``impact``, ``remedy``: sentences of the runbook. ``commands``: what to look at
    first, in order. ``dashboard``: the uid of the dashboard that shows it.
    """

    name: str
    severity: str
    expr: str
    summary: str
    meaning: str
    impact: str
    commands: tuple[str, str, str]
    remedy: str
    dashboard: str
    wait: str = ""
    keep: str = ""

    @property
    def rule(self) -> dict[str, object]:
        """As Prometheus reads it."""
        made: dict[str, object] = {"alert": self.name, "expr": self.expr}
        if self.wait:
            made["for"] = self.wait
        if self.keep:
            made["keep_firing_for"] = self.keep
        made["labels"] = {"severity": self.severity}
        made["annotations"] = {
            "summary": self.summary,
            "description": self.meaning,
            "runbook_url": f"{RUNBOOKS}/{self.name}.md",
            "dashboard": self.dashboard,
        }
        return made
