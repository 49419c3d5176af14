"""The command line over a recorded session, as a user would type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from obsray.cli import command, output
from obsray.dashboard.tables import TABLES
from obsray.telemetry import session_file
from obsray.testing.recorded_session import DEAD_PID, Recorded, record_session

HOSTILE = "\x1b[31mred\x1b]0;title\x07\r\n\u202e<b>"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    made = record_session(tmp_path_factory.mktemp("tmp") / "s_20260101-000000_5", tasks=300)
    (made.directory / "token").write_bytes(b"\x5a" * 32)
    logs = made.directory / "logs"
    logs.mkdir(exist_ok=True)
    for worker in made.workers:
        lines = [f"line {number}" for number in range(3000)]
        (logs / f"worker-{worker.hex()}.out").write_text("\n".join([*lines, HOSTILE]) + "\n")
        (logs / f"worker-{worker.hex()}.err").write_text("careful\n")
    (logs / "node.log").write_text("node is up\n")
    return made


@pytest.fixture
def obsray(recorded, capsys, monkeypatch):
    """Run a command against the recorded session: ``obsray("list", "tasks") -> (exit code, stdout, stderr)``."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str, session: str | None = str(recorded.directory)) -> tuple[int, str, str]:
        code = command.main([*arguments, *(["--session", session] if session else [])])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_placement_group_is_shown_with_why_it_waits(obsray, recorded):
    code, out, _ = obsray("get", "placement-group", recorded.waiting_group.hex())
    assert code == 0 and "bundle 1 lacks CPU 2 more (0 of 2 free)" in out and "CPU:1 | CPU:2" in out
    assert json.loads(obsray("get", "placement-group", recorded.group.hex(), "--json")[1])["state"] == "CREATED"
    assert "is there after waiting" in obsray("story", recorded.group.hex())[1]
    assert obsray("list", "placement-groups", "--filter", "state=PENDING")[1].splitlines()[-1].startswith("1 placement")


def test_a_small_value_that_is_in_no_table_is_explained_by_its_task(obsray):
    (task, *_) = json.loads(obsray("list", "tasks", "--limit", "1", "--json")[1])["rows"]
    code, out, err = obsray("why", task["task_id"] + "00000007")
    assert (code, err) == (0, "") and "object" in out
    code, _, err = obsray("why", "ff" * 20)
    assert code != 0 and "no task" in err


@pytest.mark.parametrize("noun", list(TABLES))
def test_every_noun_is_listed_as_a_table_and_as_json(obsray, noun):
    code, out, err = obsray("list", noun)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[0] == TABLES[noun].columns[0].title.split()[0]
    assert max(map(len, lines)) <= 120 and "\x1b" not in out
    code, out, _ = obsray("list", noun, "--json")
    found = json.loads(out)
    assert code == 0 and {"session", "rows", "total", "limit", "offset"} <= set(found)
    assert len(found["rows"]) == min(found["total"], 50)


def test_a_listing_says_how_many_there_are_and_how_to_see_more(obsray, recorded):
    assert obsray("list", "tasks")[1].splitlines()[-1] == f"50 of {recorded.submitted} tasks; --offset 50 for more"
    last = obsray("list", "tasks", "--offset", "300", "--limit", "10")[1].splitlines()[-1]
    assert last == f"301 to 310 of {recorded.submitted} tasks; --offset 310 for more"
    assert obsray("list", "tasks", "--offset", "9999")[1].startswith("nothing from 9,999 on")
    assert obsray("list", "nodes")[1].splitlines()[-1] == "1 node"
    assert obsray("list", "tasks", "--filter", "name=nobody")[1] == "no tasks that match\n"


