"""A program is told that its node, or what serves it there, stands still, once, and that it goes on."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys

import pytest

from obsray.core.runtime.halted_node import AFTER_SECONDS, LOOK_SECONDS, HaltedNode
from obsray.telemetry.halts import FILE, HELD, STOPPED
from obsray.telemetry.pids import halted
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


def test_a_program_is_told_what_serves_its_node_and_stands_still_as_long_as_it_does(sleeper, tmp_path, caplog):
    (tmp_path / "session.json").write_text(json.dumps({"node_pid": 0}))
    (tmp_path / FILE).write_text(json.dumps([["control", sleeper.pid], ["dashboard", 2**22 + 1]]))
    watched = HaltedNode(tmp_path)

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records]

    with caplog.at_level(logging.WARNING, "obsray.session"):
        sleeper.send_signal(signal.SIGSTOP)
        eventually(lambda: halted(sleeper.pid) == STOPPED)
        for second in range(10):
            watched.look(1000.0 + second)
        who = f"the control store of this program's node (pid {sleeper.pid})"
        (told,) = said()
        assert told.startswith(f"{who} stands still: {STOPPED}. Names, keys, joining")
        assert "service_halted_seconds_max" in told and f"kill -CONT {sleeper.pid}" in told
        sleeper.send_signal(signal.SIGCONT)
        eventually(lambda: not halted(sleeper.pid))
        (tmp_path / FILE).unlink()
        watched.look(1010.0)
        assert said()[1:] == [f"{who} goes on"]
        (tmp_path / FILE).write_text("[[")
        watched.look(1011.0)
        assert len(said()) == 2


def test_a_process_that_its_debugger_holds_is_called_so_and_where_nobody_may_trace_it_is_stopped():
    """A child that asks to be traced by this process, and stops."""
    libc = ctypes.CDLL(None)
    child = os.fork()
    if not child:
        refused = libc.ptrace(0, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(bool(refused))
    try:
        os.waitpid(child, os.WUNTRACED)
        found = halted(child)
        with open(f"/proc/{child}/status") as file:
            traced = f"TracerPid:\t{os.getpid()}\n" in file.read()
        assert found == (HELD if traced else STOPPED)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_process_that_is_not_there_does_not_stand_still(sleeper):
    sleeper.kill()
    sleeper.wait()
    assert halted(sleeper.pid) == ""
