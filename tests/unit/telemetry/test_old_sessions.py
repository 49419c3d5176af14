"""Ended sessions beyond the newest few are removed when a new one starts; nothing else ever is."""

import json
import os
import time
from pathlib import Path

from obsray.telemetry.old_sessions import remove_old_sessions
from obsray.telemetry.pids import stat_of
from obsray.telemetry.session_file import is_live


def session(base: Path, name: str, started_at_ns: int, **facts: object) -> Path:
    directory = base / name
    directory.mkdir()
    (directory / "session.json").write_text(json.dumps({"started_at_ns": started_at_ns, **facts}))
    return directory


def test_the_newest_ended_sessions_stay_and_older_ones_go(tmp_path: Path) -> None:
    now = session(tmp_path, "s_now", 99, node_pid=os.getpid())
    ended = [session(tmp_path, f"s_{n}", n, node_pid=1, stopped_at_ns=n + 1) for n in range(1, 6)]
    assert remove_old_sessions(now, keep=2) == [ended[2], ended[1], ended[0]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s_4", "s_5", "s_now"]


def test_a_running_session_stays_however_old(tmp_path: Path) -> None:
    now = session(tmp_path, "s_now", 99)
    running = session(tmp_path, "s_old", 1, node_pid=os.getpid())
    assert remove_old_sessions(now, keep=0) == []
    assert running.exists()


def test_a_session_that_is_just_starting_stays_and_one_that_never_did_goes(tmp_path: Path) -> None:
    now = session(tmp_path, "s_now", 99)
    (tmp_path / "s_starting").mkdir()
    failed = tmp_path / "s_failed"
    failed.mkdir()
    os.utime(failed, (time.time() - 7200, time.time() - 7200))
    assert remove_old_sessions(now, keep=0) == [failed]


def test_links_and_other_names_are_not_touched(tmp_path: Path) -> None:
    now = session(tmp_path, "s_now", 99)
    elsewhere = tmp_path / "precious"
    elsewhere.mkdir()
    (tmp_path / "s_link").symlink_to(elsewhere)
    (tmp_path / "latest").symlink_to("s_now")
    assert remove_old_sessions(now, keep=0) == []
    assert elsewhere.exists() and (tmp_path / "s_link").is_symlink()


def test_a_node_whose_number_another_process_has_now_does_not_keep_its_session(tmp_path: Path) -> None:
    now = session(tmp_path, "s_now", 99)
    me = stat_of(os.getpid())
    assert me is not None
    mine = session(tmp_path, "s_mine", 2, node_pid=os.getpid(), node_started_ticks=me.started)
    other = session(tmp_path, "s_other", 1, node_pid=os.getpid(), node_started_ticks=me.started - 1)
    assert is_live(mine) and not is_live(other)
    assert remove_old_sessions(now, keep=0) == [other]