def test_filters_must_all_hold_and_sort_goes_both_ways(obsray, recorded):
    arguments = (
        "list",
        "tasks",
        "--json",
        "--filter",
        "state=FINISHED",
        "--filter",
        "run_seconds > 2ms",
        "--limit",
        "999",
    )
    rows = json.loads(obsray(*arguments, "--sort", "-run_seconds")[1])["rows"]
    values = [row["run_seconds"] for row in rows]
    assert (
        values == sorted(values, reverse=True)
        and min(values) > 0.002
        and {row["state"] for row in rows} == {"FINISHED"}
    )
    rising = json.loads(obsray(*arguments, "--sort", "run_seconds")[1])["rows"]
    assert [row["run_seconds"] for row in rising] == values[::-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "nonsense"),
        ("list", "tasks", "--filter", "nonsense=1"),
        ("list", "tasks", "--filter", "run_seconds > soon"),
        ("list", "tasks", "--filter", "state"),
        ("list", "tasks", "--sort", "nonsense"),
        ("list", "tasks", "--limit", "0"),
        ("list", "tasks", "--offset", "-1"),
        ("get", "tasks"),
        ("nonsense",),
        ("get", "task"),
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_exit_code_2_and_say_what_is_right(obsray, arguments):
    code, out, err = obsray(*arguments)
    assert code == 2 and out == "" and len(err) > 30


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "task", "deadbeef"),
        ("get", "deadbeef"),
        ("story", "deadbeef"),
        ("get", "task", "x'y"),
        ("story", "\x1b[31m"),
        ("logs", "deadbeef"),
        ("logs", "../../token"),
    ],
)
def test_unknown_ids_are_exit_code_1_and_say_what_to_do(obsray, arguments):
    code, out, err = obsray(*arguments)
    assert code == 1 and out == "" and "\x1b" not in err and "'obsray l" in err


def test_without_a_kind_of_thing_whatever_has_the_id_is_shown(obsray, recorded):
    for kind, identifier in (("task", recorded.killed_task), ("placement-group", recorded.group)):
        named, plain = obsray("get", kind, identifier.hex(), "--json"), obsray("get", "--json", identifier.hex())
        assert named == plain and named[0] == 0 and identifier.hex() in plain[1]
    code, _, err = obsray("get", "gpu:0")
    assert code == 1 and "'obsray why gpu:0'" in err


def test_nothing_of_a_session_that_is_over_can_be_drained(obsray):
    code, out, err = obsray("drain", "nonsense")
    assert code == 1 and out == "" and "no cluster runs here" in err and "Errno" not in err and "--session" in err


def test_an_id_may_be_short_if_it_is_unique(obsray, recorded):
    task = recorded.killed_task.hex()
    number = int(task[16:], 16)
    for form in (task, task.upper(), f"{task[:8]}:{number}"):
        code, out, _ = obsray("get", "task", form, "--json")
        assert code == 0 and json.loads(out)["task_id"] == task
    code, _, err = obsray("get", "task", task[:12])
    assert code == 1 and "could be 20 or more" in err


def test_a_task_is_told_with_its_time_and_its_error(obsray, recorded):
    out = obsray("get", "task", recorded.failed_task.hex())[1]
    assert out.startswith("flaky  FAILED") and "ValueError: no luck today" in out
    for part in ("queued", "dispatch", "fetch arguments", "run", "store result"):
        assert f"  {part} " in out
    assert "CPU: 1 wanted" in obsray("get", "task", recorded.queued_task.hex())[1]


@pytest.mark.parametrize("name", ["killed_task", "killed_worker", "actor", "spilled_object", "driver", "node"])
def test_everything_has_a_story(obsray, recorded, name):
    identifier = getattr(recorded, name).hex()
    code, out, _ = obsray("story", identifier)
    assert code == 0 and identifier in out.splitlines()[0] and len(out.splitlines()) >= 2
    told = json.loads(obsray("story", identifier, "--json")[1])
    assert told["id"] == identifier and len(told["events"]) >= 1
    times = [event["time_ns"] for event in told["events"]]
    assert times == sorted(times)


def test_status_is_a_note_on_the_whole_session(obsray, recorded):
    code, out, _ = obsray("status")
    assert code == 0
    for said in (
        "session",
        "live",
        "CPU",
        "store",
        "workers",
        "none lost",
        "why tasks wait",
        "recent errors",
        "no luck today",
    ):
        assert said in out
    assert f"FINISHED{recorded.finished:>28,}" in out
    found = json.loads(obsray("status", "--json")[1])
    assert found["live"] is True and found["ledger"]["events_lost"] == 0 and len(found["pending_reasons"]) == 2


