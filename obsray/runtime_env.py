"""What a worker must be before it runs a task: ``obsray.runtime_env.RuntimeEnv``, and what may be in one.

An environment is a dict; ``RuntimeEnv`` is the same with names that are checked when it is made. What cannot be offered
is refused here, at the call that asks for it, with what to use instead.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Callable, Mapping
from typing import Any

#: Fields that work -> what they take.
FIELDS: dict[str, str] = {
    "env_vars": "dict of str to str, added to those of the parent",
    "working_dir": "a directory or .zip file: copied, and where tasks start (also first in sys.path)",
    "excludes": "list of patterns, as in a .gitignore, of files left out of working_dir and py_modules",
    "py_modules": "list of directories, .py, .zip or pure .whl files or modules, importable by tasks",
    "pip": "list of requirements (also paths of wheels), a requirements.txt, or a dict with 'packages'",
    "py_executable": "the command that starts the Python of workers",
    "worker_process_setup_hook": "a function without arguments, or its 'module.name', run first in each worker",
    "config": "dict: setup_timeout_seconds (default 600, -1 without bound), eager_install (default True)",
}

#: Fields of other runtimes -> what to use here.
INSTEAD: dict[str, str] = {
    "uv": "give the same requirements as 'pip'",
    "conda": "start the program in that environment, or name its interpreter as 'py_executable'",
    "container": "start the whole program inside the container",
    "image_uri": "start the whole program inside the container",
    "nsight": "start the worker with 'py_executable': 'nsys profile ... python'",
    "rocprof_sys": "start the worker with 'py_executable': 'rocprof-sys-python ...'",
    "mpi": "start MPI inside the task",
    "java_jars": "only Python runs here",
}

CONFIG_FIELDS = ("setup_timeout_seconds", "eager_install")
PIP_FIELDS = ("packages", "pip_check", "pip_version", "pip_install_options")
SETUP_SECONDS_DEFAULT = 600.0


class RuntimeEnvConfig(dict[str, Any]):
    """The ``config`` of an environment: ``setup_timeout_seconds`` (-1 without bound) and ``eager_install``."""

    def __init__(self, setup_timeout_seconds: float = SETUP_SECONDS_DEFAULT, eager_install: bool = True) -> None:
        super().__init__(setup_timeout_seconds=setup_timeout_seconds, eager_install=eager_install)
        _check_config(self)


class RuntimeEnv(dict[str, Any]):
    """An environment for tasks, actors or a whole program: ``init(runtime_env=RuntimeEnv(env_vars={"A": "1"}))``.

    Fields are those of ``FIELDS``. Raises ValueError for a field that does not exist or cannot be offered, TypeError
    for a value of the wrong type.
    """

    def __init__(self, *, _validate: bool = True, **fields: Any) -> None:
        super().__init__({name: value for name, value in fields.items() if value is not None})
        if _validate:
            check(self)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of the fields."""
        return dict(self)

    def serialize(self) -> str:
        """The fields as JSON, sorted by name; a function is shown by its name."""
        return show(self)

    @classmethod
    def deserialize(cls, text: str) -> RuntimeEnv:
        """The environment that ``serialize`` wrote."""
        return cls(_validate=False, **json.loads(text))

    def working_dir(self) -> str:
        """The directory or .zip file, "" if there is none."""
        return str(self.get("working_dir") or "")

    def has_working_dir(self) -> bool:
        """Whether there is a working_dir."""
        return bool(self.get("working_dir"))

    def py_modules(self) -> list[Any]:
        """The modules."""
        return list(self.get("py_modules") or ())

    def env_vars(self) -> dict[str, str]:
        """The variables."""
        return dict(self.get("env_vars") or {})

    def has_pip(self) -> bool:
        """Whether packages are to be installed."""
        return bool(self.get("pip"))


