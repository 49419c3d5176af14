"""What a command asks of a dashboard that has read everything already: the same words as if it had read it itself."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from obsray.cli import living as command_living
from obsray.cli.command import main
from obsray.dashboard.tables import TABLES
from obsray.telemetry import asking, living, session_file
from obsray.telemetry.collector import Collector
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import Recorded, record_session
from obsray.util import state
from tests.dashboard.served import Served, served

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    made = record_session(tmp_path_factory.mktemp("s") / "s_20260101-000000_7", tasks=200, live=False)
    Collector(made.directory, 1 << 30).close()
    if not (made.directory / "token").exists():
        (made.directory / "token").write_bytes(os.urandom(32))
    return made


@pytest.fixture(scope="module")
def dashboard(recorded: Recorded) -> Iterator[Served]:
    with served(recorded.directory) as running:
        yield running


@pytest.fixture(scope="module")
def own(recorded: Recorded) -> Views:
    views = Views(Store.open(recorded.directory))
    views.refresh()
    return views


def told(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def commands(own: Views) -> list[list[str]]:
    """Commands about everything there is."""
    tasks = own.tasks([("state", "in", ["FAILED", "FINISHED", "RUNNING"])], limit=2, refresh=False)["rows"]
    found = [["list", noun] for noun in TABLES] + [["list", "tasks", "--filter", "state=FAILED", "--sort", "name"]]
    found += [
        [verb, *noun, task["task_id"]]
        for task in tasks
        for verb, noun in (("why", ()), ("story", ()), ("get", ("task",)))
    ]
    found += [["get", noun.removesuffix("s"), row[key]] for noun, key, row in (
        ("actors", "actor_id", own.actors(refresh=False)[0]), ("workers", "worker_id", own.workers(refresh=False)[0]),
    )]  # fmt: skip
    found += [
        [name] for name in ("status", "books", "critical-path", "stragglers", "memory", "hangs", "gpu", "profile")
    ]
    found += [
        ["why", "ff" * 16],
        ["get", "task", "ffff"],
        ["list", "tasks", "--filter", "nothing=1"],
        ["post-mortem", "eeee"],
    ]
    # As text and as JSON in turns: both say what the same method answers.
    return [command + ["--json"] * (number % 2) for number, command in enumerate(found)]


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """What was asked of a dashboard."""
    found, real = list[str](), living.Dashboard.get

    def get(self, path, parameters):
        found.append(path)
        return real(self, path, parameters)

    monkeypatch.setattr(living.Dashboard, "get", get)
    return found


@pytest.fixture
def use(recorded, dashboard, monkeypatch):
    """Whether the dashboard is asked from now on; nobody here has read anything then."""

    def use(url: str | None) -> None:
        monkeypatch.setattr(asking, "_open", None)
        found = None if url is None else lambda directory: living.Dashboard(directory, url)
        monkeypatch.setattr(living, "dashboard_of", found or (lambda directory: None))

    return use


def test_every_command_says_the_same_whether_it_asks_the_dashboard_or_reads(recorded, dashboard, own, asked, use):
    session = ["--session", str(recorded.directory)]
    # The process that serves has written where it does.
    session_file.update(recorded.directory, dashboard_url=None, dashboard_pid=None)
    for command in commands(own):
        use(None)
        read = told(*command, *session)
        assert not asked, command
        use(dashboard.url)
        assert told(*command, *session) == read, command
        assert asked or read[0] == 2, command
        asked.clear()


def test_every_list_and_summary_of_the_state_api_is_the_same(recorded, dashboard, own, asked, use):
    session = str(recorded.directory)
    names = [name for name in state.__all__ if name.startswith(("list_", "summarize_"))]
    filters = [("state", "in", ["FAILED", "RUNNING"]), ("run_seconds", "<", 1e9), ("name", "contains", "a")]
    questions = [(name, {"detail": True} if name.startswith("list_") else {}) for name in names if "log" not in name]
    questions += [
        ("list_tasks", {"filters": filters, "sort": "run_seconds", "limit": 5}), ("list_tasks", {"limit": 3}),
        ("list_tasks", {"since": 1.5e9, "until": "now"}), ("summarize_tasks", {"filters": filters}),
        ("get_task", {"id": own.tasks(limit=1, refresh=False)["rows"][0]["task_id"]}),
    ]  # fmt: skip
    for name, options in questions:
        found = []
        for url in (None, dashboard.url):
            use(url)
            answer = getattr(state, name)(address=session, **options)
            if isinstance(answer, state.Rows):
                page = getattr(state, name)(address=session, **options | {"cursor": answer.next_cursor})
                answer = [[dict(row) for row in part] for part in (answer, page)], answer.total, answer.left_out
            found.append(answer if isinstance(answer, dict | tuple | list) else dict(answer))
        assert found[0] == found[1], name
        assert asked or name in ("list_gpus", "list_kernels"), name
        asked.clear()
    # What has no form in an address is read here.
    use(dashboard.url)
    assert state.list_tasks(session, [("name", "in", ["a,b", "c"])]) == []
    assert asked == []
    # Whoever has read everything already looks only at what is new.
    state.list_tasks(session)
    assert asked == []


def test_a_dashboard_that_is_gone_or_of_another_version_is_not_needed(recorded, dashboard, use, monkeypatch):
    session = ["--session", str(recorded.directory)]
    use(None)
    read, rows = told("list", "tasks", *session), told("list", "tasks", "--format", "json", *session)
    for url in ("http://127.0.0.1:9", "http://no.such.host.invalid:80"):
        use(url)
        assert told("list", "tasks", *session) == read
        assert told("list", "tasks", "--format", "json", *session) == rows
    use(dashboard.url)
    monkeypatch.setattr(command_living, "VERSION", "of another time")
    assert told("list", "tasks", *session) == read
    monkeypatch.setattr(living, "CHARACTERS_MAX", 10)
    assert told("list", "tasks", "--format", "json", *session) == rows


def test_only_a_session_that_lives_and_has_much_to_read_is_asked(recorded, dashboard, monkeypatch):
    session_file.update(recorded.directory, dashboard_url=dashboard.url, dashboard_pid=dashboard.process.pid)
    assert living.dashboard_of(recorded.directory) is None  # it is over
    monkeypatch.setattr(living, "is_live", lambda directory: True)
    assert living.dashboard_of(recorded.directory) is None  # that is read at once
    monkeypatch.setattr(living, "ROWS_MIN", 10)
    assert living.dashboard_of(recorded.directory) is not None
    session_file.update(recorded.directory, dashboard_pid=2**22 - 1)
    assert living.dashboard_of(recorded.directory) is None


@pytest.mark.parametrize(
    "question", ["", "{", "[]", '{"method": "refresh", "arguments": [], "options": {}}',
                 '{"method": "store", "arguments": [], "options": {}}',
                 '{"method": "tasks", "arguments": [], "options": {"limits": 1}}',
                 '{"method": "__class__", "arguments": [], "options": {}}'],
)  # fmt: skip
def test_only_questions_that_only_look_are_answered(dashboard, question):
    path = f"/api/v1/ask?question={quote(question)}"
    status, body = dashboard.get(path)
    assert status == 400 and "question" in json.loads(body)["detail"]
    assert dashboard.get(path, token="00" * 32)[0] in (401, 403)
