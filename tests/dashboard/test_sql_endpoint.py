"""SQL over HTTP: behind the same guard, bounded, and never a file."""

from __future__ import annotations

import pyarrow as pa
import pytest
from fake_views import PORT, TOKEN
from starlette.testclient import TestClient

from obsray.dashboard.app import create_app
from obsray.dashboard.source import Source
from obsray.testing.recorded_session import record_session

SQL = "/api/v1/sql"


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    directory = record_session(tmp_path_factory.mktemp("session"), tasks=60).directory
    app = create_app(Source(directory), TOKEN, PORT)
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", follow_redirects=False) as client:
        yield client


@pytest.fixture
def client(asking):
    asking.headers["authorization"] = f"Bearer {TOKEN}"
    return asking


def test_rows_come_with_what_was_left_out(client):
    found = client.get(SQL, params={"query": "SELECT task_id, submitted_at FROM tasks", "limit": 10}).json()
    assert [column["name"] for column in found["columns"]] == ["task_id", "submitted_at"]
    assert len(found["rows"]) == 10 and found["left_out"] == found["total"] - 10 > 0


def test_the_whole_answer_comes_as_an_arrow_stream(client):
    said = client.get(SQL, params={"query": "FROM tasks", "format": "arrow"})
    table = pa.ipc.open_stream(said.content).read_all()
    assert table.num_rows > 10 and "run_seconds" in table.column_names


@pytest.mark.parametrize(
    "parameters",
    [
        {"query": "DROP TABLE tasks"}, {"query": "FROM read_text('/etc/passwd')"},
        {"query": "FROM tasks", "limit": "0"},
        {"query": "FROM tasks", "format": "xml"}, {"query": "FROM tasks", "allow_files": "1"},
        {"query": "FROM nowhere"}, {"limit": "1"},
    ],
)  # fmt: skip
def test_what_is_refused_is_a_bad_request_that_says_why(client, parameters):
    said = client.get(SQL, params=parameters)
    assert said.status_code == 400 and said.json()["detail"]


def test_nobody_asks_without_the_token(asking):
    asking.headers.pop("authorization", None)
    assert asking.get(SQL, params={"query": "SELECT 1"}).status_code == 401
    assert asking.get(SQL + "/tables").status_code == 401


def test_the_tables_are_described(client):
    described = client.get(SQL + "/tables").json()["tables"]
    assert client.get(SQL).json()["tables"] == described
    assert {"tasks", "attempts", "objects", "events"} <= {table["name"] for table in described}