def check(env: Any) -> dict[str, Any]:
    """The environment as a plain dict without fields that are None.

    Raises TypeError or ValueError that names the field, what is wrong, and what is possible.
    """
    if not isinstance(env, Mapping):
        raise TypeError(f"runtime_env must be a dict or RuntimeEnv, got {type(env).__name__}")
    for name in env:
        if name in INSTEAD and env[name]:
            raise ValueError(f"runtime_env[{name!r}] is not offered: {INSTEAD[name]}")
        if name not in FIELDS and name not in INSTEAD:
            raise ValueError(f"runtime_env has no field {name!r}; the fields are: {', '.join(FIELDS)}")
    found = {name: value for name, value in env.items() if value is not None and name in FIELDS}
    for name, checks in _CHECKS.items():
        if name in found:
            checks(found[name])
    if "excludes" in found and not ("working_dir" in found or "py_modules" in found):
        raise ValueError("runtime_env['excludes'] needs a working_dir or py_modules to leave something out of")
    return found


def merge(parent: Mapping[str, Any], child: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a child runs in: fields it names win over its parent's, ``env_vars`` are added up."""
    if not child:
        return dict(parent)
    merged = {**parent, **child}
    if "working_dir" in child or "py_modules" in child:
        # The parent's patterns were about the parent's files.
        merged["excludes"] = child.get("excludes")
    if parent.get("env_vars") and child.get("env_vars"):
        merged["env_vars"] = {**parent["env_vars"], **child["env_vars"]}
    return {name: value for name, value in merged.items() if value is not None}


def show(env: Mapping[str, Any]) -> str:
    """An environment as JSON for people and logs."""
    return json.dumps(dict(env), sort_keys=True, default=_name_of)


def setup_seconds(env: Mapping[str, Any]) -> float:
    """How long making it may take; -1 without bound."""
    return float((env.get("config") or {}).get("setup_timeout_seconds", SETUP_SECONDS_DEFAULT))


def pip_of(env: Mapping[str, Any]) -> dict[str, Any] | None:
    """What pip shall install: ``packages`` and ``options`` (lists of str), ``check`` (bool); None for nothing.

    Raises ValueError if a requirements file cannot be read.
    """
    wanted = env.get("pip")
    if not wanted:
        return None
    given = wanted if isinstance(wanted, Mapping) else {"packages": wanted}
    packages = given.get("packages") or []
    if isinstance(packages, str):
        try:
            with open(packages) as file:
                lines = [line.strip() for line in file]
        except OSError as error:
            raise ValueError(f"runtime_env['pip']={packages!r} is not a readable file: {error.strerror}") from None
        packages = [line for line in lines if line and not line.startswith("#")]
    found = [os.path.abspath(name) if name.endswith((".whl", ".tar.gz")) else name for name in packages]
    for name in found:
        if name.endswith((".whl", ".tar.gz")) and "://" not in name and not os.path.isfile(name):
            raise ValueError(f"runtime_env['pip']: {name} is not a file on this machine")
    return {
        "packages": found,
        "options": list(given.get("pip_install_options") or ()),
        "check": bool(given.get("pip_check", False)),
    }


def _name_of(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return value.__name__
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else str(value)


# --- one check for each field ----------------------------------------------------------------------------


def _check_env_vars(value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['env_vars'] must be a dict of str to str, got {type(value).__name__}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"runtime_env['env_vars'] must be a dict of str to str, got {name!r}: {text!r}")
        if not name or "=" in name or "\0" in name + text:
            raise ValueError(f"runtime_env['env_vars']: {name!r} cannot be an environment variable")


def _check_path(field: str, value: Any, endings: tuple[str, ...]) -> None:
    text = os.fspath(value)
    if "://" in text:
        raise ValueError(
            f"runtime_env[{field!r}]={text!r}: remote files are not fetched; download it and give the local path"
        )
    text = os.path.expanduser(text)
    if os.path.isdir(text) or (os.path.isfile(text) and text.endswith(endings)):
        return
    problem = (
        "does not exist on this machine" if not os.path.exists(text) else "is neither a directory nor one of those"
    )
    raise ValueError(
        f"runtime_env[{field!r}]={text!r} {problem}: it must be a directory or a file {', '.join(endings)}"
    )


def _check_working_dir(value: Any) -> None:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"runtime_env['working_dir'] must be a path, got {type(value).__name__}")
    _check_path("working_dir", value, (".zip",))


def _check_py_modules(value: Any) -> None:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"runtime_env['py_modules'] must be a list, got {type(value).__name__}")
    for module in value:
        if isinstance(module, types.ModuleType):
            if not getattr(module, "__path__", None) and not getattr(module, "__file__", None):
                raise ValueError(f"runtime_env['py_modules']: {module.__name__} has no files that could be sent")
        elif isinstance(module, (str, os.PathLike)):
            _check_path("py_modules", module, (".py", ".zip", ".whl"))
        else:
            raise TypeError(f"runtime_env['py_modules'] takes paths and modules, got {type(module).__name__}")


