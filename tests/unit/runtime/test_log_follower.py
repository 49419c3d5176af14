"""What workers print reaches the driver: whole lines, each once, with the worker in front."""

import os
from collections import deque
from pathlib import Path

import pytest

from obsray.core.runtime.bars import marked
from obsray.core.runtime.log_follower import CLAIMS, LogFollower, claim_output
from obsray.core.system.bylines import Bylines, lose, path_of


def follow(session: Path, job: int = 1, unclaimed: bool = True) -> LogFollower:
    for name in ("logs", CLAIMS):
        (session / name).mkdir(exist_ok=True)
    return LogFollower(session, job, unclaimed)


def test_whole_lines_are_shown_once_and_the_rest_when_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follower = follow(tmp_path)
    log = tmp_path / "logs" / "worker-3fa2c1d0aabbccdd.out"
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
    follower = follow(tmp_path)
    (tmp_path / "logs" / "worker-3fa2c1d0aabbccdd.err").write_bytes(b"warning \xff\n")
    (tmp_path / "logs" / "node.log").write_bytes(b"not for users\n")
    follower._poll(final=False)
    shown = capsys.readouterr()
    assert shown.err == "(worker 3fa2c1d0) warning \ufffd\n" and shown.out == ""


def test_a_program_that_says_how_its_lines_look_gets_them_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follow(tmp_path)
    follower = LogFollower(tmp_path, 1, True, dedup_seconds=60, bare=True)
    (tmp_path / "logs" / "worker-3fa2c1d0aabbccdd.err").write_text('{"message": "one"}\n')
    follower._poll(final=False)
    assert capsys.readouterr().err == '{"message": "one"}\n'


def test_each_line_has_its_task_or_actor_in_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follower = follow(tmp_path)
    worker = "3fa2c1d0aabbccdd"
    log, bylines = tmp_path / "logs" / f"worker-{worker}.out", Bylines(path_of(tmp_path, worker))
    (tmp_path / "logs" / "remote" / "67c9").mkdir(parents=True)
    (tmp_path / "logs" / "remote" / "67c9" / "name").write_text("left")
    bylines.tell("out", 0, "f")
    log.write_text("1 of f\n2 of f\n")
    follower._poll(final=False)
    bylines.tell("out", log.stat().st_size, "f")
    bylines.tell("out", log.stat().st_size, "a \x1b[2J\nname")
    bylines.tell("err", 0, "other")
    log.write_text(log.read_text() + "of a\n")
    bylines.tell("out", log.stat().st_size, "")
    log.write_text(log.read_text() + "of nobody\n")
    follower._poll(final=False)
    pid = os.getpid()
    lines = [f"(f pid={pid}) 1 of f", f"(f pid={pid}) 2 of f", f"(a name pid={pid}) of a", f"(pid={pid}) of nobody"]
    assert capsys.readouterr().out.splitlines() == lines
    assert len(path_of(tmp_path, worker).read_text().splitlines()) == 4, "nothing is said twice"
    far = tmp_path / "logs" / "remote" / "67c9" / "worker-0102030405060708.out"
    bylines = Bylines(path_of(tmp_path, "0102030405060708"))
    bylines.tell("out", 0, "g")
    far.write_text("of g\n")
    follower._poll(final=False)
    lose(path_of(tmp_path, "0102030405060708"))
    bylines.tell("out", 5, "h")
    far.write_text("of g\nwhose?\n")
    follower._poll(final=False)
    assert capsys.readouterr().out.splitlines() == [f"(g pid={pid}, node left) of g", f"(pid={pid}, node left) whose?"]


def test_what_is_no_byline_does_not_keep_a_line_from_being_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follower = follow(tmp_path)
    path_of(tmp_path, "3fa2c1d0aabbccdd").write_text('["out", 0\n["elsewhere", 0, "f", 1]\n[1]\n["out", 0, "f", 7]\n')
    (tmp_path / "logs" / "worker-3fa2c1d0aabbccdd.out").write_text("one\n")
    follower._poll(final=False)
    assert capsys.readouterr().out == "(f pid=1) one\n"


def test_a_directory_that_is_gone_is_no_error(tmp_path: Path) -> None:
    LogFollower(tmp_path / "gone", 1)._poll(final=True)


def test_each_driver_sees_its_own_workers_and_the_first_what_nobody_claims(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = follow(tmp_path, 1), follow(tmp_path, 2, unclaimed=False)
    for worker, job in ((b"worker_1", 1), (b"worker_2", 2), (b"worker_0", 0)):
        claim_output(tmp_path, worker, job)
        claim_output(tmp_path, worker, 9)  # whose it is does not change
        (tmp_path / "logs" / f"worker-{worker.hex()}.out").write_text(f"of {job}\n")
    (tmp_path / CLAIMS / b"worker_0".hex()).unlink()
    second._poll(final=True)
    assert capsys.readouterr().out == f"(worker {b'worker_2'.hex()[:8]}) of 2\n"
    first._poll(final=True)
    assert sorted(line[-4:] for line in capsys.readouterr().out.splitlines()) == ["of 0", "of 1"]


def test_bars_of_workers_end_with_their_worker_and_are_no_repeated_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follow(tmp_path)
    ended: deque[str] = deque()
    follower = LogFollower(tmp_path, 1, True, dedup_seconds=60, ended=ended)
    for worker in ("3fa2c1d0aabbccdd", "4fa2c1d0aabbccdd"):
        (tmp_path / "logs" / f"worker-{worker}.err").write_text(
            marked("1", 0, False, "rows: 1/3") + "\n" + marked("2", 0, True, "lines: 3/3") + "\nsaid\n"
        )
    follower._poll(final=False)
    assert sorted(capsys.readouterr().err.splitlines()) == [
        "(worker 3fa2c1d0) lines: 3/3", "(worker 3fa2c1d0) said", "(worker 4fa2c1d0) lines: 3/3",
    ]  # fmt: skip
    ended.append("3fa2c1d0aabbccdd")
    follower._poll(final=False)
    assert capsys.readouterr().err == "(worker 3fa2c1d0) rows: 1/3\n"
    follower._poll(final=True)
    assert capsys.readouterr().err == "(worker 4fa2c1d0) rows: 1/3\n(worker 4fa2c1d0) said\n"
