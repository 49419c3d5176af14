"""Environments on their way from a program to its workers.

A *description* is what travels: plain values, files replaced by the names of their packages. Its fields: ``env_vars``
{name: text}; ``working_dir`` a package; ``py_modules`` packages; ``pip`` as ``runtime_env.pip_of``; ``py_executable``
words of a command; ``setup_hook`` {"name": "module.function"} or {"package": pickled function}; ``seconds_max``;
``shown``, the whole as JSON for people. The node has it made and starts workers in the *place* that comes of it
(``enter``). What a worker submits runs in the worker's own environment, changed by what the call asks for.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from obsray.core.runtime.serialization import deserialize, dump_function
from obsray.runtime_env import check, merge, pip_of, setup_seconds, show

if TYPE_CHECKING:
    from obsray.core.runtime.packages import Packages

#: What the node understands as: the last words say why the environment could not be entered.
SETUP_FAILED_EXIT = 113
PACKAGES = Path("environments") / "packages"


class Environments:
    """What one process and what it submits run in."""

    def __init__(self, session_directory: Path, package_bytes_max: int) -> None:
        self._directory = session_directory
        self._bytes_max = package_bytes_max
        self._packages: Packages | None = None
        #: What everything submitted from here inherits.
        self.inherited: dict[str, Any] = {}

    def describe(self, env: Any) -> dict[str, Any] | None:
        """What a worker must be for ``env`` (a runtime_env or None) asked for here; None for nothing special.

        Raises TypeError or ValueError for an environment that cannot be made.
        """
        if not env:
            return self.inherited or None
        return merge_descriptions(self.inherited, self._pack(check(env)))

    def shown(self) -> dict[str, Any]:
        """What this process runs in, as people wrote it."""
        found: dict[str, Any] = json.loads(self.inherited.get("shown") or "{}")
        return found

    def _pack(self, env: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"shown": show(env)}
        if env.get("env_vars"):
            found["env_vars"] = dict(env["env_vars"])
        excludes = list(env.get("excludes") or ())
        if env.get("working_dir"):
            found["working_dir"] = self._package_of(os.fspath(env["working_dir"]), "", excludes)
        if env.get("py_modules"):
            found["py_modules"] = [self._module(module, excludes) for module in env["py_modules"]]
        pip = pip_of(env)
        if pip is not None and pip["packages"]:
            found["pip"] = pip
        if env.get("py_executable"):
            found["py_executable"] = shlex.split(env["py_executable"])
        hook = env.get("worker_process_setup_hook")
        if isinstance(hook, str):
            found["setup_hook"] = {"name": hook}
        elif hook is not None:
            found["setup_hook"] = {"package": self._made().blob(dump_function(hook), "hook")}
        if "config" in env:
            found["seconds_max"] = setup_seconds(env)
        return found

    def _made(self) -> Packages:
        if self._packages is None:
            from obsray.core.runtime.packages import Packages

            self._packages = Packages(self._directory / PACKAGES, self._bytes_max)
        return self._packages

    def _package_of(self, path: str, prefix: str, excludes: list[str]) -> str:
        path = os.path.abspath(os.path.expanduser(path))
        if os.path.isdir(path):
            return self._made().directory(path, prefix, excludes)
        return self._made().file(path)

    def _module(self, module: Any, excludes: list[str]) -> str:
        if isinstance(module, types.ModuleType):
            places = list(getattr(module, "__path__", ()))
            if places:
                return self._package_of(places[0], module.__name__.replace(".", "/"), excludes)
            return self._package_of(str(module.__file__), "", excludes)
        path = os.path.abspath(os.path.expanduser(os.fspath(module)))
        return self._package_of(path, os.path.basename(path) if os.path.isdir(path) else "", excludes)


def merge_descriptions(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """The description of a child: as ``runtime_env.merge``, on what travels."""
    shown = merge(json.loads(parent.get("shown") or "{}"), json.loads(child.get("shown") or "{}"))
    merged = {**parent, **child, "shown": show(shown)}
    if parent.get("env_vars") and child.get("env_vars"):
        merged["env_vars"] = {**parent["env_vars"], **child["env_vars"]}
    return merged


def enter(place: dict[str, Any]) -> None:
    """Become what the node has prepared: directory, import path, then the hook. Ends the process if that fails."""
    if place.get("job_path"):
        set_import_path(place, list(place["job_path"]))
    else:
        sys.path[:0] = import_path(place)
    try:
        if place.get("cwd"):
            os.chdir(place["cwd"])
        hook = place.get("hook")
        if hook is not None:
            _load_hook(hook)()
    except BaseException:
        _fail()


def import_path(place: dict[str, Any]) -> list[str]:
    """What an environment puts in front of ``sys.path``."""
    return [path for path in place.get("sys_path", ()) if path]


def set_import_path(place: dict[str, Any], job_path: list[str]) -> None:
    """Import from the environment first, then from where the driver does."""
    before = import_path(place)
    sys.path[:] = [*before, *(path for path in job_path if path not in before)]


def _load_hook(hook: dict[str, str]) -> Any:
    if "file" in hook:
        return deserialize(Path(hook["file"]).read_bytes())
    import importlib

    module, _, name = hook["name"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def _fail() -> NoReturn:
    sys.stderr.write("worker_process_setup_hook failed\n")
    traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(SETUP_FAILED_EXIT)