def _check_excludes(value: Any) -> None:
    if not isinstance(value, (list, tuple)) or not all(isinstance(pattern, str) for pattern in value):
        raise TypeError("runtime_env['excludes'] must be a list of patterns (str)")


def _check_pip(value: Any) -> None:
    if isinstance(value, Mapping):
        for name in value:
            if name not in PIP_FIELDS:
                raise ValueError(f"runtime_env['pip'] has no field {name!r}; they are: {', '.join(PIP_FIELDS)}")
        if value.get("pip_version"):
            raise ValueError("runtime_env['pip']['pip_version'] is not offered: the pip of this Python is used")
        if "packages" not in value:
            raise ValueError("runtime_env['pip'] as a dict needs 'packages'")
        _check_pip(value["packages"])
        options = value.get("pip_install_options") or []
        if not isinstance(options, (list, tuple)) or not all(isinstance(option, str) for option in options):
            raise TypeError("runtime_env['pip']['pip_install_options'] must be a list of str")
    elif not isinstance(value, str) and not (
        isinstance(value, (list, tuple)) and all(isinstance(name, str) and name.strip() for name in value)
    ):
        raise TypeError("runtime_env['pip'] must be a list of requirements (str), a file of them, or a dict")


def _check_py_executable(value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"runtime_env['py_executable'] must be a command (str), got {value!r}")


def _check_setup_hook(value: Any) -> None:
    check_function: Callable[[Any], bool] = callable
    if isinstance(value, str):
        if not all(part.isidentifier() for part in value.split(".")) or "." not in value:
            raise ValueError(f"runtime_env['worker_process_setup_hook']={value!r} is not of the form 'module.function'")
    elif not check_function(value):
        raise TypeError("runtime_env['worker_process_setup_hook'] must be a function or 'module.function'")


def _check_config(value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['config'] must be a dict, got {type(value).__name__}")
    for name in value:
        if name not in CONFIG_FIELDS:
            raise ValueError(f"runtime_env['config'] has no field {name!r}; the fields are: {', '.join(CONFIG_FIELDS)}")
    seconds = value.get("setup_timeout_seconds", SETUP_SECONDS_DEFAULT)
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"runtime_env['config']['setup_timeout_seconds']={seconds!r} must be a number")
    if seconds != -1 and not seconds > 0:
        raise ValueError(f"runtime_env['config']['setup_timeout_seconds']={seconds}: must be > 0, or -1 without bound")
    if not isinstance(value.get("eager_install", True), bool):
        raise TypeError("runtime_env['config']['eager_install'] must be True or False")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "env_vars": _check_env_vars,
    "working_dir": _check_working_dir,
    "py_modules": _check_py_modules,
    "excludes": _check_excludes,
    "pip": _check_pip,
    "py_executable": _check_py_executable,
    "worker_process_setup_hook": _check_setup_hook,
    "config": _check_config,
}

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]
