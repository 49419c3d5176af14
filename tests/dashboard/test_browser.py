"""What a browser makes of it. Needs Chromium (Debian: apt-get install chromium); without one these tests fail."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from served import Served, served

from obsray.testing.recorded_session import Recorded, record_session
from tests.browser import browser

#: Milliseconds of the browser's own clock that a page may take; real time passes faster.
PAGE_MS = 4000


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    made = record_session(tmp_path_factory.mktemp("sessions") / "s_20260101-000000_4", tasks=300)
    (made.directory / "token").write_bytes(os.urandom(32))
    return made


@pytest.fixture(scope="module")
def dashboard(recorded: Recorded) -> Iterator[Served]:
    with served(recorded.directory) as running:
        yield running


def browse(dashboard: Served, path: str, profile: Path, size: str = "1400,1000") -> tuple[str, list[str]]:
    """The document after its scripts ran, and what the page wrote to the console."""
    command = [
        browser(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        f"--user-data-dir={profile}",
        f"--window-size={size}",
        f"--virtual-time-budget={PAGE_MS}",
        "--dump-dom",
        f"{dashboard.url}/auth?token={dashboard.token}&next={quote(path, safe='')}",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert ended.stdout, ended.stderr[-2000:]
    return ended.stdout, re.findall(r'CONSOLE\S* "(.*)"', ended.stderr)


def text_of(html: str) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)))


def test_the_overview_lives_in_a_browser(dashboard, recorded, tmp_path):
    html, console = browse(dashboard, "/", tmp_path)
    assert console == []
    text = text_of(html)
    for shown in (
        "Tasks per second",
        "Tasks by state",
        "every event accounted for",
        "No event lost",
        recorded.directory.name,
    ):
        assert shown in text
    assert f"{recorded.submitted:,} submitted = {recorded.finished:,} finished" in text
    # The chart was drawn, and htmx is at work (it marks what it swapped in).
    assert "<canvas" in html and 'class="uplot' in html
    assert dashboard.token not in html


def test_a_task_page_in_a_browser_has_a_bar_for_every_part(dashboard, recorded, tmp_path):
    html, console = browse(dashboard, f"/tasks/{recorded.killed_task.hex()}", tmp_path)
    assert console == []
    assert len(re.findall(r'<rect class="part-\w+"', html)) >= 4
    text = text_of(html)
    assert "Where the time went" in text and "killed by signal 9" in text and "earlier attempt" in text


def test_a_filtered_list_in_a_browser_keeps_the_question_in_its_fields(dashboard, recorded, tmp_path):
    html, console = browse(dashboard, "/tasks?state=FAILED&where=run_seconds+%3E+0", tmp_path, "700,1000")
    assert console == []
    assert f"{recorded.failed} tasks match" in text_of(html)
    assert re.search(r"<option selected[^>]*>FAILED", html) and 'value="run_seconds &gt; 0"' in html
