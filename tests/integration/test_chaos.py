"""Faults on purpose in a real runtime: everything comes out right, and everybody can see what was done."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import obsray
from obsray.chaos import RPCS
from obsray.cluster_utils import Cluster
from obsray.core.transport import chaos
from obsray.core.transport.control_client import ControlClient
from obsray.core.transport.followers import Follower
from obsray.experimental import internal_kv
from obsray.ids import SEQUENCE_ACTOR, SEQUENCE_GROUP
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import Silent
from tests.integration.programs import ROOT, conserved, eventually, views
from tests.integration.test_control_process import Control, Inbox, make_session
from tests.reliability.oracle import Oracle

pytestmark = pytest.mark.timeout(300)

NODE, OTHER, DRIVER = b"one-node", b"two-node", b"driver01"
ACTOR = DRIVER + bytes([SEQUENCE_ACTOR]) + bytes(6) + b"\1"
GROUP = DRIVER + bytes([SEQUENCE_GROUP]) + bytes(6) + b"\1"
BLOB = b"pickled"
#: Every call, in an order in which all of them have something to do.
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("RegisterNode", {"node": {"node": NODE, "host": "h", "address": "/one", "resources": {"CPU": 10_000}}}),
    ("RegisterNode", {"node": {"node": OTHER, "host": "h", "address": "/two", "resources": {"CPU": 10_000}}}),
    ("Heartbeat", {"node": NODE, "incarnation": 1}),
    ("StartJob", {"driver": DRIVER, "node": NODE, "entrypoint": "x", "namespace": "n"}),
    ("RegisterActor", {"actor": {"actor": ACTOR, "owner": DRIVER, "name": "a", "namespace": "n"}, "node": NODE,
                       "node_incarnation": 1}),
    ("UpdateActor", {"actor": ACTOR, "node": NODE, "node_incarnation": 1, "state": 1}),
    ("UpdateActor", {"actor": ACTOR, "node": NODE, "node_incarnation": 1, "state": 2, "worker": b"worker01"}),
    ("GetNamedActor", {"namespace": "n", "name": "a"}),
    ("ListActors", {}),
    ("RegisterGroup", {"group": {"group": GROUP, "owner": DRIVER, "name": "g", "namespace": "n",
                                 "strategy": "PACK", "bundles": [{"resources": {"CPU": 1}}]},
                       "node": NODE, "node_incarnation": 1}),
    ("UpdateGroup", {"group": GROUP, "node": NODE, "node_incarnation": 1, "state": 1, "nodes": [NODE]}),
    ("FindGroup", {"namespace": "n", "name": "g"}),
    ("PutKey", {"namespace": "n", "key": b"k", "value": b"v"}),
    ("PutKey", {"namespace": "n", "key": b"l", "value": b"w"}),
    ("GetKey", {"namespace": "n", "key": b"k"}),
    ("ListKeys", {"namespace": "n", "prefix": b""}),
    ("DeleteKey", {"namespace": "n", "key": b"k"}),
    ("PutFunction", {"name": "f", "blob": BLOB, "hash": hashlib.sha256(BLOB).digest()}),
    ("GetFunction", {"hash": hashlib.sha256(BLOB).digest()}),
    ("EndJob", {"job": 1}),
    ("ReportUnreachable", {"node": OTHER, "by": NODE, "by_incarnation": 1, "reason": "refused"}),
    ("LeaveNode", {"node": OTHER, "incarnation": 2, "reason": "enough"}),
    ("GetState", {}),
]  # fmt: skip


def told(control: Control, specification: str) -> tuple[list[str], list[str], chaos.Faults | None]:
    """What a control store answers to all calls, one after the other, and what somebody who follows it hears."""
    faults = chaos.activate(specification, ProcessKind.DRIVER, DRIVER, Silent())
    inbox, rows = Inbox(), list[str]()
    follower = Follower(
        control.socket, control.token, "TABLE_NODES", "nodes", "node", lambda told: told(),
        lambda found: rows.extend(f"{row.description.node!r} {row.state}" for row in found),
    )  # fmt: skip
    client = ControlClient(control.socket, control.token, inbox.posted.put)
    answers: list[str] = []
    try:
        follower.start()
        client.start()
        for number, (method, fields) in enumerate(CALLS, 1):
            client.call(method, fields, inbox.on_done)
            answers.append(f"{method}: {same_always(reply_of(inbox.wait(number)[-1]))}")
        eventually(lambda: len(rows) >= 3)
    finally:
        client.close()
        follower.close()
        chaos.activate("", ProcessKind.DRIVER, DRIVER, Silent())
    return answers, rows, faults


def reply_of(answer: tuple[Any, Any]) -> Any:
    reply, error = answer
    assert error is None, error
    return reply


def same_always(reply: Any) -> str:
    """A reply without the time of day and what is drawn by lot."""
    return re.sub(r"\b(\w+_at_ns|epoch): \d+\n?", "", str(reply))


def test_every_call_to_the_control_store_may_be_lost_any_way_and_changes_things_once(tmp_path):
    assert {method for method, _ in CALLS} | {"Watch"} == set(RPCS), "every call needs a line in CALLS"
    found = {}
    for name, losses in (("none", ""), ("request", "100:0:0:1"), ("reply", "0:100:0:1"), ("in flight", "0:0:100:1")):
        base = tmp_path / name.replace(" ", "")
        base.mkdir()
        control = Control(make_session(base))
        try:
            specification = ";".join(f"{method}={losses}" for method in RPCS) if losses else ""
            answers, rows, faults = told(control, specification)
        finally:
            control.kill()
        if losses:
            assert faults is not None
            # Each of them was hit.
            assert {method for method, _ in faults.injected} == set(RPCS)
        found[name] = answers, rows
    for name, (answers, rows) in found.items():
        assert answers == found["none"][0], name
        assert sorted(rows) == sorted(found["none"][1]), name


@obsray.remote
def same(value: Any) -> Any:
    return value


@obsray.remote
class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def count(self, value: int) -> int:
        self.calls += 1
        return value

    def total(self) -> int:
        return self.calls


def injected(view: Any) -> list[dict[str, Any]]:
    """What was done so far, by call or message and kind of fault."""
    chaos = view.overview()["chaos"]
    return list(chaos["faults"]) if chaos else []


def command(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "obsray.cli", *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_with_every_call_and_message_disturbed_all_is_as_it_should_be_and_can_be_seen():
    specification = (
        "rpc.*=25:25:25:60;message.*=4:4:0:60;Push=100:0:0:2;rpc.*=delay:0:0.02;message.*=delay:0:0.002;seed=11"
    )
    context = obsray.init(num_cpus=2, include_dashboard=False, _system_config={"chaos": specification})
    session = Path(context.address_info["session_dir"])
    try:
        oracle = Oracle(session)
        counter = Counter.options(name="counter").remote()
        assert obsray.get([counter.count.remote(number) for number in range(200)]) == list(range(200))
        references = [same.remote(number) for number in range(200)]
        assert obsray.get(references) == list(range(200))
        assert obsray.get(obsray.get_actor("counter").total.remote()) == 200
        for number in range(3):
            internal_kv._internal_kv_put(b"k%d" % number, b"v")
        assert len(internal_kv._internal_kv_list(b"k")) == 3
        del counter, references
        oracle.check("fault_injected")
        view = views(session)
        kinds = {"request_lost", "reply_lost", "in_flight", "delayed"}
        summary = eventually(lambda: (found := injected(view)) and {item["fault"] for item in found} == kinds and found)
        assert {item["method"] for item in summary} & set(RPCS)
        text = command("status", "--session", str(session))
        assert "faults are injected on purpose" in text and specification in text
        assert "chaos" in json.loads(command("status", "--json", "--session", str(session)))
        told = [row for row in view.troubles(1000) if row["event"] == "fault_injected"]
        hit = [row for row in told if row["fields"]["task"].strip("0")]
        assert hit, "no fault hit a task, although each process loses its first pushes"
        assert "on purpose" in command("story", hit[0]["fields"]["task"], "--session", str(session))
        # 200 tasks, an actor with 201 calls.
        assert conserved(session)["tasks"]["submitted"] == 402
    finally:
        obsray.shutdown()


def test_links_between_nodes_and_to_workers_may_break_and_nothing_is_lost_or_hangs():
    settings = {"chaos": "Push=0:0:15:3;Done=0:0:5:1;Forward=0:0:5:2;*=2:2:0:20;*=delay:0:0.002;seed=3"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": settings})
    try:
        cluster.add_node(num_cpus=2, resources={"far": 4})
        obsray.init(address=cluster.address)
        oracle = Oracle(Path(cluster.head_node.session_dir))
        far = {"resources": {"far": 0.5}, "num_cpus": 0.1, "max_retries": -1}
        counter = Counter.options(resources={"far": 1}, max_task_retries=-1, max_restarts=-1).remote()
        calls = [counter.count.remote(number) for number in range(40)]
        here = [same.options(max_retries=-1).remote(same.options(**far).remote(number)) for number in range(40)]
        assert obsray.get(calls, timeout=120) == list(range(40))
        assert obsray.get(here, timeout=120) == list(range(40))
        del counter, calls, here
        oracle.check("fault_injected")
        assert conserved(cluster.head_node.session_dir)["tasks"]["submitted"] == 40 + 1 + 80
    finally:
        obsray.shutdown()
        cluster.shutdown()


def test_a_wrong_specification_is_an_error_before_anything_starts():
    with pytest.raises(ValueError, match=r"chaos: entry 1, 'Pusch=1:1:1': .* did you mean Push\?"):
        obsray.init(_system_config={"chaos": "Pusch=1:1:1"})
    assert not obsray.is_initialized()
