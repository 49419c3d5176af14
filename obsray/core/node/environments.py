"""What processes must be, and the environments that have to be made for them first.

An environment is made once per content and node, by the shell (``environment_maker.py``), when the first task or actor
asks for it; meanwhile those who need it wait and say so. If it cannot be made they are told why, and whoever asks
within ``RETRY_AFTER_SECONDS`` hears the same at once.

Invariants: processes are started only in a READY environment; the room of READY environments that no process uses is
bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from obsray.core.node.step import MakeEnvironment, RemoveEnvironment, Step, require
from obsray.core.protocol.environment_key import environment_id, environment_key
from obsray.core.protocol.lifecycle import EnvironmentState, advance
from obsray.telemetry.events import Reason

ENVIRONMENT_CHARACTERS_MAX = 32_768
TEXT_CHARACTERS_MAX = 2000
#: A failure counts for this long; who asks later has it tried again.
RETRY_AFTER_SECONDS = 10.0
SETUP_SECONDS_MAX = 600.0
#: Fields of a description that somebody has to do something for before a process can start.
MADE_FIELDS = ("working_dir", "py_modules", "pip", "py_executable", "setup_hook")


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a process must be: equal ``key`` means interchangeable. ``fresh``: used for one lease only, as those of
    actors are: what tasks before had put there would end with the actor.

    ``job``: whose modules it may have imported; 0 if nobody has said what it is. ``devices``: whether it has GPUs.
    """

    key: str
    environment: tuple[tuple[str, str], ...]
    fresh: bool
    job: int = 0
    devices: bool = False


DEFAULT_RUNTIME = Runtime("", (), False)


def runtime_of(description: dict[str, Any] | None) -> Runtime:
    """The runtime that a shape or an actor asks for. Raises ValueError if its environment is not text."""
    if not description:
        return DEFAULT_RUNTIME
    variables = description.get("env_vars")
    if variables is None:
        variables = {}
    if not isinstance(variables, dict):
        raise ValueError("env_vars is not a dict")
    for name, value in variables.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ValueError("env_vars must map text to text")
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise ValueError(f"{name!r} cannot be an environment variable")
    if sum(len(name) + len(value) for name, value in variables.items()) > ENVIRONMENT_CHARACTERS_MAX:
        raise ValueError(f"env_vars of more than {ENVIRONMENT_CHARACTERS_MAX} characters")
    environment = tuple(sorted(variables.items()))
    return Runtime(environment_key(description), environment, bool(description.get("fresh")))


def of_job(runtime: Runtime, job: int) -> Runtime:
    """The same for the processes of one job."""
    return replace(runtime, job=job) if job else runtime


@dataclass(slots=True, eq=False)
class Environment:
    """One environment of this node. ``place`` is what a process is started with once it is READY."""

    id: bytes
    description: dict[str, Any]
    shown: str
    asked_at: float
    state: EnvironmentState = EnvironmentState.CREATING
    place: dict[str, Any] = field(default_factory=dict)
    deadline: float | None = None
    used_at: float = 0.0
    failed_at: float = 0.0
    size_bytes: int = 0
    error: str = ""


