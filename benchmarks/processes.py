"""The processes that belong to one sample: those that inherited its mark in their environment."""

from __future__ import annotations

import os
import signal
import time

import psutil

MARK = "BENCHMARK_SAMPLE"
COLLECTOR = "obsray.telemetry.process"
#: A runtime counts as started when its processes together used less than this share of one CPU for this long.
SETTLED_SHARE, SETTLED_SECONDS = 0.1, 0.5


def marked(mark: str) -> list[int]:
    """Ids of living processes that carry the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:
            continue
    return found


def unique_bytes(mark: str) -> int:
    """Memory that would be free if all of them ended, not counting what they share with each other."""
    total = 0
    for pid in marked(mark):
        try:
            total += psutil.Process(pid).memory_full_info().uss
        except psutil.Error:
            continue
    return total


def cpu_seconds(mark: str) -> float:
    """CPU time that they have used, without the caller's own."""
    total = 0.0
    for pid in marked(mark):
        if pid != os.getpid():
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
    return total


def collector_seconds(mark: str) -> float:
    """CPU time that the collector of obsray's telemetry has used."""
    total = 0.0
    for pid in marked(mark):
        try:
            process = psutil.Process(pid)
            if COLLECTOR in process.cmdline():
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.Error:
            continue
    return total


def settle(mark: str, seconds_max: float = 10.0) -> None:
    """Wait until what starts in the background has started, so that rates are not those of a start."""
    deadline, before = time.monotonic() + seconds_max, cpu_seconds(mark)
    while time.monotonic() < deadline:
        time.sleep(SETTLED_SECONDS)
        now = cpu_seconds(mark)
        if now - before < SETTLED_SHARE * SETTLED_SECONDS:
            return
        before = now


def end_leftovers(mark: str, patience_seconds: float = 5.0) -> int:
    """Wait for the sample's processes to end, kill those that do not; how many had to be killed."""
    deadline = time.monotonic() + patience_seconds
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(left)
