"""Sessions kept elsewhere: copied to and from whatever ``pyarrow.fs`` reaches (``s3://``, ``gs://``, ``file://``)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from obsray.cli import sessions
from obsray.dashboard import units
from obsray.telemetry import session_file

#: What a session is after its end. Its key stays here: whoever reads a copy has one of its own.
PARTS = ("session.json", "telemetry", "rings", "logs", "jobs", "jobs_submitted")
_ADVICE = (
    ("NO_SUCH_BUCKET", "There is no such bucket; buckets are made with the tools of whoever offers them."),
    ("ACCESS_DENIED", "The credentials may not do that; give others in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."),
    ("credential", "Give credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in ~/.aws/credentials."),
    ("resolve", "Is the address right? Stores other than Amazon's: s3://bucket/path?endpoint_override=host:port"),
    ("connect", "Is the address right? Stores other than Amazon's: s3://bucket/path?endpoint_override=host:port"),
)


def is_address(text: str | None) -> bool:
    """Whether that is written like a place elsewhere."""
    return text is not None and "://" in text


def put(directory: Path, address: str) -> tuple[str, int]:
    """Copy a session to ``address``/<its name>; where that is, and how many bytes. Raises Problem."""
    from pyarrow import fs

    filesystem, path = _open(address)
    target = f"{path.rstrip('/')}/{directory.name}"
    size = 0
    try:
        filesystem.create_dir(target, recursive=True)
        local = fs.LocalFileSystem()
        # The description comes last: a copy with it is whole.
        for part in (*PARTS[1:], PARTS[0]):
            source = directory / part
            for file in sorted([source] if source.is_file() else source.rglob("*")):
                if not file.is_file() or file.is_symlink():
                    continue
                there = f"{target}/{file.relative_to(directory).as_posix()}"
                filesystem.create_dir(there.rpartition("/")[0], recursive=True)
                fs.copy_files(str(file), there, source_filesystem=local, destination_filesystem=filesystem)
                size += file.stat().st_size
    except OSError as error:
        raise _problem(address, error) from None
    place, question, options = address.partition("?")
    return f"{place.rstrip('/')}/{directory.name}{question}{options}", size


def get(address: str) -> Path:
    """A copy of the session at ``address`` in a directory here, brought up to date. Raises Problem."""
    from pyarrow import fs

    filesystem, path = _open(address)
    path = path.rstrip("/")
    try:
        if filesystem.get_file_info(f"{path}/session.json").type != fs.FileType.File:
            raise _not_one(address, filesystem, path)
        name = path.rpartition("/")[2]
        key = hashlib.sha256(address.encode()).hexdigest()[:12]
        session_file.root().mkdir(mode=0o700, exist_ok=True)
        copy = session_file.root() / "archives" / key / name
        copy.mkdir(mode=0o700, parents=True, exist_ok=True)
        for found in filesystem.get_file_info(fs.FileSelector(path, recursive=True)):
            relative = found.path[len(path) :].lstrip("/")
            if found.type != fs.FileType.File or ".." in relative.split("/"):
                continue
            file = copy / relative
            if file.exists() and file.stat().st_size == found.size and relative != "session.json":
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            fs.copy_files(found.path, str(file), source_filesystem=filesystem)
    except OSError as error:
        raise _problem(address, error) from None
    return copy


def _open(address: str) -> tuple[Any, str]:
    from pyarrow import fs, lib

    try:
        filesystem, path = fs.FileSystem.from_uri(address)
    except (lib.ArrowException, OSError, ValueError) as error:
        raise _problem(address, error) from None
    return filesystem, path


def _not_one(address: str, filesystem: Any, path: str) -> sessions.Problem:
    """What is at an address that is no session."""
    from pyarrow import fs

    there = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    names = [each.base_name for each in there if each.type == fs.FileType.Directory]
    shown = f"; there are {units.plain(', '.join(sorted(names)[:10]))}" if names else ""
    return sessions.Problem(
        f"{units.plain(address)}: no session is there{shown}",
        "Give the address that 'obsray history archive' printed: it ends with the session's name.",
    )


def _problem(address: str, error: Exception) -> sessions.Problem:
    said = " ".join(str(error).split())[:400]
    advice = next((text for word, text in _ADVICE if word.lower() in said.lower()), "")
    return sessions.Problem(
        f"{units.plain(address)}: {units.plain(said)}",
        advice or "An address is like s3://bucket/path or file:///path; a session can be copied by hand too.",
    )
