"""Shell: a driver joins a runtime that this user started on this machine.

An *address* is a session directory, the name of one, the ``host:port`` of a cluster of which a node runs here, or
``"auto"``: the newest that runs, where this program's own sessions would be before anywhere else. A program that names
none joins the cluster that ``obsray start`` started on this machine, if there is one. Whoever can read the directory's
token may join; a runtime ends with the program that started it, or by ``obsray stop``, and not with those that joined.
"""

from __future__ import annotations

import json
import os
import pwd
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from obsray.config import Config
from obsray.core.protocol.addresses import is_address, normal, parse
from obsray.core.runtime.launch import Context, begin, describe_program
from obsray.core.runtime.node_process import driver_id
from obsray.core.runtime.session import Session
from obsray.core.transport.connection import PROTOCOL_VERSION
from obsray.core.transport.socket_paths import socket_path
from obsray.errors import RayError
from obsray.job_config import JobConfig
from obsray.telemetry import session_file
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.small_files import write_whole

VARIABLES = ("OBSRAY_ADDRESS", "RAY_ADDRESS")
#: Beside the sessions: the directory of the one that `obsray start` started, which programs join that name none.
CURRENT = "current_cluster"
#: Set in programs that were submitted as jobs.
SUBMITTED_JOB = "OBSRAY_SUBMITTED_JOB"
#: A node that listens has not written everything about itself yet; it gets this long.
FACTS_SECONDS_MAX = 0.5
LISTED_MAX = 5
#: What each program decides for itself.
_OWN_SETTINGS = ("progress",)


_NO_ADDRESS = (
    "an address is what context.address_info['address'] says in the program that started the runtime (a session "
    "directory, or host:port of a cluster), or 'auto'"
)
#: How long an address that no node here belongs to is tried, to say what is there.
PROBE_SECONDS = 2.0


class Address(NamedTuple):
    """Which runtime a program wants to join, and the words it said so with."""

    text: str
    given: str


def wanted(address: str | None, starts: bool = False, temp_dir: str | None = None) -> Address | None:
    """The runtime to join; None if one is to be started. Raises TypeError for what is no text.

    ``starts``: whoever asks says things that only the starter of a runtime decides.
    """
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address={address!r}: must be text or None")
    given = f"init(address={address!r})"
    if address is None:
        for variable in VARIABLES:
            if os.environ.get(variable):
                address, given = os.environ[variable], f"{variable}={os.environ[variable]}"
                break
    if address is None:
        return None if starts else announced(temp_dir)
    return None if address in ("", "local") else Address(address, given)


def announce(directory: Path, head: bool) -> None:
    """`obsray start` has started a node: programs on this machine that name no runtime join there, or at the node that
    was there before if that is still running and this one is not a head. Raises OSError."""
    pointer = directory.parent / CURRENT
    if head or _announced(pointer) is None:
        write_whole(pointer, str(directory))


def announced(temp_dir: str | None = None) -> Address | None:
    """The cluster that `obsray start` started on this machine; None if there is none or it has ended."""
    for base in _bases(temp_dir):
        directory = _announced(base / CURRENT)
        if directory is not None:
            return Address(str(directory), "init(), which joins the cluster that `obsray start` started here,")
    return None


def _announced(pointer: Path) -> Path | None:
    try:
        if pointer.stat().st_uid != os.getuid():
            return None
        directory = Path(pointer.read_text())
    except (OSError, ValueError):
        return None
    return directory if not _check_directory(directory) and _listens(directory) else None


