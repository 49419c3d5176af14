"""One page for each alert: ``docs/runbooks/NAME.md``."""

from __future__ import annotations

from obsray.monitoring.rules import Alert


def page(alert: Alert) -> str:
    """The runbook of an alert."""
    how_long = f", for {alert.wait}" if alert.wait else ""
    commands = "\n".join(alert.commands)
    return f"""# {alert.name}

Severity: {alert.severity}. Made from `obsray/monitoring`; do not edit.

## Meaning
{alert.meaning}

It fires when this is true{how_long}:

```
{alert.expr}
```

## Impact
{alert.impact}

## First commands
```
{commands}
```
Words in capitals stand for an id out of the lists. The dashboard with uid `{alert.dashboard}` shows what led to it.

## What to do
{alert.remedy}
"""


def index(alerts: list[Alert]) -> str:
    """``docs/runbooks/README.md``."""
    rows = "".join(
        f"| [{a.name}]({a.name}.md) | {a.severity} | {a.wait or 'at once'} | {a.meaning} |\n" for a in alerts
    )
    return f"""# Runbooks

Every alert of `prometheus/obsray.rules.yml`. Made from `obsray/monitoring`; do not edit.

| alert | severity | after | meaning |
|---|---|---|---|
{rows}"""
