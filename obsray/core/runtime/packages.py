"""Directories and modules as packages: zip files named by what is in them, in the session's ``environments/packages``.

A package is made once per content. What a directory held is found out by names, sizes and times of its files, and only
if those have changed by reading them; what is sent is the copy, so later edits change nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

#: Never part of a package: what tools leave behind.
LEFT_OUT = (".git", ".venv", "venv", "__pycache__")
#: Every file in a package has this date, so that equal contents are equal packages.
_DATE = (1980, 1, 1, 0, 0, 0)
_LARGEST_SHOWN = 3


class Patterns:
    """The patterns of a .gitignore, each with the directory (relative, "" for the top) whose files it is about."""

    def __init__(self) -> None:
        self._rules: list[tuple[str, re.Pattern[str], bool, bool]] = []

    def add(self, lines: list[str], base: str = "") -> None:
        """Patterns that are given later win."""
        for line in lines:
            text = line.rstrip("\n").rstrip()
            if not text or text.startswith("#"):
                continue
            keep = text.startswith("!")
            text = text.removeprefix("!").removeprefix("./")
            only_directories = text.endswith("/")
            text = text.rstrip("/")
            anchored = "/" in text
            expression = _translate(text.lstrip("/"))
            if not anchored:
                expression = "(?:.*/)?" + expression
            self._rules.append((base, re.compile(expression), keep, only_directories))

    def excludes(self, path: str, is_directory: bool) -> bool:
        """Whether a path (relative, with slashes) is left out."""
        out = False
        for base, expression, keep, only_directories in self._rules:
            if only_directories and not is_directory:
                continue
            if base and not path.startswith(base + "/"):
                continue
            if expression.fullmatch(path[len(base) + 1 :] if base else path):
                out = not keep
        return out


def _translate(pattern: str) -> str:
    found, i = "", 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
            found, i = found + "(?:.*/)?", i + 3
        elif pattern.startswith("**", i):
            found, i = found + ".*", i + 2
        elif pattern[i] == "*":
            found, i = found + "[^/]*", i + 1
        elif pattern[i] == "?":
            found, i = found + "[^/]", i + 1
        elif pattern[i] == "[" and "]" in pattern[i + 2 :]:
            end = pattern.index("]", i + 2)
            inside = pattern[i + 1 : end].replace("\\", "\\\\")
            found, i = found + "[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]", end + 1
        else:
            found, i = found + re.escape(pattern[i]), i + 1
    return found


def files_of(top: Path, excludes: list[str]) -> Iterator[tuple[str, os.stat_result]]:
    """The files of a directory that belong into a package, by relative name, in order.

    Links are followed; what ``excludes``, a .gitignore or ``LEFT_OUT`` names is not there.
    """
    patterns = Patterns()
    patterns.add([name + "/" for name in LEFT_OUT])
    seen = {os.path.realpath(top)}

    def walk(directory: str) -> Iterator[tuple[str, os.stat_result]]:
        here = os.path.join(top, directory)
        try:
            with open(os.path.join(here, ".gitignore")) as file:
                patterns.add(file.readlines(), directory)
        except OSError:
            pass
        if not directory:
            # What the program says counts more than what its .gitignore says.
            patterns.add(excludes)
        for name in sorted(os.listdir(here)):
            path = f"{directory}/{name}" if directory else name
            try:
                status = os.stat(os.path.join(top, path))
            except OSError:
                # A link that leads nowhere.
                continue
            if stat.S_ISDIR(status.st_mode):
                real = os.path.realpath(os.path.join(top, path))
                if real not in seen and not patterns.excludes(path, True):
                    seen.add(real)
                    yield from walk(path)
            elif stat.S_ISREG(status.st_mode) and not patterns.excludes(path, False):
                yield path, status

    yield from walk("")


class Packages:
    """Makes packages below ``directory``; one of more than ``bytes_max`` is refused."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        #: (path, prefix, excludes) -> what its files looked like, and the package they made.
        self._known: dict[tuple[str, str, tuple[str, ...]], tuple[object, str]] = {}

    def directory(self, path: str, prefix: str, excludes: list[str]) -> str:
        """The package of a directory, its files below ``prefix``. Raises ValueError if it is too large to send."""
        top = Path(path).expanduser().resolve()
        found = list(files_of(top, excludes))
        looks = tuple((name, status.st_mtime_ns, status.st_size, status.st_mode) for name, status in found)
        key = (str(top), prefix, tuple(excludes))
        known = self._known.get(key)
        if known is not None and known[0] == looks:
            return known[1]
        sizes = {name: status.st_size for name, status in found}
        self._check_size(str(top), sum(sizes.values()), sizes)
        named = [(f"{prefix}/{name}" if prefix else name, top / name, status.st_mode) for name, status in found]
        package = self._pack(named)
        self._known[key] = (looks, package)
        return package

    def file(self, path: str) -> str:
        """The package of one file: a module, or a .zip or .whl as it is. Raises ValueError if it cannot be one."""
        source = Path(path).expanduser().resolve()
        if source.suffix == ".py":
            self._check_size(str(source), source.stat().st_size, {})
            return self._pack([(source.name, source, 0o644)])
        try:
            with zipfile.ZipFile(source) as archive:
                sizes = {info.filename: info.file_size for info in archive.infolist()}
                self._check_size(str(source), sum(sizes.values()), sizes)
                if source.suffix == ".whl":
                    _check_wheel(source.name, archive)
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"runtime_env: {path} is not a readable .zip file: {error}") from None
        return self.blob(source.read_bytes(), "zip")

    def blob(self, data: bytes, kind: str) -> str:
        """Bytes as they are."""
        name = hashlib.blake2b(data, digest_size=16).hexdigest()
        target = self._directory / f"{name}.{kind}"
        if not target.exists():
            part = self._part(name)
            part.write_bytes(data)
            part.rename(target)
        return name

    def _part(self, name: str) -> Path:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._directory / f"{name}.{os.getpid()}.part"

    def _pack(self, files: list[tuple[str, Path, int]]) -> str:
        digest = hashlib.blake2b(digest_size=16)
        part = self._part(os.urandom(8).hex())
        try:
            with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
                for name, source, mode in files:
                    data = source.read_bytes()
                    digest.update(f"{name}\0{mode & 0o111}\0{len(data)}\0".encode("utf-8", "surrogateescape"))
                    digest.update(data)
                    info = zipfile.ZipInfo(name, _DATE)
                    info.external_attr = (stat.S_IFREG | mode & 0o777) << 16
                    archive.writestr(info, data)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise ValueError(f"runtime_env: {error.filename or part} cannot be packed: {error.strerror}") from None
        target = self._directory / f"{digest.hexdigest()}.zip"
        part.rename(target)
        return digest.hexdigest()

    def _check_size(self, path: str, size: int, sizes: dict[str, int]) -> None:
        if size <= self._bytes_max:
            return
        largest = sorted(sizes, key=lambda name: -sizes[name])[:_LARGEST_SHOWN]
        shown = ", ".join(f"{name} ({sizes[name] / (1 << 20):.1f} MiB)" for name in largest)
        raise ValueError(
            f"runtime_env: {path} has {size / (1 << 20):.1f} MiB, more than the limit of "
            f"{self._bytes_max / (1 << 20):.1f} MiB{f' (largest: {shown})' if shown else ''}; leave files out with "
            "'excludes' or a .gitignore, or raise the setting environment_package_bytes_max"
        )


def _check_wheel(name: str, archive: zipfile.ZipFile) -> None:
    described = [entry for entry in archive.namelist() if entry.endswith(".dist-info/WHEEL")]
    if not described:
        raise ValueError(f"runtime_env: {name} is not a wheel: it has no .dist-info/WHEEL")
    if b"root-is-purelib: true" not in archive.read(described[0]).lower():
        raise ValueError(
            f"runtime_env['py_modules']: {name} holds compiled code and has to be installed: give it as 'pip'"
        )
