"""What workers print reaches the driver: whole lines, each once, with the worker in front."""

from pathlib import Path

import pytest

from obsray.core.runtime.log_follower import LogFollower


def test_whole_lines_are_shown_once_and_the_rest_when_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follower = LogFollower(tmp_path)
    log = tmp_path / "worker-3fa2c1d0aabbccdd.out"
    log.write_bytes(b"one\ntw")
    follower._poll(final=False)
    follower._poll(final=False)
    assert capsys.readouterr().out == "(worker 3fa2c1d0) one\n"
    log.write_bytes(b"one\ntwo\nthree")
    follower._poll(final=False)
    assert capsys.readouterr().out == "(worker 3fa2c1d0) two\n"
    follower._poll(final=True)
    assert capsys.readouterr().out == "(worker 3fa2c1d0) three\n"


def test_errors_go_to_stderr_and_other_files_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "worker-3fa2c1d0aabbccdd.err").write_bytes(b"warning \xff\n")
    (tmp_path / "node.log").write_bytes(b"not for users\n")
    LogFollower(tmp_path)._poll(final=False)
    shown = capsys.readouterr()
    assert shown.err == "(worker 3fa2c1d0) warning \ufffd\n" and shown.out == ""


def test_a_directory_that_is_gone_is_no_error(tmp_path: Path) -> None:
    LogFollower(tmp_path / "gone")._poll(final=True)
