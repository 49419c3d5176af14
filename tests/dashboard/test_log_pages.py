"""Lines of logs as a page, as JSON and on a terminal: found, followed, escaped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from obsray.cli import command
from obsray.cli import logs as logs_command
from obsray.dashboard import source
from obsray.dashboard.app import create_app
from obsray.dashboard.source import Source
from obsray.telemetry import session_file
from obsray.telemetry.events import DeathCause
from obsray.telemetry.store import Store
from tests.unit.telemetry.scenes import Logs

TOKEN = "5a" * 32
PORT = 8265


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the session lives, for whoever asks; change its one element."""
    found = [True]
    monkeypatch.setattr(Store, "is_live", lambda _: found[0])
    monkeypatch.setattr(session_file, "node_lives", lambda _: found[0])
    monkeypatch.setattr(source, "REFRESH_SECONDS", 0.0)
    return found


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    made = Logs(tmp_path / "s_logs")
    session_file.update(made.directory, session="s_logs")
    return made


@pytest.fixture
def client(logs: Logs, live: list[bool]) -> Iterator[TestClient]:
    application = create_app(Source(logs.directory), TOKEN, PORT)
    with TestClient(application, base_url=f"http://127.0.0.1:{PORT}") as made:
        made.headers["authorization"] = f"Bearer {TOKEN}"
        yield made


def lines(client: TestClient, **asked: str) -> list[str]:
    answer = client.get("/api/v1/logs", params=asked)
    assert answer.status_code == 200, answer.text
    return [line["text"] for line in answer.json()["lines"]]


def test_lines_are_found_by_all_that_is_known_of_them(logs: Logs, client: TestClient) -> None:
    worker = logs.worker()
    f, g = logs.submit("f"), logs.submit("g")
    logs.write(worker, f, "one\n")
    logs.write(worker, g, "two\n", "err", "WARNING", "my.log")
    logs.write(worker, f, "three\n")
    assert sorted(lines(client)) == ["one", "three", "two"]
    assert lines(client, function="f") == lines(client, task=f.hex()) == ["one", "three"]
    assert lines(client, level="warning") == lines(client, stream="err") == lines(client, grep="^t.o$") == ["two"]
    assert lines(client, worker=worker.hex(), grep="THREE", ignore_case="1") == ["three"]
    newest = client.get("/api/v1/logs", params={"limit": "1", "function": "f"}).json()
    assert [line["text"] for line in newest["lines"]] == ["three"] and newest["left_out"] == 1
    (told,) = client.get("/api/v1/logs", params={"grep": "two"}).json()["lines"]
    assert told["task_id"] == g.hex() and told["trace_id"] and len(told["span_id"]) == 16 and told["logger"] == "my.log"


def test_a_page_that_follows_gets_each_line_once_and_stops_with_the_session(
    logs: Logs, client: TestClient, live: list[bool]
) -> None:
    worker, task = logs.worker(), logs.submit("f")
    logs.write(worker, task, "one\nha")

    def shown() -> tuple[int, list[int]]:
        answer = client.get("/logs", params={"follow": "1", "function": "f"}, headers={"hx-request": "true"})
        assert "every 2s" in answer.text or answer.status_code == 286
        return answer.status_code, [answer.text.count(f"<pre>{text}</pre>") for text in ("one", "half", "two")]

    assert shown() == (200, [1, 0, 0])
    logs.write(worker, task, "lf\n", mark=False)
    assert shown() == shown() == (200, [1, 1, 0])
    logs.die(worker, DeathCause.SIGNAL)
    other = logs.worker()
    logs.write(other, logs.submit("f"), "two\n")
    assert shown() == (200, [1, 1, 1])
    live[0] = False
    assert shown() == (286, [1, 1, 1])


def test_what_programs_print_cannot_speak_to_a_browser_or_a_terminal(
    logs: Logs, client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "<script>alert(1)</script>\x1b]0;owned\x07\x1b[2J\u202egnp.exe"
    logs.write(logs.worker(), logs.submit("f"), evil + "\n")
    text = client.get("/logs").text
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    assert command.main(["logs", "--function", "f", "--session", str(logs.directory)]) == 0
    for shown in (text, capsys.readouterr().out):
        assert "alert(1)" in shown and not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert lines(client) == [evil]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"grep": "("}, "not a regular expression"), ({"limit": "0"}, "limit is between"),
        ({"limit": "99999999"}, "limit is between"), ({"colour": "red"}, "no parameter"),
        ({"since": "soon"}, "since"), ({"task": "zz"}, "zz"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_told(client: TestClient, asked: dict[str, str], said: str) -> None:
    for path in ("/logs", "/api/v1/logs"):
        answer = client.get(path, params=asked)
        assert answer.status_code == 400 and said in answer.text, answer.text


def test_following_on_a_terminal_goes_on_when_a_worker_dies_and_ends_with_the_session(
    logs: Logs, live: list[bool], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = logs.worker()
    logs.write(worker, logs.submit("f"), "before\nlast wo")

    def dies() -> None:
        logs.write(worker, None, "rds\n", mark=False)
        logs.die(worker, DeathCause.SIGNAL)

    def goes_on() -> None:
        logs.write(logs.worker(), logs.submit("f"), "elsewhere\nunfinished")

    def ends() -> None:
        live[0] = False

    steps = iter([dies, goes_on, ends])
    monkeypatch.setattr(logs_command.time, "sleep", lambda _: next(steps)())
    assert command.main(["logs", "--follow", "--function", "f", "--json", "--session", str(logs.directory)]) == 0
    told = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert told == ["before", "last words", "elsewhere", "unfinished"]
