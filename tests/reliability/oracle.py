"""What must hold after every failure, whatever it was."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

import obsray
from obsray.core.system.processes import MARK_VARIABLE
from obsray.telemetry import asking, session_file
from obsray.telemetry.views import Views
from tests.integration.programs import eventually, views

#: A process may keep a few descriptors more than before: logs, a connection that is used again.
DESCRIPTORS_MORE_MAX = 16
#: Its connection.
DESCRIPTORS_OF_A_WORKER = 1
ENDED = ("FINISHED", "FAILED", "CANCELLED")


class Oracle:
    """Looks at a runtime that this process has joined, before and after."""

    def __init__(self, session: Path, *others: Path) -> None:
        self.sessions = [session, *others]
        self.shared = shared_memory()
        self.spilled = self._spilled()
        self.descriptors = descriptors()
        self.of_nodes = self._descriptors_of_nodes()
        self.seen: set[psutil.Process] = set()
        self.look()

    def check(self, *told: str, pending: int = 0) -> None:
        """All is as before, and the records balance. ``told``: kinds of events that must be there."""
        self.look()
        eventually(lambda: obsray.available_resources() == obsray.cluster_resources())
        self._check_records(told, pending)
        assert shared_memory() <= self.shared, "shared memory was left"
        eventually(lambda: self._spilled() <= self.spilled)
        try:
            eventually(lambda: descriptors() <= self.descriptors + DESCRIPTORS_MORE_MAX)
        except AssertionError as left:
            raise AssertionError(f"{descriptors()} descriptors, before {self.descriptors}: {open_files()}") from left
        eventually(lambda: not self._grown())
        eventually(lambda: not self.orphans())

    def _spilled(self) -> set[Path]:
        """Files of objects."""
        return {path for session in self.sessions for path in (session / "spill").glob("*")}

    def _descriptors_of_nodes(self) -> dict[int, int]:
        """By pid: what a node has open, besides what each of its workers takes there."""
        found = {}
        for session in self.sessions:
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                node = node_of(session)
                found[node.pid] = node.num_fds() - DESCRIPTORS_OF_A_WORKER * len(workers_of(session))
        return found

    def _grown(self) -> dict[int, int]:
        """Nodes that have more open than before."""
        now = self._descriptors_of_nodes()
        return {
            pid: count for pid, count in now.items() if count > self.of_nodes.get(pid, count) + DESCRIPTORS_MORE_MAX
        }

    def _check_records(self, told: Iterable[str], pending: int) -> None:
        # One reader for all looks: it reads only what is new.
        view = views(self.sessions[0])
        try:
            book = eventually(lambda: self._balanced(view, pending))
        except AssertionError as unbalanced:
            open_ = view.tasks([("state", "!=", state) for state in ENDED], limit=3)["rows"]
            raise AssertionError(f"not balanced: {view.ledger()['tasks']}; not ended: {open_}") from unbalanced
        assert book["totals"]["events_lost"] == 0, book["totals"]
        eventually(lambda: not (set(told) - self._recorded(view, told)))

    def _balanced(self, view: Views, pending: int) -> dict[str, Any] | None:
        book: dict[str, Any] = view.ledger()
        tasks = book["tasks"]
        ended = tasks["finished"] + tasks["failed"] + tasks["cancelled"]
        whole = tasks["balance_ok"] and tasks["submitted"] == ended + tasks["pending"]
        return book if whole and tasks["pending"] == pending else None

    def _recorded(self, view: Views, kinds: Iterable[str]) -> set[str]:
        view.refresh()
        return {kind for kind in kinds if view.store.mentions({kind: _any}, {}, 1)}

    def look(self) -> None:
        """Remember which processes there are, to find out later what became of them."""
        for session in self.sessions:
            try:
                self.seen |= set(node_of(session).children(recursive=True))
            except psutil.NoSuchProcess:
                continue

    def orphans(self) -> list[psutil.Process]:
        """Processes that belong to one of these sessions, live, and do not descend from a node of theirs (any more).

        Also those that came and lost it between two looks: what serves a node has its session in its command, and what
        workers and user code start inherits an environment that tells of it.
        """
        nodes, found = set[int](), []
        for session in self.sessions:
            with contextlib.suppress(psutil.NoSuchProcess):
                nodes.add(node_of(session).pid)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if not self._belongs(process):
                    continue
                above = {process.pid, *(each.pid for each in process.parents())}
                if not above & nodes and command_of(process):
                    found.append(process)
        return found

    def _belongs(self, process: psutil.Process) -> bool:
        if process in self.seen:
            return True
        line, mark = " ".join(process.cmdline()), process.environ().get(MARK_VARIABLE, "")
        return any(f"--session-dir {session}" in line or mark.startswith(f"{session}/") for session in self.sessions)


def _any(columns: Any) -> Any:
    return columns["sequence"] > 0


def shared_memory() -> set[str]:
    """What lies in shared memory and is ours."""
    return {path.name for path in Path("/dev/shm").glob("*obsray*")}


def descriptors() -> int:
    """How many files this process has open. Readers of records close theirs when they are collected; the one that this
    process keeps for the next question (``obsray.telemetry``) is let go."""
    with asking._lock:
        asking._open = None
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def open_files() -> list[str]:
    """What this process has open."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(link) for link in links if os.path.islink(link))


def node_of(session: Path) -> psutil.Process:
    """The process of the node with this session."""
    return psutil.Process(int(session_file.read(session)["node_pid"]))


def workers_of(session: Path) -> list[psutil.Process]:
    """Processes that run tasks of this session, or wait for some."""
    found = []
    for process in children(node_of(session)):
        if "zygote" in command_of(process):
            found += children(process)
    return found


def children(process: psutil.Process) -> list[psutil.Process]:
    """Those that live; none if the process itself has ended."""
    try:
        return [child for child in process.children() if command_of(child)]
    except psutil.NoSuchProcess:
        return []


def command_of(process: psutil.Process) -> str:
    """Its command line; empty if it has ended meanwhile."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@contextlib.contextmanager
def checked_runtime(**options: Any) -> Iterator[Path]:
    """A runtime of its own without a dashboard: its session's directory. At the end everything must be in order."""
    context = obsray.init(**{"num_cpus": 2, "include_dashboard": False, **options})
    directory = Path(context.address_info["session_dir"])
    try:
        oracle = Oracle(directory)
        yield directory
        oracle.check()
    finally:
        obsray.shutdown()
