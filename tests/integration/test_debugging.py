"""Code in a worker can be stopped and looked at from another terminal."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

import obsray
from obsray.util import pdb


@pytest.fixture(scope="module", autouse=True)
def runtime():
    obsray.init(num_cpus=2, include_dashboard=False)
    yield
    obsray.shutdown()


def directory():
    return pdb.Path(obsray.get_runtime_context().gcs_address)


def wait_until_it_waits():
    deadline = time.monotonic() + 30
    while not pdb.waiting(directory()):
        time.sleep(0.01)
        assert time.monotonic() < deadline
    return pdb.waiting(directory())[0]


def debug(typed, *arguments):
    command = [sys.executable, "-m", "obsray.cli", "debug", "--session", str(directory()), *arguments]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60)


def test_a_breakpoint_in_a_task_waits_for_whoever_attaches():
    @obsray.remote
    def stops(secret):
        breakpoint()
        return secret + 1

    reference = stops.remote(41)
    path = wait_until_it_waits()
    ended = debug("p secret * 100\nc\n", path.name.split("-")[1])
    assert ended.returncode == 0, ended.stderr
    assert "4100" in ended.stdout and "return secret + 1" in ended.stdout
    assert obsray.get(reference, timeout=30) == 42
    assert not path.exists()


def test_whoever_hangs_up_lets_the_code_go_on_and_whoever_quits_ends_it():
    @obsray.remote
    class Stops:
        def method(self):
            pdb.set_trace()
            return "went on"

    actor = Stops.remote()
    reference = actor.method.remote()
    wait_until_it_waits()
    assert debug("").returncode == 0
    assert obsray.get(reference, timeout=30) == "went on"
    reference = actor.method.remote()
    wait_until_it_waits()
    debug("q\n")
    with pytest.raises(obsray.exceptions.RayTaskError, match="BdbQuit"):
        obsray.get(reference, timeout=30)


def test_nobody_without_the_token_gets_in_and_a_waiting_task_can_be_cancelled():
    @obsray.remote(max_retries=0)
    def stops():
        breakpoint()

    reference = stops.remote()
    path = wait_until_it_waits()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(path))
        stranger.sendall(os.urandom(32))
        assert stranger.recv(1) == b""
    assert path.exists()
    obsray.cancel(reference)
    with pytest.raises(obsray.exceptions.TaskCancelledError):
        obsray.get(reference, timeout=30)
    ended = debug("")
    assert ended.returncode == 1 and "nothing waits" in ended.stderr
