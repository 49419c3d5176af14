"""Whatever users call their functions, classes, resources, tags and metrics: a strict parser reads what is served."""

from __future__ import annotations

import json
import shutil
import subprocess
import time

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client import generate_latest as plain_text
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from obsray import ids
from obsray.metrics.catalog import FUNCTIONS_MAX, METRICS
from obsray.metrics.exporter import Families
from obsray.metrics.exposed import LABEL_CHARACTERS_MAX
from obsray.metrics.user import SERIES_MAX
from obsray.telemetry.collector import Collector, own_ring
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import Ring

NODE = b"thisnode"
STRANGE = [
    'quote"quote', "back\\slash\\", "new\nline\r\nand\rthat", "\x00", "a\x00b", "tab\tbell\x07", '{a="b"} 1 # {} 2',
    "", "ünï \N{SNOWMAN} \U0001f600", "\u2028\u2029\x85", "\u202eright to left", "\ud800", "# EOF\n", "x" * 5000,
    "x" * 4999 + "y", "<lambda>", "other", " leading and trailing ",
]  # fmt: skip
COUNTER, GAUGE, HISTOGRAM = range(3)


class Serving:
    """The families of a node, out of a ring that tells whatever a test wants."""

    def __init__(self, directory):
        (directory / "rings").mkdir()
        self.ring = Ring(directory / "rings", ids.worker_id(NODE, b"drvr"), ProcessKind.DRIVER, NODE)
        self.collector = Collector(directory, 1 << 30, own_ring(directory, NODE))
        self.families = Families(self.collector, "n0")
        self.collector.folds.append(self.families.update)

    def parsed(self):
        """What a strict parser makes of it: (name, labels) -> value."""
        while self.collector.poll():
            pass
        assert self.families.update in self.collector.folds, "no fold has failed"
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self.families)
        body = generate_latest(registry)
        assert b"\x00" not in body, "Prometheus takes it for the end"
        found = {}
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                key = (sample.name, *sorted(sample.labels.items()))
                assert key not in found, f"twice: {key}"
                found[key] = sample.value
        return found

    def metric(self, name, instrument, value, tags=None, description="d", **more):
        tags = tags or {}
        definition = json.dumps({"description": description, "tag_keys": list(tags), **more})
        self.ring.user_metric(
            time.time_ns(), ids.NIL_TASK, self.ring.intern(name), self.ring.intern(json.dumps(tags)), value,
            instrument, self.ring.intern(definition),
        )  # fmt: skip


@pytest.fixture
def serving(tmp_path):
    return Serving(tmp_path)


def test_strange_names_of_functions_classes_resources_and_methods(serving):
    ring, now = serving.ring, time.time_ns()
    for number, name in enumerate(STRANGE, 1):
        text = ring.intern(name)
        task, actor = ids.task_id(ring.process, number), ids.task_id(ring.process, number, ids.SEQUENCE_ACTOR)
        ring.task_submitted(now, task, ids.NIL_TASK, bytes(16), bytes(16), text, text, 1, 0, 0, 0, 0, 0)
        ring.task_finished(now, task, 0, 0, 0, 0)
        ring.actor_created(now, actor, ids.NIL_TASK, text, 0, 0, 0, 0, 0, 1, bytes(16))
        ring.resource_sample(now, text, 4.0, 1.0)
        ring.control_rpc(now, text, 0.1, 1, 0)
        ring.collective_failed(now, bytes(16), text, ids.NIL_TASK, text, 1, 0, 2, 0.1, 0)
    found = serving.parsed()
    functions = {dict(key[1:])["fn"] for key in found if key[0] == "obsray_tasks_submitted_total"}
    assert len(functions) == len(set(STRANGE)), "no two have become one"
    assert all(len(name) < LABEL_CHARACTERS_MAX + 20 for name in functions)
    for name in ('quote"quote', "back\\slash\\", "new\nline\r\nand\rthat", "ünï \N{SNOWMAN} \U0001f600"):
        assert name in functions, "what can be written is written as it is"
    assert {dict(key[1:])["resource"] for key in found if key[0] == "obsray_resource_total"} >= {'quote"quote'}
    families = {key[0] for key in found}
    assert len([name for name in METRICS if any(each.startswith(name) for each in families)]) > 60


