"""Sessions in a store that speaks S3: moto's server, which keeps its buckets in memory, spoken to over a socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from obsray.cli import archive
from obsray.cli.command import main
from obsray.cli.problem import Problem
from obsray.telemetry.collector import Collector
from obsray.testing.recorded_session import Recorded, record_session
from tests.integration.programs import eventually

pytestmark = pytest.mark.timeout(120)


@dataclass
class S3:
    """A store with one bucket."""

    port: int

    def at(self, path: str) -> str:
        return f"s3://{path}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def tell(self, path: str, data: bytes = b"") -> None:
        plain = {"content-type": "text/plain"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, plain, method="POST")
        urllib.request.urlopen(request, timeout=30).read()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    store = S3(free_port())
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(store.port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        assert process.poll() is None, "moto's server has ended"
        try:
            store.tell("/moto-api/reset")
        except OSError:
            return False
        return True

    eventually(answers)
    yield store
    process.kill()
    process.wait()


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> S3:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    # Copies that are brought here lie where nobody else's do.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("here")))
    server.tell("/moto-api/reset")
    server.tell("/moto-api/reset-auth", b"inf")
    filesystem, _ = archive._open(f"{server.at('bucket')}&allow_bucket_creation=true")
    filesystem.create_dir("bucket")
    return server


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    made = record_session(tmp_path_factory.mktemp("s") / "s_20260101-000000_9", tasks=60, live=False)
    Collector(made.directory, 1 << 30).close()
    (made.directory / "token").write_bytes(os.urandom(32))
    (made.directory / "logs").mkdir(exist_ok=True)
    (made.directory / "logs" / "node.log").write_text("node is up\n")
    return made


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that succeeds prints."""
    capsys.readouterr()
    assert main(list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_an_archived_session_is_listed_and_answers_every_question_as_the_original(s3, recorded, tmp_path, capsys):
    original, name = str(recorded.directory), recorded.directory.name
    put = json.loads(said(capsys, "history", "archive", original, s3.at("bucket/kept"), "--json"))
    address = put["address"]
    assert address == s3.at(f"bucket/kept/{name}") and put["bytes"] > 1000
    (listed,) = json.loads(said(capsys, "history", "list", s3.at("bucket/kept"), "--json"))
    assert listed["address"] == address and listed["session"] == name and 0 < listed["bytes"] < put["bytes"]
    task = json.loads(said(capsys, "list", "tasks", "--session", original, "--json", "--limit", "1"))["rows"][0][
        "task_id"
    ]
    for question in (
        ["status", "--json"], ["list", "tasks", "--limit", "100"], ["list", "workers", "--json"], ["why", task],
        ["sql", "SELECT name, count(*) FROM tasks GROUP BY name ORDER BY name", "--format", "json"], ["story", task],
        ["summary", "tasks", "--json"],
    ):  # fmt: skip
        here = said(capsys, *question, "--session", original)
        there = said(capsys, *question, "--session", address)
        copy = archive.get(address)
        assert there.replace(str(copy), original) == here, question
    report = tmp_path / "job.html"
    said(capsys, "report", address, "-o", str(report))
    assert b"<html" in report.read_bytes()[:500] and report.stat().st_size > 10_000


def test_a_session_in_s3_is_served_as_a_dashboard(s3, recorded):
    address, _ = archive.put(recorded.directory, s3.at("bucket"))
    command = [sys.executable, "-m", "obsray.cli", "history", "serve", address, "--port", str(free_port()), "--json"]
    environment = os.environ | {"TMPDIR": str(archive.session_file.root().parent)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    try:
        url = served_at(process)
        token = (archive.get(address) / "token").read_bytes().hex()
        request = urllib.request.Request(f"{url}/api/v1/tasks?limit=5", headers={"authorization": f"Bearer {token}"})
        rows = json.loads(eventually(lambda: answer(request)))["rows"]
        assert len(rows) == 5
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("path", "message", "advice"),
    [
        ("nowhere/x", "Bucket 'nowhere' not found", "no such bucket"),
        ("bucket/x/s_1", "no session is there", "history archive"),
    ],
)
def test_what_is_not_there_is_said_with_what_to_do(s3, recorded, path, message, advice):
    with pytest.raises(Problem, match=message) as caught:
        archive.get(s3.at(path))
    assert advice in caught.value.advice
    if "bucket" in advice:
        for ask in (archive.sessions_at, lambda address: archive.put(recorded.directory, address)):
            with pytest.raises(Problem, match="'nowhere' not found"):
                ask(s3.at(path))


def test_credentials_that_are_wrong_or_missing_are_said_to_be(s3, recorded, monkeypatch):
    s3.tell("/moto-api/reset-auth", b"0")
    try:
        for ask in (archive.get, archive.sessions_at, lambda address: archive.put(recorded.directory, address)):
            with pytest.raises(Problem) as caught:
                ask(s3.at("bucket/x"))
            assert "AWS_ACCESS_KEY_ID" in caught.value.advice, caught.value
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("HOME", "/nonexistent")
        with pytest.raises(Problem) as caught:
            archive.get(s3.at("bucket/x"))
        assert "AWS_ACCESS_KEY_ID" in caught.value.advice, caught.value
    finally:
        s3.tell("/moto-api/reset-auth", b"inf")


def test_a_store_that_does_not_answer_is_given_up_soon_and_an_address_may_say_only_what_is_known(s3, capsys):
    began = time.monotonic()
    for address, message in (
        (f"s3://bucket/x?endpoint_override=127.0.0.1:{free_port()}&scheme=http", "connect"),
        ("s3://bucket/x?endpoint_override=no.such.host.invalid", "resolve"),
        ("s3://no-such-bucket-of-ours.invalid/x", "resolve"),
        ("s3://bucket/x?endpoint=127.0.0.1", "there is no option endpoint"),
        ("s3:///x", "no bucket"),
        ("s3://key:secret@bucket/x", "no place in an address"),
    ):
        with pytest.raises(Problem, match=f"(?i){message}") as caught:
            archive.get(address)
        assert caught.value.advice
    # Six of them; each takes less than a second where nothing else happens.
    assert time.monotonic() - began < 60
    assert main(["status", "--session", "s3://bucket/x?endpoint=1"]) == 1
    error = capsys.readouterr().err
    assert "there is no option endpoint" in error and "endpoint_override" in error and "Traceback" not in error


def served_at(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else ""
    found = json.loads(line)
    return str(found["url"]).partition("/?")[0].rstrip("/")


def answer(request: urllib.request.Request) -> bytes | None:
    try:
        return bytes(urllib.request.urlopen(request, timeout=30).read())
    except urllib.error.HTTPError:
        raise
    except OSError:
        return None
