"""Stacks of living processes, asked of the processes themselves through files of the session: no scheduler, no socket.

Two ways. A driver or worker sees in its black box (``<process>.now``) that somebody asks, and its watcher thread writes
``<process>.stacks``: every thread, with the task it runs. A process that does not answer in time, because C code holds
the interpreter, and any other kind of process, is sent ``SIGNAL``, on which the interpreter writes the stacks to
``<process>.fault`` from inside of the signal handler; nobody needs to hold anything for that.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

from obsray.telemetry.events import ProcessKind
from obsray.telemetry.pids import stat_of
from obsray.telemetry.small_files import write_whole
from obsray.telemetry.spine import ask_for_stacks, read_now, read_strings

Row = dict[str, Any]
#: Nobody but who registered it is sent this signal: by itself it would end a process.
SIGNAL = signal.SIGRTMIN + 7
#: A watcher looks ten times a second or more often.
ANSWER_SECONDS_MAX = 0.6
#: A dump is complete when nothing was added for so long.
SETTLED_SECONDS = 0.04
DUMP_SECONDS_MAX = 2.0
#: What was written before is cut away when somebody asks again beyond this size.
FAULT_BYTES_MAX = 1 << 20
#: Processes with a watcher.
_ANSWERING = (int(ProcessKind.DRIVER), int(ProcessKind.WORKER))
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<name>.*)$')
_THREAD = re.compile(r"^(?P<current>Current thread|Thread) 0x(?P<ident>[0-9a-f]+)")

_registered: dict[str, IO[bytes]] = {}


class Asked(NamedTuple):
    """A living process of this machine."""

    process: bytes
    pid: int
    kind: int


def _for_its_user(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def listen(directory: Path, process: bytes) -> None:
    """From now on ``SIGNAL`` makes this process write its stacks, whatever it is doing. ``directory``: the rings."""
    try:
        path = directory / f"{process.hex()}.fault"
        new = path.with_suffix(".fault.new")
        file = open(new, "ab", buffering=0, opener=_for_its_user)
        faulthandler.register(SIGNAL, file=file, all_threads=True, chain=False)
        # Only now: without the handler the signal would end the process, and the file says that it may be sent.
        new.rename(path)
    except (OSError, ValueError, RuntimeError):
        return
    for before in _registered.values():
        before.close()
    _registered.clear()
    _registered[process.hex()] = file


def silence(process: bytes) -> None:
    """Take ``listen`` back, if it is still of this process."""
    file = _registered.pop(process.hex(), None)
    if file is not None:
        # Another session of this program may have taken the signal over; then it is not in here any more.
        faulthandler.unregister(SIGNAL)
        file.close()


def living(directory: Path) -> list[Asked]:
    """The processes of this machine that record into ``directory`` and live."""
    from obsray.telemetry.columns import Texts
    from obsray.telemetry.rings import RingDirectory

    rings = RingDirectory(directory, Texts())
    rings.scan()
    return [
        Asked(process, reader.state.pid, reader.state.kind)
        for process, reader in rings.readers.items()
        if reader.state.pid and rings.alive(process)
    ]


def gather(directory: Path, processes: Iterable[Asked] | None = None) -> list[Row]:
    """The stacks of living processes, one row each: ``process``, ``pid``, ``kind``, ``how`` (``"itself"``,
    ``"signal"``, ``"silent"``), ``why`` it is silent, ``at_ns``, ``threads``.

    A thread has ``stack`` (frames from the outermost on), ``name``, and of what runs a task ``task``, ``function``,
    ``attempt``, ``started_at_ns``. Takes three seconds at most.
    """
    asked = living(directory) if processes is None else list(processes)
    numbers = {one.process: ask_for_stacks(directory, one.process) for one in asked if one.kind in _ANSWERING}
    found: dict[bytes, Row] = {}
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while time.monotonic() < deadline and len(found) < sum(map(bool, numbers.values())):
        for process, number in numbers.items():
            if number and process not in found and (answer := _answer(directory, process, number)) is not None:
                found[process] = answer
        time.sleep(0.01)
    others = [one for one in asked if one.process not in found]
    dumped = _dumps(directory, others)
    rows = []
    for one in asked:
        row: Row = {"process": one.process.hex(), "pid": one.pid, "kind": ProcessKind(one.kind).name.lower()}
        if one.process in found:
            row |= {"how": "itself", "why": "", **found[one.process]}
        else:
            row |= dumped[one.process]
        rows.append(row)
    return rows


def _answer(directory: Path, process: bytes, number: int) -> Row | None:
    try:
        answer: Row = json.loads((directory / f"{process.hex()}.stacks").read_bytes())
    except (OSError, ValueError):
        return None
    return {"at_ns": answer["at_ns"], "threads": answer["threads"]} if answer["number"] >= number else None


# --- by signal --------------------------------------------------------------------------------------------


def _dumps(directory: Path, asked: list[Asked]) -> dict[bytes, Row]:
    found: dict[bytes, Row] = {}
    begun: dict[bytes, tuple[Path, int]] = {}
    for one in asked:
        why, path = _unaskable(one.pid), directory / f"{one.process.hex()}.fault"
        try:
            size = path.stat().st_size
            if not why and size > FAULT_BYTES_MAX:
                os.truncate(path, 0)
                size = 0
            if not why:
                os.kill(one.pid, SIGNAL)
        except OSError:
            why = why or "it cannot be asked"
        if why:
            found[one.process] = {"how": "silent", "why": why, "at_ns": time.time_ns(), "threads": []}
        else:
            begun[one.process] = path, size
    for process, text in _written(begun).items():
        row: Row = {"how": "signal", "why": "", "at_ns": time.time_ns(), "threads": threads_of(text)}
        if not row["threads"]:
            row |= {"how": "silent", "why": "it does not react to a signal: the kernel holds it"}
        _name_tasks(directory, process, row["threads"])
        found[process] = row
    return found


def _written(begun: dict[bytes, tuple[Path, int]]) -> dict[bytes, str]:
    """What is appended to the files, once it is complete."""
    deadline = time.monotonic() + DUMP_SECONDS_MAX
    sizes: dict[bytes, tuple[int, float]] = {}
    settled: set[bytes] = set()
    while len(settled) < len(begun) and time.monotonic() < deadline:
        time.sleep(0.01)
        for process, (path, before) in begun.items():
            size, now = path.stat().st_size if path.exists() else before, time.monotonic()
            known = sizes.get(process)
            if known is None or known[0] != size:
                sizes[process] = size, now
            elif size > before and now - known[1] > SETTLED_SECONDS:
                settled.add(process)
    texts = {}
    for process, (path, before) in begun.items():
        with contextlib.suppress(OSError), open(path, "rb") as file:
            file.seek(before)
            texts[process] = file.read().decode("utf-8", "replace")
    return {process: texts.get(process, "") for process in begun}


def _unaskable(pid: int) -> str:
    """Why a process must not or cannot be sent the signal; "" if nothing speaks against it."""
    found = stat_of(pid)
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "it has just ended"
    if found is None:
        return "it has just ended"
    if found.state in "Tt":
        return "it is stopped (SIGSTOP or a debugger)"
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
    if caught is None or not int(caught[1], 16) >> (SIGNAL - 1) & 1:
        return "it has not said that it can be asked by a signal"
    return ""


def threads_of(text: str) -> list[Row]:
    """What ``faulthandler`` writes, as threads: the one that got the signal, which is the main thread, first."""
    threads: list[Row] = []
    for line in text.splitlines():
        begins = _THREAD.match(line)
        if begins is not None:
            main = begins["current"].startswith("Current")
            threads.append({"name": "main" if main else "", "ident": int(begins["ident"], 16), "points": []})
        elif threads and (frame := _FRAME.match(line)) is not None:
            threads[-1]["points"].append((frame["name"], frame["file"], frame["line"]))
    for thread in threads:
        thread["stack"] = _frames(thread.pop("points"))
        thread["runtime"] = not thread["name"] and any(" (obsray/core/" in frame for frame in thread["stack"])
    return sorted(threads, key=lambda thread: thread["name"] != "main")


def _frames(points: list[tuple[str, str, str]]) -> list[str]:
    """Innermost first in; outermost first out, from user code on where there is some."""
    for depth, (name, file, _) in enumerate(points):
        if name == "call_user_code" and file.endswith("runtime/executor.py"):
            points = points[:depth]
            break
    return [f"{name} ({_place(file)}:{line})" for name, file, line in reversed(points)]


def _place(path: str) -> str:
    _, package, rest = path.rpartition("/obsray/")
    if package and ("core/" in rest or "telemetry/" in rest or "dashboard/" in rest):
        return "obsray/" + rest
    _, installed, rest = path.rpartition("/site-packages/")
    return rest if installed else "/".join(path.split(os.sep)[-2:])


def _name_tasks(directory: Path, process: bytes, threads: list[Row]) -> None:
    """What the main thread runs stands in the black box, whether or not it can be asked."""
    running = read_now(directory, process)
    if not running or not threads:
        return
    task, started_at, name, attempt = running[0]
    texts = read_strings(directory / f"{process.hex()}.strings")
    threads[0] |= {
        "task": task.hex(), "attempt": attempt, "function": texts[name] if name < len(texts) else "",
        "started_at_ns": started_at,
    }  # fmt: skip


def write_answer(directory: Path, process: bytes, number: int, threads: list[Row]) -> None:
    """What a process says when it is asked."""
    answer = {"number": number, "at_ns": time.time_ns(), "threads": threads}
    write_whole(directory / f"{process.hex()}.stacks", json.dumps(answer))