class EnvironmentTable:
    """The environments of this node; ``bytes_max`` bounds those that are kept although no process uses them."""

    def __init__(self, bytes_max: int = 10 << 30) -> None:
        self.environments: dict[str, Environment] = {}
        self._descriptions: dict[str, tuple[dict[str, Any], int]] = {}
        self._by_id: dict[bytes, str] = {}
        self._bytes_max = bytes_max
        #: What drivers import from: the setup hook of their environment may need it.
        self.job_paths: dict[int, Any] = {}

    def define(self, runtime: Runtime, description: dict[str, Any] | None, job: int) -> None:
        """Remember what the runtime's key stands for, and for which job it was described first."""
        if runtime.key:
            self._descriptions.setdefault(runtime.key, (description or {}, job))

    def ask(self, step: Step, key: str) -> tuple[Reason, str]:
        """Have the environment made if it is not there: NONE if it is ready, else why those who need it wait."""
        found = self.environments.get(key)
        if found is None:
            found = self._create(step, key)
        elif found.state is EnvironmentState.FAILED and step.now - found.failed_at >= RETRY_AFTER_SECONDS:
            advance(found, EnvironmentState.CREATING)
            self._make(step, found)
        if found.state is EnvironmentState.READY:
            found.used_at = step.now
            return Reason.NONE, ""
        if found.state is EnvironmentState.FAILED:
            return Reason.ENVIRONMENT_FAILED, found.error
        parts = ", ".join(name for name in MADE_FIELDS if found.description.get(name))
        return Reason.ENVIRONMENT, parts

    def _create(self, step: Step, key: str) -> Environment:
        description, job = self._descriptions.get(key, ({}, 0))
        identifier = environment_id(key)
        shown = str(description.get("shown", ""))[:TEXT_CHARACTERS_MAX]
        found = self.environments[key] = Environment(identifier, description, shown, step.now)
        self._by_id[identifier] = key
        step.emit.environment_asked(step.time_ns, identifier, job & 0xFFFFFFFF, step.emit.intern(shown))
        self._make(step, found)
        return found

    def _make(self, step: Step, environment: Environment) -> None:
        environment.asked_at = step.now
        if not any(environment.description.get(name) for name in MADE_FIELDS):
            self._ready(step, environment, {}, 0)
            return
        wanted = environment.description.get("seconds_max", SETUP_SECONDS_MAX)
        seconds = float(wanted) if isinstance(wanted, int | float) else SETUP_SECONDS_MAX
        environment.deadline = step.now + seconds if seconds > 0 else None
        if environment.deadline is not None:
            step.wake(environment.deadline)
        step.effects.append(MakeEnvironment(environment.id, environment.description, seconds))

    def made(self, step: Step, identifier: bytes, place: dict[str, Any], size_bytes: int, error: str) -> None:
        """The shell has made it, or found that it cannot be made."""
        environment = self.environments.get(self._by_id.get(identifier, ""))
        if environment is None or environment.state is not EnvironmentState.CREATING:
            # It took too long and was given up.
            return
        if error:
            self._fail(step, environment, error)
        else:
            self._ready(step, environment, place, size_bytes)

    def broken(self, step: Step, key: str, error: str) -> None:
        """Processes do not start in it."""
        environment = self.environments.get(key)
        if environment is not None and environment.state is EnvironmentState.READY:
            self._fail(step, environment, error)

    def _ready(self, step: Step, environment: Environment, place: dict[str, Any], size_bytes: int) -> None:
        environment.place, environment.size_bytes = place, size_bytes
        environment.deadline, environment.used_at, environment.error = None, step.now, ""
        advance(environment, EnvironmentState.READY)
        seconds = step.now - environment.asked_at
        step.emit.environment_ready(step.time_ns, environment.id, seconds, size_bytes)

    def _fail(self, step: Step, environment: Environment, error: str) -> None:
        environment.error = error[-TEXT_CHARACTERS_MAX:]
        environment.failed_at, environment.deadline, environment.place = step.now, None, {}
        advance(environment, EnvironmentState.FAILED)
        seconds = step.now - environment.asked_at
        step.emit.environment_failed(step.time_ns, environment.id, seconds, step.emit.intern(environment.error))

    def place(self, key: str, job: int) -> tuple[bytes, dict[str, Any]]:
        """The id of a READY environment and what processes of a job are started with in it."""
        environment = self.environments.get(key)
        if environment is None:
            return bytes(8), {}
        place = {**environment.place, "description": environment.description, "job": job}
        if job in self.job_paths:
            place["job_path"] = self.job_paths[job]
        return environment.id, place

    def tick(self, step: Step, in_use: Iterable[str]) -> None:
        """Give up what takes too long; forget what is unused longest while there is too much of it."""
        for environment in self.environments.values():
            if environment.deadline is None:
                continue
            if environment.deadline <= step.now:
                self._fail(step, environment, f"it was not ready within {step.now - environment.asked_at:g} s")
            else:
                step.wake(environment.deadline)
        total = sum(environment.size_bytes for environment in self.environments.values())
        if total > self._bytes_max:
            used = set(in_use)
            unused = [
                (found.used_at, key)
                for key, found in self.environments.items()
                if key not in used and found.state is EnvironmentState.READY and found.size_bytes
            ]
            for _, key in sorted(unused):
                total -= self._remove(step, key)
                if total <= self._bytes_max:
                    break

    def _remove(self, step: Step, key: str) -> int:
        environment = self.environments.pop(key)
        del self._by_id[environment.id]
        advance(environment, EnvironmentState.REMOVED)
        step.emit.environment_removed(step.time_ns, environment.id, environment.size_bytes)
        step.effects.append(RemoveEnvironment(environment.id))
        return environment.size_bytes

    def check_invariants(self) -> None:
        require(
            {found.id: key for key, found in self.environments.items()} == self._by_id, "an environment lost its id"
        )
        for found in self.environments.values():
            require(found.state is not EnvironmentState.REMOVED, "a removed environment is known")
            require(found.deadline is None or found.state is EnvironmentState.CREATING, "a deadline for nothing")
