"""Processes: started so that they cannot outlive their parent, and what a session leaves on disk.

Every process of a runtime dies with its parent (``PR_SET_PDEATHSIG``): a node killed with -9 takes its children
with it, and they theirs. The signal is tied to the *thread* that started the child, so children are started from
main threads only. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from obsray.core.system.fate import die_with_parent

PARENT_VARIABLE = "OBSRAY_PARENT_PID"
#: Tells of which zygote a process descends.
MARK_VARIABLE = "OBSRAY_ZYGOTE"
_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl
_RESET_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD, signal.SIGHUP)

#: Runs a module as ``python -m`` does, after tying it to its parent. Options: module, then its arguments.
_LAUNCH = "from obsray.core.system.processes import launch; launch()"


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that they can be found and ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """The pids of this process' children, zombies included; empty where the kernel does not tell."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def spawn(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    descriptors: Mapping[int, int] | None = None,
    blocked: Sequence[int] = (),
) -> int:
    """Start ``python <arguments>`` with stdin from nowhere and both outputs appended to ``log``; returns its pid.

    ``descriptors`` maps numbers in the child to descriptors here; everything else that is not inheritable is closed.
    ``blocked``: signals that wait until the child lets them in, because they would find it without its handlers.
    Cheap in a large or threaded process (``posix_spawn``). Raises OSError if it cannot be started.
    """
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    actions += [(os.POSIX_SPAWN_DUP2, here, there) for there, here in (descriptors or {}).items()]
    # -P: a file called random.py in the user's directory must not replace the standard library's.
    command = [sys.executable, "-P", *arguments]
    full = {**environment, PARENT_VARIABLE: str(os.getpid())}
    return os.posix_spawn(
        sys.executable, command, full, file_actions=actions, setsigmask=blocked, setsigdef=_RESET_SIGNALS
    )


def spawn_module(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    descriptors: Mapping[int, int] | None = None,
    blocked: Sequence[int] = (),
) -> int:
    """Start ``python -m module`` as a child that dies with this process; returns its pid."""
    return spawn(["-c", _LAUNCH, module, *arguments], environment, log, descriptors, blocked)


def parent_from_environment() -> int:
    """The pid of the process that called ``spawn``; removed from the environment, so that nobody inherits it."""
    return int(os.environ.pop(PARENT_VARIABLE, "0"))


def launch() -> None:
    """What a child started by ``spawn_module`` runs first."""
    die_with_parent(parent_from_environment())
    import runpy

    module = sys.argv[1]
    sys.argv = [module, *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def wait_status(status: int) -> tuple[int, int]:
    """``(exit code, signal)`` of a wait status; the one that does not apply is 0."""
    if os.WIFSIGNALED(status):
        return 0, os.WTERMSIG(status)
    return os.waitstatus_to_exitcode(status), 0


def reap(pid: int) -> int | None:
    """The wait status of a child if it has ended, else None. A child that is not ours any more counts as ended (0)."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return status if found else None


def send_signal(pid: int, number: int) -> None:
    """Signal an unreaped child; nothing happens if it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def kill_marked(mark: str) -> int:
    """Kill all processes that began with ``mark`` in their environment; how many there were.

    For descendants that nobody can list any more because whoever would have adopted them is gone.
    """
    wanted, found = f"{MARK_VARIABLE}={mark}".encode(), 0
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            pidfd = os.pidfd_open(int(name))
        except OSError:
            continue
        try:
            # Whoever has the number now has it as long as this is open.
            if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                found += 1
        except OSError:
            # It is somebody else's, or has ended.
            pass
        finally:
            os.close(pidfd)
    return found


def clean_session(directory: Path | str) -> None:
    """Remove what a dead runtime leaves in its session directory: sockets, spilled objects, environments; not logs.

    For the driver, when the node could not do it itself (killed with -9). Safe to call at any time after the
    node's death, and more than once.
    """
    base = Path(directory)
    (base / "halts.json").unlink(missing_ok=True)
    shutil.rmtree(base / "spill", ignore_errors=True)
    shutil.rmtree(base / "checkpoints", ignore_errors=True)
    sockets = base / "sockets"
    if sockets.is_symlink():
        # They lie where paths are short.
        shutil.rmtree(sockets.resolve(), ignore_errors=True)
        sockets.unlink(missing_ok=True)
    shutil.rmtree(sockets, ignore_errors=True)
    shutil.rmtree(base / "environments", ignore_errors=True)
