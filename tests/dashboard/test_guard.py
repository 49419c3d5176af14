"""Who may read. The matrix of routes and methods is made from the router, so a new route is in it by itself."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from fake_views import PORT, TOKEN, task_id, worker_id
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from obsray.dashboard.app import create_app
from obsray.dashboard.auth import CHANGING_PATHS, OPEN_PATHS, SECURITY_HEADERS, Guard, read_token
from obsray.dashboard.source import Source

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND")


def all_paths() -> list[str]:
    """One address for every route of the application."""
    guard = create_app(Source(__file__, lambda _: None), TOKEN, PORT)  # type: ignore[arg-type]
    found = ["/auth", "/static/app.js", "/no/such/page"]
    for route in guard._app.routes:  # type: ignore[attr-defined]
        if isinstance(route, Route):
            path = route.path.replace("{id}", worker_id(1) if "story" in route.path else task_id(3))
            found.append(path.replace("{protocol}", "package").replace("{name}", "ab.zip"))
        else:
            assert isinstance(route, Mount) and route.path == "/static"
    return sorted(set(found))


PATHS = all_paths()
#: What a program may change; everything else is only read.
CHANGED = [path for path in PATHS if path.startswith(CHANGING_PATHS)]
CLOSED = [path for path in PATHS if path not in OPEN_PATHS and path != "/auth"]


def test_the_matrix_knows_every_page_and_every_twin():
    assert {"/", "/tasks", "/ledger", "/_overview", "/api/v1/overview", "/api/v1/tasks", "/healthz"} <= set(PATHS)
    assert len(PATHS) >= 25


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of a session in which nothing has happened: made-up rows do not know every page."""
    directory = tmp_path_factory.mktemp("session") / "s_20260101-000000_1"
    for name in ("rings", "telemetry", "logs"):
        (directory / name).mkdir(parents=True)
    facts = {"session": directory.name, "node_pid": os.getpid(), "node": "ab" * 8, "started_at_ns": 1}
    (directory / "session.json").write_text(json.dumps(facts))
    app = create_app(Source(directory), TOKEN, PORT)
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", follow_redirects=False) as made:
        made.headers["authorization"] = f"Bearer {TOKEN}"
        yield made


@pytest.mark.parametrize("path", [path for path in PATHS if path not in CHANGED])
def test_only_reading_methods_are_answered_whoever_asks(reader, path):
    for method in METHODS:
        answer = reader.request(method, path)
        if method in ("GET", "HEAD"):
            assert answer.status_code in (200, 286, 303, 400, 401, 404), (method, path)
        else:
            assert answer.status_code == 405, (method, path)
            assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", CHANGED)
def test_what_changes_something_needs_the_token_in_a_header_of_its_own(stranger, session_directory, path):
    stranger.get("/auth", params={"token": TOKEN})
    for method in METHODS:
        answer = stranger.request(method, path, content=b"{}")
        if method in ("POST", "PUT", "DELETE"):
            # A cookie would come along from a page of somebody else, too.
            assert answer.status_code == 401, (method, path)
        elif method not in ("GET", "HEAD"):
            assert answer.status_code == 405, (method, path)
    assert sorted(item.name for item in session_directory.iterdir()) == ["session.json", "token"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer " + "00" * 32},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Bearer {TOKEN}0"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer \u00e9".encode("latin-1")},
        {"cookie": f"obsray_{PORT}="},
        {"cookie": f"obsray_{PORT}={'00' * 32}"},
        {"cookie": f"obsray_{PORT + 1}={TOKEN}"},
        {"cookie": f"token={TOKEN}"},
        {"x-token": TOKEN, "user-agent": "curl/8"},
    ],
    ids=str,
)
def test_nothing_closed_opens_without_the_token(stranger, views, headers):
    for method, path in itertools.product(("GET", "HEAD"), CLOSED):
        answer = stranger.request(method, path, headers=headers)
        assert answer.status_code == 401, (method, path)
        assert "train_step" not in answer.text and TOKEN not in answer.text, (method, path)
    assert views.refreshed == 0


def test_a_token_in_the_address_opens_nothing_but_the_door(stranger):
    for path in CLOSED:
        assert stranger.get(path, params={"token": TOKEN}).status_code == 401, path


def test_the_refusal_says_how_to_get_in(stranger):
    assert "obsray dashboard" in stranger.get("/").text
    assert "obsray dashboard" in stranger.get("/api/v1/tasks").json()["detail"]


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_what_is_open_holds_no_data(stranger, session_directory, path):
    answer = stranger.get(path)
    assert answer.status_code == 200
    for secret in ("train_step", session_directory.name, TOKEN):
        assert secret not in answer.text


