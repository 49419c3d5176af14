"""Shell: makes environments, each on a thread of its own, below ``environments/`` of the session.

``packages/`` holds what programs sent, ``files/<package>/`` its contents, unpacked once however many environments use
them, and ``python/<environment>/`` a virtual environment if something is to be installed. Answers go to the node's
thread.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obsray.core.node.step import MakeEnvironment

MAKING_MAX = 4
_PACKAGE = re.compile(r"[0-9a-f]{32}")
_OUTPUT_CHARACTERS_MAX = 1500
_PROBE = "import sys, obsray.core.runtime.process; print('obsray-python', *sys.version_info[:2])"
#: Sees what the driver's Python has installed, also through its own .pth files.
_SEE_PARENT = "import site; list(map(site.addsitedir, {paths!r}))\n"


class SetupFailed(Exception):
    """An environment cannot be made; the text says why."""


class EnvironmentMaker:
    """``post`` runs a function on the node's thread; ``made(id, place, bytes, error)`` is told the outcome there."""

    def __init__(
        self,
        session: Path,
        post: Callable[[Callable[[], Any]], None],
        made: Callable[[bytes, dict[str, Any], int, str], None],
    ) -> None:
        self._base = session / "environments"
        self._post = post
        self._made = made
        self._making = threading.BoundedSemaphore(MAKING_MAX)
        self._unpacking = threading.Lock()
        #: package -> environments that use its files.
        self._users: dict[str, set[bytes]] = {}
        #: Brings a package that another node has; called on the thread that needs it. False: nobody has it.
        self.fetch: Callable[[str], bool] = lambda name: False
        self._closed = False
        self._processes: set[subprocess.Popen[str]] = set()

    def make(self, wanted: MakeEnvironment) -> None:
        """Begin; answered once."""
        threading.Thread(target=self._run, args=(wanted,), name="obsray-environment", daemon=True).start()

    def _run(self, wanted: MakeEnvironment) -> None:
        place: dict[str, Any] = {}
        size, error = 0, ""
        with self._making:
            try:
                place, size = self._build(wanted)
            except SetupFailed as failure:
                error = str(failure)
            except Exception as failure:
                error = f"{type(failure).__name__}: {failure}"
        if not self._closed:
            self._post(lambda: self._made(wanted.environment, place, size, error))

    def _build(self, wanted: MakeEnvironment) -> tuple[dict[str, Any], int]:
        description = wanted.description
        deadline = time.monotonic() + wanted.seconds_max if wanted.seconds_max > 0 else None
        place: dict[str, Any] = {"sys_path": []}
        size = 0
        working_dir = description.get("working_dir")
        if working_dir:
            place["cwd"], size = self._unpack(wanted.environment, working_dir)
            place["sys_path"].append(place["cwd"])
        for package in description.get("py_modules") or ():
            path, more = self._unpack(wanted.environment, package)
            place["sys_path"].append(path)
            size += more
        command = [str(word) for word in description.get("py_executable") or ()]
        if description.get("pip"):
            packages, more = self._install(wanted.environment, description["pip"], command, deadline)
            command = [str(packages / "bin" / "python")]
            place["sys_path"] += [str(path) for path in packages.glob("lib/python*/site-packages")]
            size += more
        if command:
            self._probe(command, deadline)
            place["command"] = command
        hook = description.get("setup_hook")
        if hook:
            place["hook"] = (
                {"file": str(self._package(hook["package"], "hook"))} if "package" in hook else {"name": hook["name"]}
            )
        return place, size

    # --- files -------------------------------------------------------------------------------------------

    def _package(self, package: Any, kind: str) -> Path:
        if not isinstance(package, str) or not _PACKAGE.fullmatch(package):
            raise SetupFailed(f"{package!r} is not the name of a package")
        path = self._base / "packages" / f"{package}.{kind}"
        if not path.exists() and not self.fetch(path.name):
            raise SetupFailed(f"the package {package} is not there")
        return path

    def _unpack(self, environment: bytes, package: Any) -> tuple[str, int]:
        with self._unpacking:
            archive = self._package(package, "zip")
            target = self._base / "files" / package
            if not target.exists():
                part = target.with_suffix(".part")
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                try:
                    _extract(archive, part)
                except (OSError, zipfile.BadZipFile) as error:
                    raise SetupFailed(f"the package {package} cannot be unpacked: {error}") from None
                part.rename(target)
            self._users.setdefault(package, set()).add(environment)
            return str(target), archive.stat().st_size

    def remove(self, environment: bytes) -> None:
        """Delete what only this environment used."""
        with self._unpacking:
            for package, users in list(self._users.items()):
                users.discard(environment)
                if not users:
                    del self._users[package]
                    shutil.rmtree(self._base / "files" / package, ignore_errors=True)
        shutil.rmtree(self._base / "python" / environment.hex(), ignore_errors=True)

    def close(self) -> None:
        """Nobody is told any more, and nothing that was begun goes on."""
        self._closed = True
        for process in list(self._processes):
            process.kill()

    # --- packages ----------------------------------------------------------------------------------------

    def _install(
        self, environment: bytes, pip: dict[str, Any], command: list[str], deadline: float | None
    ) -> tuple[Path, int]:
        target = self._base / "python" / environment.hex()
        shutil.rmtree(target, ignore_errors=True)
        base = command or [sys.executable]
        self._run_command([*base, "-m", "venv", "--without-pip", str(target)], deadline, "a virtual environment")
        if not command:
            paths = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
            for library in target.glob("lib/python*/site-packages"):
                (library / "_obsray_parent.pth").write_text(_SEE_PARENT.format(paths=paths))
        python = str(target / "bin" / "python")
        install = [sys.executable, "-m", "pip", "--python", python, "install", "--disable-pip-version-check"]
        packages = [str(name) for name in pip["packages"]]
        options = [str(option) for option in pip["options"]]
        self._run_command([*install, "--no-input", *options, *packages], deadline, "pip install " + " ".join(packages))
        if pip.get("check"):
            self._run_command([sys.executable, "-m", "pip", "--python", python, "check"], deadline, "pip check")
        return target, sum(path.stat().st_size for path in target.rglob("*") if path.is_file())

    def _run_command(self, command: list[str], deadline: float | None, what: str) -> str:
        """Run a command to its end and return its output. Raises SetupFailed."""
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        except OSError as error:
            raise SetupFailed(f"{what}: {command[0]} cannot be run: {error.strerror}") from None
        self._processes.add(process)
        try:
            output, _ = process.communicate(timeout=None if deadline is None else max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise SetupFailed(f"{what} took longer than setup_timeout_seconds allows") from None
        finally:
            self._processes.discard(process)
        if process.returncode:
            raise SetupFailed(
                f"{what} failed (exit code {process.returncode}):\n{output.strip()[-_OUTPUT_CHARACTERS_MAX:]}"
            )
        return output

    def _probe(self, command: list[str], deadline: float | None) -> None:
        """Whether this command starts a Python in which workers of this node can run."""
        name = f"py_executable {' '.join(command)}"
        text = self._run_command([*command, "-P", "-c", _PROBE], deadline, name)
        found = re.search(r"obsray-python (\d+) (\d+)", text)
        ours = "{}.{}".format(*sys.version_info[:2])
        if found is None:
            raise SetupFailed(f"{name} did not run as Python does: {text[-300:]}")
        if ".".join(found.groups()) != ours:
            raise SetupFailed(
                f"{name} is Python {'.'.join(found.groups())}, the driver runs {ours}: values would not travel"
            )


def _extract(archive: Path, target: Path) -> None:
    """Unpack with the permission to execute; names that lead out of ``target`` are cut by ``zipfile``."""
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            path = opened.extract(info, target)
            if info.external_attr >> 16 & 0o111 and not info.is_dir():
                os.chmod(path, 0o700)
