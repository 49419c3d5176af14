"""How whoever submits jobs finds the session behind an address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from obsray.core.runtime import joining
from obsray.job_submission import connection
from obsray.telemetry import session_file


def test_a_dashboard_that_is_starting_at_that_address_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, starting = tmp_path / "there", tmp_path / "starting"
    looks: list[Path] = []

    def read(directory: Path) -> dict[str, Any]:
        looks.append(directory)
        up = directory == there or looks.count(starting) > 3
        return {"dashboard": True, "dashboard_url": f"http://127.0.0.1:{1 if directory == there else 2}" if up else ""}

    monkeypatch.setattr(joining, "running_sessions", lambda: [starting, there])
    monkeypatch.setattr(session_file, "read", read)
    assert connection._session_at("127.0.0.1", 1) == there and looks == [starting, there]
    assert connection._session_at("localhost", 2) == starting
    assert connection._session_at("127.0.0.1", 3) is None
    assert connection._session_at("example.org", 1) is None