def test_strange_tags_and_descriptions_of_metrics_of_user_code(serving):
    for number, text in enumerate(STRANGE):
        serving.metric(f"gauge_{number}", GAUGE, 1.0, {"tag": text}, description=text)
        serving.metric("calls", COUNTER, 1.0, {"tag": text})
    found = serving.parsed()
    assert len([key for key in found if key[0] == "obsray_user_calls_total"]) == len(set(STRANGE))
    for value in (float("nan"), float("inf"), float("-inf"), -0.0, 1e308):
        serving.metric("extreme", GAUGE, value)
        serving.parsed()


def test_promtool_reads_whatever_things_are_called(serving):
    ring, now = serving.ring, time.time_ns()
    for number, name in enumerate(STRANGE, 1):
        text, task = ring.intern(name), ids.task_id(ring.process, number)
        ring.task_submitted(now, task, ids.NIL_TASK, bytes(16), bytes(16), text, text, 1, 0, 0, 0, 0, 0)
        ring.task_finished(now, task, 0, 0, 0, 0)
        serving.metric("calls", COUNTER, 1.0, {"tag": name}, description=name)
    serving.parsed()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(serving.families)
    tool = shutil.which("promtool")
    assert tool, "promtool is missing: apt-get install prometheus"
    checked = subprocess.run([tool, "check", "metrics"], input=plain_text(registry), capture_output=True, timeout=60)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_metrics_of_user_code_whose_series_would_be_called_like_those_of_another(serving):
    serving.metric("x", COUNTER, 1.0)
    serving.metric("y", HISTOGRAM, 1.0, boundaries=[1.0, 2.0])
    for number, name in enumerate(("x_total", "x_created", "y_bucket", "y_sum", "y_count", "y")):
        serving.metric(name, GAUGE, float(number))
    serving.metric("x_total", COUNTER, 1.0)
    serving.metric("z_total", GAUGE, 5.0)
    serving.metric("z", COUNTER, 6.0)
    found = serving.parsed()
    assert found[("obsray_user_x_total",)] == 1 and found[("obsray_user_y_sum",)] == 1
    assert found[("obsray_user_z_total",)] == 5, "whoever was first"
    assert len([key for key in found if key[0].startswith("obsray_user_")]) == 1 + 5 + 1


def test_very_many_of_everything_are_bounded(serving):
    ring, now = serving.ring, time.time_ns()
    for number in range(1, 10_001):
        text = ring.intern(f"made {number}")
        task = ids.task_id(ring.process, number)
        ring.task_submitted(now, task, ids.NIL_TASK, bytes(16), bytes(16), text, text, 1, 0, 0, 0, 0, 0)
        if number > 1000:
            continue
        ring.resource_sample(now, text, 4.0, 1.0)
        serving.metric("many", COUNTER, 1.0, {"tag": str(number)})
        serving.metric(f"family_{number}", GAUGE, 1.0)
    found = serving.parsed()
    by_family = {}
    for key in found:
        by_family[key[0]] = by_family.get(key[0], 0) + 1
    assert by_family["obsray_user_many_total"] == SERIES_MAX + 1
    too_many = {
        name: count for name, count in by_family.items() if count > 3 * (1 + SERIES_MAX) and "bucket" not in name
    }
    assert not too_many, "every label has a bound"
    assert found[("obsray_user_many_total", ("tag", "other"))] == 1000 - SERIES_MAX
    functions = {dict(key[1:])["fn"]: value for key, value in found.items() if key[0] == "obsray_tasks_submitted_total"}
    assert len(functions) <= FUNCTIONS_MAX + 1 and sum(functions.values()) == 10_000, "with all others as other"
    limit = ("obsray_metric_label_values_limit", ("label", "fn"), ("node", "n0"))
    assert found[limit] == FUNCTIONS_MAX, "the bound is seen"
