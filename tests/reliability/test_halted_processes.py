"""Processes that stand still and are not dead: check A7 of docs/reliability.md."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import obsray
from tests.integration.programs import eventually, gone, views
from tests.reliability.oracle import checked_runtime, children, command_of, node_of

pytestmark = pytest.mark.timeout(200)
_SEIZE, _INTERRUPT, _WAIT_ALL = 0x4206, 0x4207, 0x40000000


@obsray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Speaker:
    def pid(self) -> int:
        return os.getpid()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def zygote_of(session: Path) -> psutil.Process:
    (found,) = [process for process in children(node_of(session)) if "zygote" in command_of(process)]
    return found


def status(session: Path) -> str:
    command = [sys.executable, "-m", "obsray.cli", "status", "--session", str(session)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


def test_what_stands_still_is_said_with_what_helps_and_so_is_that_it_goes_on():
    """A7: an actor, the node, the zygote: who, since when, why, what helps; nothing is lost, new processes start."""
    with checked_runtime() as session:
        stop_and_look(session)


def stop_and_look(session: Path) -> None:
    actor, view = Speaker.remote(), views(session)
    pid = obsray.get(actor.pid.remote(), timeout=60)
    with stopped(pid):
        call = actor.pid.remote()
        (row,) = eventually(lambda: [row for row in view.halts() if row["pid"] == pid])
        assert (row["name"], row["why"]) == ("worker", "it was stopped (SIGSTOP)")
        why = eventually(lambda: (made := view.why(call.hex()[:32]))["root_code"] == "STANDS_STILL" and made)
        assert f"(pid {pid}) has stood still for" in why["sentence"] and f"kill -CONT {pid}" in why["fix"]
        said = status(session)
        assert "what stands still" in said and f"kill -CONT {pid}" in said and "1 halted" in said
    assert obsray.get(call, timeout=60) == pid
    eventually(lambda: pid not in [row["pid"] for row in view.halts()])
    node = node_of(session)
    with stopped(node.pid):
        eventually(lambda: ("node", node.pid) in [(row["name"], row["pid"]) for row in view.halts()])
    eventually(lambda: "node" not in [row["name"] for row in view.halts()])
    with stopped(zygote_of(session).pid):
        speakers = [Speaker.remote() for _ in range(4)]
        assert len(set(obsray.get([each.pid.remote() for each in speakers], timeout=60))) == 4
        told = eventually(lambda: view.refresh() >= 0 and view.store.rows("process_resumed"))
        assert bytes.fromhex(row["worker_id"]) in [each["worker"] for each in told]


def test_a_zygote_that_does_not_answer_is_replaced_and_what_it_had_forked_is_done_again():
    """A7: a debugger holds it, so that it cannot be woken."""
    libc = ctypes.CDLL(None, use_errno=True)
    with checked_runtime(_system_config={"zygote_silent_seconds_max": 5.0}) as session:
        actor, zygote = Speaker.remote(), zygote_of(session)
        pid = obsray.get(actor.pid.remote(), timeout=60)
        if libc.ptrace(_SEIZE, zygote.pid, 0, 0) != 0:
            pytest.skip("processes may not be traced here")
        assert libc.ptrace(_INTERRUPT, zygote.pid, 0, 0) == 0
        os.waitpid(zygote.pid, _WAIT_ALL)
        # More than there are idle processes.
        others = [Speaker.remote() for _ in range(4)]
        eventually(lambda: any(row["name"] == "zygote" for row in views(session).halts()))
        # Who traces a process hears of its death before its parent does.
        _, how = os.waitpid(zygote.pid, _WAIT_ALL)
        assert os.WTERMSIG(how) == signal.SIGKILL
        found = {obsray.get(each.pid.remote(), timeout=60) for each in (actor, *others)}
        assert len(found) == 5 and pid not in found
        assert zygote_of(session) != zygote
        told = eventually(lambda: (view := views(session)).refresh() >= 0 and view.store.rows("process_resumed"))
        assert "another one is started" in told[-1]["why"]


def test_what_was_stopped_ends_with_its_node_and_nothing_is_left():
    """A7: everything is stopped, the node last of all, and nobody has it go on."""
    context = obsray.init(num_cpus=2, include_dashboard=False)
    try:
        session = Path(context.address_info["session_dir"])
        actor = Speaker.remote()
        obsray.get(actor.pid.remote(), timeout=60)
        node = node_of(session)
        eventually(lambda: len([each for each in children(node) if "launch()" in command_of(each)]) == 2)
        everybody = [node, *node.children(recursive=True)]
        for process in reversed(everybody):
            process.suspend()
    finally:
        obsray.shutdown()
    gone(everybody)
