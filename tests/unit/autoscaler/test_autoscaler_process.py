"""The loop around the machine: what becomes of providers and nodes that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from obsray.autoscaler import process
from obsray.autoscaler.demand import Provided
from obsray.autoscaler.machine import Autoscaler
from obsray.autoscaler.process import Process
from obsray.autoscaler.settings import parse
from obsray.core.node.resources import UNIT
from obsray.errors import RaySystemError
from tests.unit.node.node_bench import Records

WAITING = {"need": {"CPU": UNIT}, "units": 1, "selectors": [], "node": b"", "name": "f", "actor": False}
HEAD = {
    "node": b"the head", "name": "", "head": True, "labels": {}, "total": {}, "free": {}, "draining": False,
    "busy": "a program runs there", "leases": 0, "demands": [WAITING], "groups": [],
}  # fmt: skip


class Broken:
    """A provider that can do nothing."""

    def __init__(self) -> None:
        self.ended: list[bytes] = []

    def launch(self, node: bytes, kind: Any) -> None:
        raise RuntimeError("no quota")

    def terminate(self, node: bytes) -> None:
        self.ended.append(node)
        raise RuntimeError("nor that")

    def nodes(self) -> list[Provided]:
        return []

    def close(self) -> None: ...


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    monkeypatch.setattr(process, "ask", lambda *_, **__: {"nodes": [HEAD], "wished": []})
    settings = parse({"available_node_types": {"a": {"resources": {"CPU": 1}, "max_workers": 1}}}, "x")
    return Process(tmp_path, Autoscaler(settings, Records(), lambda: b"node_one"), Broken(), 0.0)


def test_what_a_provider_refuses_counts_as_a_node_that_did_not_start(loop: Process):
    loop.look()
    loop.look()
    (failed,) = loop.machine.emit.named("instance_failed")
    assert failed["error"] == "no quota" and loop.provider.ended == [b"node_one"]
    loop.look()
    assert len(loop.machine.emit.named("instance_requested")) == 1, "it was tried again at once"


def test_a_head_that_does_not_answer_and_a_provider_that_breaks_do_not_end_the_loop(
    loop: Process, monkeypatch: pytest.MonkeyPatch
):
    answers = iter([TimeoutError("busy"), RaySystemError("no"), ValueError("what"), {"nodes": [HEAD], "wished": []}])

    def ask(*_: Any, **__: Any) -> Any:
        answer = next(answers, None)
        if answer is None:
            loop.stopped.set()
            raise TimeoutError
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(process, "ask", ask)
    loop.run()
    assert loop.machine.emit.named("instance_requested")
