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
    """A process whose name looks like the fields behind it, and which has answered and waits: its memory stays."""
    program = tmp_path / "a) S 1 (b"
    shutil.copy(shutil.which("cat"), program)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        process.stdin.write(b"ready")
        assert process.stdout.read(5) == b"ready"
        yield process
        process.kill()


def test_it_is_what_psutil_says_whatever_the_process_is_called(sleeper):
    other = psutil.Process(sleeper.pid)
    assert other.name() == "a) S 1 (b"
    found = usage.of(sleeper.pid)
    assert (found.threads, found.descriptors) == (other.num_threads(), other.num_fds())
    assert found.rss_bytes == other.memory_info().rss > 0
    own = psutil.Process()
    before, mine, after = own.cpu_times(), usage.of(os.getpid()), own.cpu_times()
    a_tick = 1 / os.sysconf("SC_CLK_TCK")
    ticks = [round(seconds / a_tick) for seconds in (sum(before[:2]), mine.cpu_seconds, sum(after[:2]))]
    assert ticks == sorted(ticks)
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