def test_the_link_becomes_a_cookie_and_leaves_no_token_behind(stranger):
    answer = stranger.get("/auth", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
    assert stranger.get("/tasks").status_code == 200


@pytest.mark.parametrize("token", ["", "0", TOKEN[:-2], TOKEN.upper() + "x", "\x00", "é", f"{TOKEN},{TOKEN}"])
def test_a_wrong_link_sets_no_cookie(stranger, token):
    answer = stranger.get("/auth", params={"token": token})
    assert answer.status_code == 401 and "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("wish", "place"),
    [
        ("/tasks?state=FAILED&sort=-run_seconds", "/tasks?state=FAILED&sort=-run_seconds"),
        (f"/tasks/{task_id(1)}", f"/tasks/{task_id(1)}"),
        ("//evil.test/", "/"),
        ("/\\evil.test", "/"),
        ("https://evil.test", "/"),
        ("/%09/evil.test", "/%09/evil.test"),
        ("/tasks\r\nset-cookie: a=b", "/"),
        ("javascript:alert(1)", "/"),
        ('/"><script>', "/"),
    ],
)
def test_the_link_may_lead_to_a_page_of_this_server_only(stranger, wish, place):
    answer = stranger.get("/auth", params={"token": TOKEN, "next": wish})
    assert answer.headers["location"] == place


def test_a_link_clicked_in_another_site_ends_up_inside_as_well(stranger):
    arriving = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    answer = stranger.get("/auth", params={"token": TOKEN, "next": "/tasks"}, headers=arriving)
    # A redirect would be followed without the strict cookie.
    assert answer.status_code == 200 and 'content="0;url=/tasks"' in answer.text
    assert "samesite=strict" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "host",
    [
        "evil.test",
        f"evil.test:{PORT}",
        "127.0.0.1",
        "localhost",
        f"127.0.0.1:{PORT + 1}",
        f"127.0.0.1.evil.test:{PORT}",
        f"localhost.:{PORT}",
        f"0.0.0.0:{PORT}",
        f"127.1:{PORT}",
        f"user@127.0.0.1:{PORT}",
        "",
        f"[::ffff:127.0.0.1]:{PORT}",
    ],
)
def test_other_host_names_are_refused_even_with_the_token(client, host):
    for path in ("/", "/healthz", f"/auth?token={TOKEN}", "/static/app.css", "/api/v1/tasks"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 403 and "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"[::1]:{PORT}", f"LOCALHOST:{PORT}"])
def test_loopback_names_are_answered(client, host):
    assert client.get("/tasks", headers={"host": host}).status_code == 200


def test_two_host_headers_are_refused(app):
    status, _ = ask(app, [(b"host", f"127.0.0.1:{PORT}".encode()), (b"host", b"evil.test")])
    assert status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "null"},
        {"origin": "http://evil.test"},
        {"origin": f"https://127.0.0.1:{PORT}"},
        {"origin": f"http://127.0.0.1:{PORT + 1}"},
        {"origin": f"http://127.0.0.1:{PORT}.evil.test"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "nonsense"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
        {"sec-fetch-site": "cross-site", "user-agent": "obsray"},
    ],
    ids=str,
)
def test_other_sites_are_refused_even_with_the_token(client, headers):
    for path in ("/", "/tasks", "/_overview", "/api/v1/overview", f"/tasks/{task_id(1)}"):
        assert client.get(path, headers=headers).status_code == 403


def test_the_door_does_not_open_for_another_sites_script(stranger):
    for mode, destination in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe")):
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode, "sec-fetch-dest": destination}
        answer = stranger.get("/auth", params={"token": TOKEN}, headers=headers)
        assert answer.status_code == 403 and "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_carries_the_headers_and_none_allows_another_origin(reader, path):
    for answer in (reader.get(path), reader.post(path), reader.get(path, headers={"host": "evil.test"})):
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name] == value
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_policy_allows_nothing_inline():
    policy = SECURITY_HEADERS["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "*" not in policy


def test_a_body_is_never_read(app):
    async def receive() -> Any:
        raise AssertionError("somebody read the body")

    for method in ("POST", "PUT", "DELETE", "GET"):
        headers = [(b"host", f"127.0.0.1:{PORT}".encode()), (b"content-length", b"1000000000")]
        assert ask(app, headers, method, receive)[0] in (401, 405)


def test_addresses_have_a_limit(client):
    assert client.get("/tasks", params={"name": "x" * 9000}).status_code == 414


def test_a_websocket_is_closed_before_it_opens(app):
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../auth.py",
        "/static/%2e%2e/auth.py",
        "/static/..%2fauth.py",
        "/static/%252e%252e/auth.py",
        "/static//etc/passwd",
        "/static/vendor/../../app.py",
        "/static/\x00",
        "/static/%00app.css",
    ],
)
def test_files_outside_the_static_folder_are_not_served(client, path):
    answer = client.get(f"http://127.0.0.1:{PORT}{path}" if "\x00" not in path else "/static/%00")
    assert answer.status_code in (400, 404) and "import" not in answer.text and "root:" not in answer.text


def test_a_short_or_missing_token_is_an_error_and_not_an_open_door(tmp_path, views):
    with pytest.raises(OSError):
        read_token(tmp_path)
    (tmp_path / "token").write_bytes(b"")
    with pytest.raises(ValueError):
        read_token(tmp_path)
    with pytest.raises(ValueError):
        create_app(Source(tmp_path, lambda _: views), "", PORT)


def ask(app: Guard, headers: list[tuple[bytes, bytes]], method: str = "GET", receive: Any = None) -> tuple[int, bytes]:
    """One raw request, for what a client library would not send."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/", "raw_path": b"/", "query_string": b"", "headers": headers}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_a_client_without_the_fixture_token_is_a_stranger(app):
    with TestClient(app, base_url=f"http://localhost:{PORT}") as other:
        assert other.get("/").status_code == 401
