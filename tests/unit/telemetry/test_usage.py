"""What processes use, compared with what psutil says."""

from __future__ import annotations

import os
import shutil
import subprocess

import psutil
import pytest

from obsray.telemetry import usage


@pytest.fixture
def sleeper(tmp_path):
    """A process whose name looks like the fields behind it."""
    program = tmp_path / "a) S 1 (b"
    shutil.copy(shutil.which("sleep"), program)
    process = subprocess.Popen([program, "600"])
    psutil.Process(process.pid).cmdline()
    yield process
    process.kill()
    process.wait()


def test_it_is_what_psutil_says_whatever_the_process_is_called(sleeper):
    other = psutil.Process(sleeper.pid)
    while other.name() != "a) S 1 (b":
        pass  # it has not begun yet
    found = usage.of(sleeper.pid)
    assert (found.threads, found.descriptors) == (other.num_threads(), other.num_fds())
    assert found.rss_bytes == other.memory_info().rss > 0
    own = psutil.Process()
    before, mine, after = own.cpu_times(), usage.of(os.getpid()), own.cpu_times()
    assert before.user + before.system <= mine.cpu_seconds <= after.user + after.system
    ours = bytearray(64 << 20)
    ours[::4096] = b"x" * len(ours[::4096])
    assert usage.unique_bytes(os.getpid()) == pytest.approx(own.memory_full_info().uss, rel=0.1)
    assert usage.unique_bytes(os.getpid()) > len(ours)


def test_of_descriptors_that_the_kernel_does_not_count_there_is_a_count(monkeypatch):
    """As before Linux 6.2."""
    real = os.stat

    def uncounted(path, **options):
        found = real(path, **options)
        return os.stat_result((*found[:6], 0, *found[7:]))

    before = psutil.Process().num_fds()
    monkeypatch.setattr(usage.os, "stat", uncounted)
    assert usage.of(os.getpid()).descriptors == before


def test_of_a_process_that_is_gone_nothing_is_said():
    process = subprocess.Popen(["true"])
    process.wait()
    for question in (usage.of, usage.unique_bytes):
        with pytest.raises(OSError):
            question(process.pid)
