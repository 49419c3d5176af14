"""A report is one file: every task is in it, it holds no markup of users, and a browser opens it without a server."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import zlib

import numpy as np
import pytest

from obsray.cli import command, web
from obsray.report import page
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session
from tests.browser import browser


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record_session(tmp_path_factory.mktemp("session") / "s_20260101-000000_9", tasks=120, live=False)


@pytest.fixture(scope="module")
def views(recorded):
    views = Views(Store.open(recorded.directory))
    views.refresh()
    return views


def data_of(html):
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.S).group(1))


def column(data, name):
    kind, text = data["tasks"]["columns"][name]
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    code = {"Uint8": "u1", "Uint16": "<u2", "Uint32": "<u4", "Int32": "<i4", "Float32": "<f4", "Float64": "<f8"}[kind]
    return np.ascontiguousarray(planes.reshape(-1, data["tasks"]["rows"]).T).view(code).ravel()


def test_every_task_is_in_the_file_as_it_is_in_the_views(views):
    data = data_of(b"".join(page.write(views)).decode())
    table, lists = views.task_table, data["tasks"]["lists"]
    assert data["tasks"]["rows"] == data["tasks_total"] == len(table)
    assert [lists["state"][code] for code in column(data, "state")] == [
        row["state"] for row in views.task_rows(np.arange(len(table)), views.now_ns())
    ]
    assert np.array_equal(column(data, "run"), table["run_seconds"])
    started = np.cumsum(column(data, "started"))
    known = table["started_at"] > 0
    assert np.array_equal(started[known], (table["started_at"][known] - data["tasks"]["start_ns"]) // 1000)
    assert (started[~known] == -1).all()
    assert sum(row["total"] for row in data["functions"]) == len(table)


def test_of_too_many_tasks_the_failed_and_the_longest_are_kept(views):
    data = data_of(b"".join(page.write(views, tasks_max=20)).decode())
    assert data["tasks"]["rows"] == data["tasks_shown"] == 20 and data["tasks_total"] == len(views.task_table)
    states = [data["tasks"]["lists"]["state"][code] for code in column(data, "state")]
    assert states.count("FAILED") == views.overview(refresh=False)["tasks"]["FAILED"]


def test_user_text_does_not_end_the_script(views, monkeypatch):
    monkeypatch.setattr(views, "actors", lambda refresh=True: [{"class_name": "</script><b>x", "error": "<!--"}])
    html = b"".join(page.write(views)).decode()
    assert "</script><b>" not in html and data_of(html)["actors"][0]["class_name"] == "</script><b>x"
    assert "http://" not in html and "https://" not in html


def test_a_browser_opens_it_and_drills_down_to_one_task(recorded, tmp_path):
    path = tmp_path / "job.html"
    assert command.main(["report", str(recorded.directory), "-o", str(path)]) == 0
    arguments = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path / 'p'}",
        "--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom",
        f"{path.as_uri()}#task={recorded.failed_task.hex()}",
    ]  # fmt: skip
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=110, check=False)
    assert re.findall(r'CONSOLE\S* "(.*)"', ended.stderr) == []
    assert 'data-ready="yes"' in ended.stdout and "1 of " in ended.stdout
    assert recorded.failed_task.hex() in ended.stdout and "flaky" in ended.stdout


def test_a_session_that_is_over_is_served_with_a_key_of_its_own(recorded, monkeypatch):
    served = []
    monkeypatch.setattr(web, "run", lambda options: served.append(options.session) or 0)
    assert command.main(["history", "serve", str(recorded.directory), "--port", "0"]) == 0
    token = recorded.directory / "token"
    assert served == [str(recorded.directory)] and len(token.read_bytes()) == 32
    assert token.stat().st_mode & 0o777 == 0o600
    assert command.main(["history", "serve"]) == 1


def test_sessions_are_listed(recorded, monkeypatch, capsys):
    from obsray.telemetry import session_file

    monkeypatch.setattr(session_file, "sessions", lambda: [recorded.directory])
    assert command.main(["history", "list"]) == 0
    assert recorded.directory.name in capsys.readouterr().out
    assert command.main(["report", "--tasks", "0"]) == 2 and command.main(["report", "/nowhere/at/all"]) == 1