def find(address: Address, temp_dir: str | None = None) -> Path:
    """The session directory of the runtime to join. Raises ConnectionError with what is there and what to do."""
    if address.text == "auto":
        running = running_sessions(temp_dir)
        if not running:
            raise _refusal(address, "no runtime of this user is running on this machine", temp_dir)
        bases = [base.resolve() for base in _bases(temp_dir)]
        # What runs below /tmp may be anything, if whoever asks has a directory of its own.
        return min(running, key=lambda path: bases.index(path.parent.resolve()))
    if is_address(address.text):
        return _node_of(address, normal(address.text), temp_dir)
    if address.text.startswith("ray://"):
        raise _refusal(address, "there is no client server; run the program on the machine of its runtime", temp_dir)
    if os.sep in address.text:
        directory = Path(os.path.expanduser(address.text))
    else:
        named = (base / address.text for base in _bases(temp_dir))
        found = next(filter(os.path.exists, named), None)
        if found is None:
            raise _refusal(address, _NO_ADDRESS, temp_dir)
        directory = found
    problem = _check_directory(directory) or _check_node(directory)
    if problem:
        raise _refusal(address, problem, temp_dir)
    return _as_the_node_knows_it(directory)


def running_sessions(temp_dir: str | None = None) -> list[Path]:
    """This user's sessions whose node listens: heads and nodes on their own, newest first, then others."""
    found = [path for path in all_sessions(temp_dir) if _listens(path)]
    return sorted(found, key=lambda path: _rank(session_file.read(path)), reverse=True)


def _rank(facts: dict[str, Any]) -> tuple[bool, int]:
    return facts.get("head") is not False, facts.get("started_at_ns") or 0


def all_sessions(temp_dir: str | None = None) -> list[Path]:
    """This user's sessions, running or not."""
    bases = {base.resolve(): base for base in reversed(_bases(temp_dir)) if _owner(base) == os.getuid()}
    return [path for base in bases.values() for path in session_file.sessions(base)]


def _node_of(address: Address, where: str, temp_dir: str | None) -> Path:
    """A node on this machine of the cluster at ``where``, its head if that is here. Raises ConnectionError."""
    found: list[tuple[tuple[bool, int], Path]] = []
    for path in all_sessions(temp_dir):
        facts = session_file.read(path)
        if where in _addresses(facts) and _listens(path):
            found.append((_rank(facts), path))
    if found:
        return _as_the_node_knows_it(max(found)[1])
    host, port = parse(where)
    try:
        socket.create_connection((host, port), PROBE_SECONDS).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise _refusal(address, f"nothing can be reached at {where}: {why}", temp_dir) from None
    what = (
        f"no node of the cluster at {where} runs on this machine, and a program joins at one. Start one here first, "
        f"with 'obsray start --address={where}'"
    )
    raise _refusal(address, what, temp_dir)


def join(
    directory: Path,
    address: Address,
    *,
    namespace: str | None,
    job_config: JobConfig,
    logs: dict[str, Any],
    log_to_driver: bool,
    version: str,
    on_disconnect: Callable[[], None],
) -> Context:
    """Join the runtime of ``directory`` as one more driver. Raises ConnectionError if it does not let this one in."""
    problem = _check_version(session_file.read(directory), version)
    if problem:
        raise _refusal(address, f"{directory}: {problem}")
    config = _config(directory)
    try:
        session = Session(directory, driver_id(session_file.read(directory)), ProcessKind.DRIVER, config)
    except (OSError, ValueError, RayError) as error:
        raise _refusal(address, f"the runtime in {directory} did not let this program in ({error})") from error
    job = describe_program(namespace, job_config, logs)
    submitted = submitted_job()
    job["metadata"] = {**submitted.get("metadata", {}), **job["metadata"]}
    session.environments.inherited = submitted.get("environment", {})
    return begin(session, job, log_to_driver, on_disconnect, version)


def submitted_job() -> dict[str, Any]:
    """What the supervisor of a submitted job tells the programs it starts: "metadata" of the job and the "environment"
    (a description) that they and all they submit run in. Empty for other programs."""
    try:
        found: dict[str, Any] = json.loads(os.environ.get(SUBMITTED_JOB) or "{}")
    except ValueError:
        raise ValueError(f"{SUBMITTED_JOB} is not what a job's supervisor writes there: unset it") from None
    return found


