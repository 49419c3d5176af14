"""Sessions kept elsewhere: copied to and from whatever ``pyarrow.fs`` reaches (``s3://``, ``gs://``, ``file://``)."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from obsray.cli.problem import Problem
from obsray.dashboard import units
from obsray.telemetry import session_file

#: What a session is after its end. Its key stays here: whoever reads a copy has one of its own.
PARTS = ("session.json", "telemetry", "rings", "logs", "jobs", "jobs_submitted")
_CREDENTIALS = "in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in ~/.aws/credentials"
_ADDRESSES = (
    "Is the address right? Stores other than Amazon's: s3://bucket/path?endpoint_override=host:port&scheme=http"
)
_ADVICE = (
    ("NO_SUCH_BUCKET", "There is no such bucket; buckets are made with the tools of whoever offers them."),
    ("' not found", "There is no such bucket; buckets are made with the tools of whoever offers them."),
    ("ACCESS_DENIED", f"The credentials may not do that; give others {_CREDENTIALS}."),
    ("INVALID_ACCESS_KEY", f"The store does not know these credentials; give others {_CREDENTIALS}."),
    ("SIGNATURE_DOES_NOT_MATCH", f"The secret key is wrong; give the right one {_CREDENTIALS}."),
    ("credential", f"Give credentials {_CREDENTIALS}."),
    ("resolve", _ADDRESSES),
    ("connect", _ADDRESSES),
    ("timed out", _ADDRESSES),
    ("timeout", _ADDRESSES),
)
#: How long a store may take to take a connection, and to answer; a call is tried twice.
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0
#: What may stand behind the question mark of an S3 address.
S3_OPTIONS = ("endpoint_override", "scheme", "region", "allow_bucket_creation")
_AMAZON = "s3.amazonaws.com"
#: Variables that name another store than Amazon's; pyarrow reads them itself.
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


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
    return _below(address, directory.name), size


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
            fs.copy_files(found.path, str(file), filesystem, fs.LocalFileSystem())
        _forget_dashboard(copy)
    except OSError as error:
        raise _problem(address, error) from None
    return copy


def _forget_dashboard(copy: Path) -> None:
    """Who showed the original, on a machine that need not be this one, does not show the copy."""
    facts = session_file.read(copy)
    kept = {name: None if name.startswith("dashboard_") else value for name, value in facts.items()}
    if kept != facts:
        (copy / "session.json").write_text(json.dumps(kept, indent=1))


def sessions_at(address: str) -> list[dict[str, Any]]:
    """The sessions that are kept at ``address``, the newest first: name, size of what was recorded, address."""
    from pyarrow import fs

    filesystem, path = _open(address)
    try:
        _must_have_bucket(address, filesystem, path)
        found: dict[str, int] = {}
        whole = set[str]()
        for file in filesystem.get_file_info(fs.FileSelector(path.rstrip("/"), recursive=True, allow_not_found=True)):
            name, _, rest = file.path[len(path.rstrip("/")) :].lstrip("/").partition("/")
            if file.type == fs.FileType.File and rest:
                found[name] = found.get(name, 0) + (file.size if rest.startswith("telemetry/") else 0)
                whole |= {name} if rest == "session.json" else set()
    except OSError as error:
        raise _problem(address, error) from None
    return [
        {"session": name, "bytes": size, "address": _below(address, name)}
        for name, size in sorted(found.items(), reverse=True)
        if name in whole
    ]


def _below(address: str, name: str) -> str:
    place, question, options = address.partition("?")
    return f"{place.rstrip('/')}/{name}{question}{options}"


def _open(address: str) -> tuple[Any, str]:
    from pyarrow import fs, lib

    if address.startswith("s3://"):
        return _s3(address)
    try:
        filesystem, path = fs.FileSystem.from_uri(address)
    except (lib.ArrowException, OSError, ValueError) as error:
        raise _problem(address, error) from None
    return filesystem, path


def _s3(address: str) -> tuple[Any, str]:
    """As ``from_uri``, but it gives up soon and says what may stand in an address."""
    from pyarrow import fs, lib

    parts = urlsplit(address)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := options.keys() - set(S3_OPTIONS):
        raise Problem(
            f"{units.plain(address)}: there is no option {units.plain(min(unknown))}",
            f"Options of an S3 address: {', '.join(S3_OPTIONS)}. Credentials are given {_CREDENTIALS}.",
        )
    bucket = parts.netloc
    if not bucket or "@" in bucket:
        raise Problem(
            f"{units.plain(address)}: {'a key has no place in an address' if bucket else 'there is no bucket in it'}",
            f"An address is like s3://bucket/path; credentials are given {_CREDENTIALS}.",
        )
    creates = options.pop("allow_bucket_creation", "false").lower() in ("1", "true")
    try:
        region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not region and "endpoint_override" not in options and not any(map(os.environ.get, _ENDPOINTS)):
            # Otherwise it would be looked for in vain for a while.
            socket.getaddrinfo(f"{bucket}.{_AMAZON}", 443)
            region = fs.resolve_s3_region(bucket)
        filesystem = fs.S3FileSystem(
            endpoint_override=options.get("endpoint_override"), scheme=options.get("scheme", "https"),
            region=region or "us-east-1", allow_bucket_creation=creates, connect_timeout=CONNECT_SECONDS,
            request_timeout=ANSWER_SECONDS, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2),
        )  # fmt: skip
    except socket.gaierror as error:
        raise _problem(address, OSError(f"could not resolve {bucket}.{_AMAZON}: {error.strerror}")) from None
    except (lib.ArrowException, OSError, ValueError) as error:
        raise _problem(address, error) from None
    return filesystem, f"{bucket}{unquote(parts.path)}"


def _must_have_bucket(address: str, filesystem: Any, path: str) -> None:
    """Raises Problem if an S3 address names a bucket that is not there."""
    from pyarrow import fs

    bucket = path.partition("/")[0]
    if address.startswith("s3://") and filesystem.get_file_info(bucket).type == fs.FileType.NotFound:
        raise _problem(address, OSError(f"Bucket '{bucket}' not found"))


def _not_one(address: str, filesystem: Any, path: str) -> Problem:
    """What is at an address that is no session."""
    from pyarrow import fs

    _must_have_bucket(address, filesystem, path)
    there = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    names = [each.base_name for each in there if each.type == fs.FileType.Directory]
    shown = f"; there are {units.plain(', '.join(sorted(names)[:10]))}" if names else ""
    return Problem(
        f"{units.plain(address)}: no session is there{shown}",
        "Give the address that 'obsray history archive' printed: it ends with the session's name.",
    )


def _has_credentials() -> bool:
    """Whether there are credentials of S3 where people put them; a machine may have a role all the same."""
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or os.path.expanduser("~/.aws/credentials")
    return bool(os.environ.get("AWS_ACCESS_KEY_ID")) or os.path.exists(file)


def _problem(address: str, error: Exception) -> Problem:
    said = " ".join(str(error).split())[:400]
    advice = next((text for word, text in _ADVICE if word.lower() in said.lower()), "")
    if not advice and address.startswith("s3://") and not _has_credentials():
        advice = f"No credentials are here: give some {_CREDENTIALS}."
    return Problem(
        f"{units.plain(address)}: {units.plain(said)}",
        advice or "An address is like s3://bucket/path or file:///path; a session can be copied by hand too.",
    )
