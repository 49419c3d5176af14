"""The files of a runtime_env, made into packages where the job is submitted."""

from __future__ import annotations

import hashlib
import os
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from obsray.core.runtime.packages import Packages
from obsray.job_submission.records import PACKAGE_SCHEME
from obsray.runtime_env import check, pip_of

#: Takes a file and the name to send it under.
Send = Callable[[Path, str], None]


def packed(env: Mapping[str, Any], made_in: Path, bytes_max: int, send: Send) -> dict[str, Any]:
    """``env`` as it travels: directories and files are sent, and named by their packages.

    ``made_in`` is a directory for what has to be made. Raises TypeError or ValueError for what cannot be sent.
    """
    found = check(env)
    packages = Packages(made_in, bytes_max)
    excludes = list(found.pop("excludes", None) or ())
    hook = found.get("worker_process_setup_hook")
    if hook is not None and not isinstance(hook, str):
        raise ValueError("worker_process_setup_hook of a job must be its 'module.name': functions are not sent")

    def package(path: str, prefix: str) -> str:
        path = os.path.abspath(os.path.expanduser(path))
        if os.path.isdir(path):
            name = f"{packages.directory(path, prefix, excludes)}.zip"
            send(made_in / name, name)
        else:
            # A module or wheel is what its name says, so it keeps it, in a package of one file or beside its digest.
            name = _file_name(Path(path))
            send(Path(path), name)
        return PACKAGE_SCHEME + name

    if found.get("working_dir"):
        found["working_dir"] = package(os.fspath(found["working_dir"]), "")
    if found.get("py_modules"):
        found["py_modules"] = [_module(module, package) for module in found["py_modules"]]
    pip = pip_of(found)
    if pip is not None:
        # A requirements file is on this machine.
        found["pip"] = {
            "packages": pip["packages"], "pip_install_options": pip["options"], "pip_check": pip["check"]
        }  # fmt: skip
    return found


def _module(module: Any, package: Callable[[str, str], str]) -> str:
    if isinstance(module, types.ModuleType):
        places = list(getattr(module, "__path__", ()))
        if places:
            return package(places[0], module.__name__.replace(".", "/"))
        return package(str(module.__file__), "")
    path = os.path.abspath(os.path.expanduser(os.fspath(module)))
    return package(path, os.path.basename(path) if os.path.isdir(path) else "")


def _file_name(path: Path) -> str:
    if path.suffix == ".zip":
        return f"{hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()}.zip"
    return path.name