def _config(directory: Path) -> Config:
    """The settings of the runtime, but for what each program decides for itself."""
    own = Config.from_environment()
    known = {field.name for field in fields(Config)} - set(_OWN_SETTINGS)
    told = session_file.read(directory).get("config") or {}
    mine = {name: getattr(own, name) for name in _OWN_SETTINGS}
    return Config(**{name: value for name, value in told.items() if name in known}, **mine)


def _bases(temp_dir: str | None = None) -> list[Path]:
    """Where this user's session directories lie, as ``new_session_directory`` chooses."""
    name = f"obsray-{os.getuid()}"
    found = [Path(base) / name for base in (temp_dir, tempfile.gettempdir(), "/tmp") if base]
    return list(dict.fromkeys(found))


def _check_directory(directory: Path) -> str:
    """Why nobody can join there, "" if nothing speaks against it so far."""
    try:
        owner = directory.stat().st_uid
        if owner != os.getuid():
            return f"{directory} belongs to {_name(owner)}; a runtime can be joined by its own user alone"
        if not directory.is_dir():
            return f"{directory} is not a directory"
        (directory / "token").read_bytes()
    except PermissionError:
        return f"{directory} belongs to another user; a runtime can be joined by its own user alone"
    except (FileNotFoundError, NotADirectoryError):
        here = os.path.exists(directory)
        return f"{directory} is not the directory of a session" if here else f"there is no directory {directory}"
    except OSError as error:
        return f"{directory}: {error.strerror}"
    return ""


def _check_node(directory: Path) -> str:
    if not _listens(directory):
        ended = bool(session_file.read(directory))
        return f"the runtime of {directory} has ended" if ended else f"nothing runs in {directory}"
    deadline = time.monotonic() + FACTS_SECONDS_MAX
    while not session_file.read(directory).get("node_pid") and time.monotonic() < deadline:
        time.sleep(0.01)
    return ""


def _check_version(facts: dict[str, Any], version: str) -> str:
    theirs = tuple(str(facts.get(name, "unknown")) for name in ("protocol", "version", "python"))
    ours = (str(PROTOCOL_VERSION), version, ".".join(map(str, sys.version_info[:2])))
    if theirs == ours:
        return ""
    return (
        f"that runtime is obsray {theirs[1]} with Python {theirs[2]} (protocol {theirs[0]}), this program has obsray "
        f"{ours[1]} with Python {ours[2]} (protocol {ours[0]}); they must be the same: use the environment it was "
        "started from"
    )


def _listens(directory: Path) -> bool:
    """Whether a node answers there. A path that is too long for a socket leads to none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(FACTS_SECONDS_MAX)
            probe.connect(socket_path(directory / "sockets" / "node.sock"))
    except OSError:
        return False
    return True


def _as_the_node_knows_it(directory: Path) -> Path:
    """All drivers call the directory by one name, which is the address they tell others."""
    told = session_file.read(directory).get("directory")
    if told and os.path.exists(told) and os.path.samefile(told, directory):
        return Path(told)
    return directory.absolute()


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except OSError:
        return None


def _name(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name!r}"
    except KeyError:
        return f"the user with the number {uid}"


def _refusal(address: Address, what: str, temp_dir: str | None = None) -> ConnectionError:
    """The error, with the sessions that could be joined instead."""
    running = running_sessions(temp_dir)
    shown = ", ".join(map(str, running[:LISTED_MAX])) + (", ..." if len(running) > LISTED_MAX else "")
    there = f"Running now: {shown}. Give one of them as the address, or 'auto' for the newest" if running else (
        "No runtime of this user is running here. Start one with obsray.init() in another program"
    )  # fmt: skip
    return ConnectionError(f"{address.given}: {what}. {there}; say 'local' to start one for this program alone")


def _addresses(facts: dict[str, Any]) -> list[Any]:
    """Where a node is known: its own address, and those of its cluster's control stores, whichever decides now."""
    return [facts.get("control_address_tcp"), facts.get("node_address"), *facts.get("control_addresses", ())]
