"""The union of events is a contract: what is written today must be readable for ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from obsray.metrics import docs as metric_docs
from obsray.telemetry import docs, events

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests/golden/events.json"


def layout() -> dict[str, object]:
    """Every kind with the place of each of its fields."""
    return {
        str(event.kind): {
            "name": event.name,
            "fields": [[field.name, field.code, event.offsets[field.name]] for field in event.fields],
            "labels": {
                field.name: {label.name: label.value for label in field.labels}
                for field in event.fields
                if field.labels
            },
        }
        for event in events.EVENTS.values()
    }


def test_the_union_keeps_its_own_rules():
    events.check()


def test_no_kind_or_field_ever_moves():
    """Adding a kind, a label or a field at the end is allowed: then write the golden file anew with this module."""
    golden = json.loads(GOLDEN.read_text())
    now = json.loads(json.dumps(layout()))
    for kind, event in golden.items():
        if int(kind) in events.RETIRED:
            assert kind not in now
            continue
        assert now[kind]["name"] == event["name"]
        assert now[kind]["fields"][: len(event["fields"])] == event["fields"]
        for field, labels in event["labels"].items():
            assert labels.items() <= now[kind]["labels"][field].items()


def test_the_golden_file_knows_every_kind():
    assert json.loads(GOLDEN.read_text()) == json.loads(json.dumps(layout())), (
        "python -m tests.unit.telemetry.test_event_union"
    )


@pytest.mark.parametrize(
    ("path", "text"), [("docs/events.md", docs.markdown), ("docs/metrics.md", metric_docs.markdown)]
)
def test_the_generated_page_is_current(path, text):
    module = text.__module__
    assert (ROOT / path).read_text() == text(), f"python -m {module} > {path}"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(layout(), indent=1) + "\n")