def test_logs_are_listed_shown_by_their_end_and_harmless(obsray, recorded):
    worker = recorded.workers[0].hex()
    assert f"worker-{worker}.out" in obsray("logs")[1]
    code, out, _ = obsray("logs", worker[:6], "--tail", "3")
    assert code == 0 and out.splitlines()[0] == "err careful"
    # The hostile line ends in a carriage return and its rest stands in the next line.
    assert "line 2999" in out and "line 2990" not in out
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out and "\r" not in out
    assert obsray("logs", "node")[1] == "node is up\n"
    assert len(obsray("logs", f"worker-{worker}.out", "--tail", "-1")[1].splitlines()) == 3002
    found = [json.loads(line) for line in obsray("logs", worker, "--tail", "2", "--json")[1].splitlines()]
    assert [(row["file"], row["line"]) for row in found] == [
        (f"worker-{worker}.err", 1), (f"worker-{worker}.out", 3001), (f"worker-{worker}.out", 3002)
    ]  # fmt: skip


def test_of_a_task_whose_lines_were_not_told_apart_there_is_its_worker_which_is_said(obsray, recorded):
    task = json.loads(obsray("get", "task", recorded.killed_task.hex(), "--json")[1])
    _, out, err = obsray("logs", "--task", recorded.killed_task.hex(), "--json")
    assert {json.loads(line)["worker_id"] for line in out.splitlines()} == {task["worker_id"]} and "all of its" in err
    code, _, err = obsray("logs", "--task", recorded.queued_task.hex())
    assert code == 1 and "has not run" in err


def test_logs_never_leave_their_directory(obsray, recorded):
    (recorded.directory / "logs" / "worker-link.out").symlink_to(recorded.directory / "token")
    for name in ("../token", "/etc/passwd", "link", "worker-link.out", "%2e%2e/token", "\x00"):
        code, out, _ = obsray("logs", name)
        assert code == 1 and out == ""


def test_followed_logs_end_with_the_session(recorded, tmp_path):
    made = record_session(tmp_path / "s_20260101-000000_6", tasks=20)
    path = made.directory / "logs" / f"worker-{made.workers[0].hex()}.out"
    path.parent.mkdir(exist_ok=True)
    path.write_text("first\n")
    arguments = ["-u", "-m", "obsray.cli", "logs", made.workers[0].hex(), "-f", "--session", str(made.directory)]
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        try:
            assert follower.stdout.readline() == "first\n"
            with path.open("a") as file:
                file.write("second\nhalf")
            assert follower.stdout.readline() == "second\n"
            with path.open("a") as file:
                file.write(" a line\n")
            session_file.update(made.directory, node_pid=DEAD_PID)
            assert follower.stdout.readline() == "half a line\n"
            assert follower.wait(30) == 0
        finally:
            follower.kill()


def test_the_newest_live_session_is_meant_else_the_newest_recorded_which_is_said(
    obsray, tmp_path, monkeypatch, recorded
):
    monkeypatch.setattr(session_file, "root", lambda: tmp_path)
    code, _, err = obsray("status", session=None)
    assert code == 1 and "no session" in err and "obsray demo" in err
    for name, at in (("s_20260101-000000_7", 10), ("s_20260102-000000_8", 20)):
        record_session(tmp_path / name, tasks=20, live=False)
        session_file.update(tmp_path / name, started_at_ns=at)
    code, out, err = obsray("list", "tasks", "--json", session=None)
    assert (
        code == 0
        and json.loads(out)["session"] == "s_20260102-000000_8"
        and "recorded session s_20260102-000000_8" in err
    )
    session_file.update(tmp_path / "s_20260101-000000_7", node_pid=os.getpid(), stopped_at_ns=None)
    code, out, err = obsray("list", "tasks", "--json", session=None)
    assert json.loads(out)["session"] == "s_20260101-000000_7" and err == ""
    assert json.loads(obsray("list", "tasks", "--json", session="_8")[1])["session"] == "s_20260102-000000_8"
    assert obsray("status", session="nonsense")[0] == 1


