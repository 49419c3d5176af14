"""The description of what is below ``/api/`` is whole and true: of every address, and of every answer."""

from __future__ import annotations

import re

import pytest
from fake_views import PORT, TOKEN
from starlette.testclient import TestClient

from obsray.dashboard import openapi
from obsray.dashboard.app import create_app
from obsray.dashboard.source import Source, open_views
from obsray.testing.recorded_session import record_session

#: Addresses whose answers do not end, or are not of this session.
_ELSEWHERE = {"/api/jobs/{id}/logs/tail", "/api/packages/{protocol}/{name}"}
_JSON = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "object": (dict,),
    "array": (list,), "null": (type(None),),
}  # fmt: skip


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record_session(tmp_path_factory.mktemp("session"), tasks=200, live=False)


@pytest.fixture(scope="module")
def program(recorded):
    """A client of a dashboard over a real session."""
    (recorded.directory / "token").write_bytes(bytes.fromhex(TOKEN))
    app = create_app(Source(recorded.directory, open_views), TOKEN, PORT)
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}") as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        yield client


@pytest.fixture(scope="module")
def said(program):
    return program.get("/api/v1/openapi.json").json()


def wrong(schema, value, where, said):
    """What of a value is not as a schema says."""
    if "$ref" in schema:
        schema = said["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        found = [wrong(each, value, where, said) for each in schema["anyOf"]]
        return [] if [] in found else found[0]
    words = schema.get("type", [])
    words = [words] if isinstance(words, str) else words
    if words and not any(type(value) in _JSON[word] for word in words):
        return [f"{where}: {value!r} is not {words}"]
    found = []
    if isinstance(value, dict):
        found += [f"{where}.{name} is missing" for name in schema.get("required", []) if name not in value]
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                found += wrong(inner, value[name], f"{where}.{name}", said)
    if isinstance(value, list) and "items" in schema:
        for each in value:
            found += wrong(schema["items"], each, f"{where}[]", said)
    return found


def test_every_address_below_api_is_described_and_no_other(program, said):
    routes = [route for route in program.app._app.routes if route.path.startswith("/api/")]
    there = {
        (route.path.replace(":path", ""), method.lower())
        for route in routes
        for method in (route.methods or {"GET"}) - {"HEAD"}
    }
    described = {(path, method) for path, found in said["paths"].items() for method in found}
    assert there == described
    assert said["openapi"].startswith("3.1") and said["paths"] == openapi.describe()["paths"]


def test_every_answer_is_as_described(program, recorded, said):
    task = next(row for row in program.get("/api/v1/tasks").json()["rows"] if row["worker_id"])
    questions = {
        "/api/v1/different": "?where=run_seconds>0", "/api/v1/sql": "?query=select 1 as one",
        "/api/v1/ask": '?question={"method":"functions","arguments":[],"options":{}}',
        "/api/v0/logs/{media_type}": f"?filename=worker-{recorded.workers[0].hex()}.out",
    }  # fmt: skip
    answered = 0
    for path, methods in said["paths"].items():
        if "get" not in methods or path in _ELSEWHERE:
            continue
        identifier = task["worker_id"] if "post-mortem" in path else task["task_id"]
        address = path.replace("{id}", identifier).replace("{media_type}", "file") + questions.get(path, "")
        got = program.get(address)
        response = methods["get"]["responses"].get(str(got.status_code))
        assert response is not None, (address, got.status_code, got.text[:300])
        kind = got.headers["content-type"].partition(";")[0]
        schema = response["content"][kind]["schema"]
        if kind == "application/json":
            assert wrong(schema, got.json(), path, said)[:3] == []
        answered += got.status_code == 200
    assert answered > 40, "most of them answer"


def test_every_parameter_that_is_described_is_understood(program, said):
    for path, methods in said["paths"].items():
        if not re.fullmatch(r"/api/v[01]/[a-z_-]+", path) or path == "/api/v1/ask":
            continue
        for parameter in methods["get"]["parameters"]:
            refused = program.get(path, params={parameter["name"]: "0"}).json()
            assert "there is no parameter" not in str(refused), (path, parameter["name"])
        refused = program.get(path, params={"no_such_parameter": "0"})
        assert refused.status_code in (200, 400), path
