from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_views import PORT, TOKEN, FakeViews
from starlette.testclient import TestClient

from obsray.dashboard.app import create_app
from obsray.dashboard.auth import Guard
from obsray.dashboard.source import Source


@pytest.fixture
def views() -> FakeViews:
    return FakeViews()


@pytest.fixture
def session_directory(tmp_path: Path) -> Path:
    """The directory of a session whose node is this process, so it lives."""
    directory = tmp_path / "s_20260101-000000_1"
    directory.mkdir()
    (directory / "token").write_bytes(bytes.fromhex(TOKEN))
    (directory / "session.json").write_text(json.dumps({"session": directory.name, "node_pid": os.getpid()}))
    return directory


@pytest.fixture
def app(views: FakeViews, session_directory: Path) -> Guard:
    return create_app(Source(session_directory, lambda _: views), TOKEN, PORT)


@pytest.fixture
def stranger(app: Guard) -> Iterator[TestClient]:
    """A client that knows the address and nothing else."""
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", follow_redirects=False) as client:
        yield client


@pytest.fixture
def client(stranger: TestClient) -> TestClient:
    """A client with the session's token."""
    stranger.headers["authorization"] = f"Bearer {TOKEN}"
    return stranger