def test_a_served_dashboard_gives_its_link(obsray, recorded):
    session_file.update(recorded.directory, dashboard_url="http://127.0.0.1:9", dashboard_pid=os.getpid())
    assert obsray("dashboard")[1] == f"http://127.0.0.1:9/auth?token={'5a' * 32}\n"
    found = json.loads(obsray("dashboard", "--json")[1])
    assert found["token"] == "5a" * 32 and found["url"] == "http://127.0.0.1:9"
    session_file.update(recorded.directory, dashboard_url=None, dashboard_pid=None)


def test_an_unserved_dashboard_is_served_at_once(recorded, tmp_path):
    arguments = ["-u", "-m", "obsray.cli", "dashboard", "--port", "0", "--session", str(recorded.directory)]
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        try:
            link = serving.stdout.readline()
            serving.terminate()
            assert serving.wait(30) == 0
        finally:
            serving.kill()
    assert link.startswith("http://127.0.0.1:") and link.endswith(f"/auth?token={'5a' * 32}\n")


def test_hostile_text_is_stripped_from_tables():
    column = TABLES["actors"].columns[1]
    text = output.table([column], [{"class_name": HOSTILE}], 60, coloured=False)
    assert "\x1b" not in text and "\r" not in text and "\u202e" not in text and len(text.splitlines()) == 2


@pytest.mark.parametrize("room", [40, 60, 80, 100, 140, 200])
def test_tables_fit_the_terminal(obsray, recorded, room, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(room))
    for noun in TABLES:
        lines = obsray("list", noun)[1].splitlines()[:-1]
        assert max(map(len, lines)) <= room or len(lines[0].split()) <= 3, (noun, lines[0])


def test_colour_is_for_terminals_only(obsray, monkeypatch):
    assert "\x1b" not in obsray("list", "tasks")[1]
    monkeypatch.setattr(output, "is_coloured", lambda _: True)
    assert "\x1b[31mFAILED" in obsray("list", "tasks", "--filter", "state=FAILED")[1]


@pytest.mark.parametrize("verb", ["", "status", "list", "get", "story", "logs", "dashboard"])
def test_every_command_has_help_with_examples(capsys, verb):
    assert command.main([*([verb] if verb else []), "--help"]) == 0
    assert "example" in capsys.readouterr().out


def test_no_command_is_help(capsys):
    assert command.main([]) == 0
    assert "commands" in capsys.readouterr().out


def test_help_loads_nothing_heavy():
    code = "import sys; from obsray.cli import main; main(['--help']); print(','.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    loaded_names = set(loaded.splitlines()[-1].split(","))
    assert not loaded_names & {"numpy", "pyarrow", "starlette", "uvicorn", "jinja2", "grpc", "asyncio", "cloudpickle"}


def test_a_reader_that_has_seen_enough_is_no_error(recorded: Recorded):
    arguments = f"{sys.executable} -m obsray.cli list tasks --limit 300 --session {recorded.directory} | head -1"
    ended = subprocess.run(["sh", "-c", arguments], capture_output=True, text=True, timeout=60)
    assert ended.stdout.startswith("Task") and ended.stderr == ""


def test_demo_is_handed_on_with_its_own_arguments(monkeypatch):
    import obsray.demo

    given: list[list[str]] = []
    monkeypatch.setattr(obsray.demo, "main", lambda arguments: given.append(list(arguments)) or 0)
    assert command.main(["demo", "--quick", "--help"]) == 0
    assert given == [["--quick", "--help"]]


def test_a_session_without_telemetry_is_said(tmp_path: Path, capsys):
    (tmp_path / "session.json").write_text("{}")
    assert command.main(["status", "--session", str(tmp_path)]) == 1
    assert "nothing is recorded" in capsys.readouterr().err
