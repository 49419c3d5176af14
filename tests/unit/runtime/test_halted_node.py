"""A program is told that its node stands still, once, and that it goes on."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys

import pytest

from obsray.core.runtime.halted_node import AFTER_SECONDS, LOOK_SECONDS, HaltedNode
from obsray.telemetry.halts import STOPPED, halted
from tests.integration.programs import eventually


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_a_program_is_told_once_that_its_node_stands_still_and_once_that_it_goes_on(sleeper, tmp_path, caplog):
    (tmp_path / "session.json").write_text(json.dumps({"node_pid": sleeper.pid}))
    watched, now = HaltedNode(tmp_path), 1000.0

    def look(seconds: float) -> list[str]:
        nonlocal now
        for _ in range(int(seconds / LOOK_SECONDS)):
            now += LOOK_SECONDS
            watched.look(now)
        return [record.getMessage() for record in caplog.records]

    with caplog.at_level(logging.WARNING, "obsray.session"):
        assert look(10) == []
        sleeper.send_signal(signal.SIGSTOP)
        eventually(lambda: halted(sleeper.pid) == STOPPED)
        assert look(AFTER_SECONDS - 1) == []
        (said,) = look(10)
        assert f"(pid {sleeper.pid}) stands still: {STOPPED}" in said and f"kill -CONT {sleeper.pid}" in said
        sleeper.send_signal(signal.SIGCONT)
        eventually(lambda: not halted(sleeper.pid))
        assert look(10)[1:] == [f"the node of this program (pid {sleeper.pid}) goes on"]


def test_a_process_that_is_not_there_does_not_stand_still(sleeper):
    sleeper.kill()
    sleeper.wait()
    assert halted(sleeper.pid) == ""
