"""Whose each line of a log is, and finding lines, over files and records that are known exactly."""

from __future__ import annotations

import json

import pytest
from scenes import OTHER_NODE, Logs

from obsray.telemetry import log_files, session_file
from obsray.telemetry.database import engine
from obsray.telemetry.log_search import LogQuery, LogSearch
from obsray.telemetry.table import QueryError


@pytest.fixture
def logs(tmp_path):
    return Logs(tmp_path)


def texts(rows: list[dict]) -> list[str]:
    return [row["text"] for row in rows]


def test_lines_belong_to_the_attempt_that_began_to_write_before_them(logs):
    worker = logs.worker()
    first, second = logs.submit("first"), logs.submit("Model.second")
    logs.write(worker, first, "one\ntwo\n")
    logs.write(worker, second, "three\n")
    logs.write(worker, None, "nobody\n")
    logs.write(worker, first, "half ")
    logs.write(worker, second, "a line\n")
    assert texts(logs.find(task=first.hex())) == ["one", "two", "half "]
    assert texts(logs.find(function="second")) == texts(logs.find(function="Model.*")) == ["three", "a line"]
    everything = logs.find()
    assert [row["line"] for row in everything] == [1, 2, 3, 4, 5, 5]
    assert [row["name"] for row in everything] == ["first", "first", "Model.second", None, "first", "Model.second"]
    assert everything[0]["trace_id"] and everything[0]["job_id"] == "00000001"
    data = logs.file(worker).read_bytes()
    assert all(data[row["offset"] :].startswith(row["text"].encode()) for row in everything)


def test_lines_are_found_by_pattern_level_time_and_stream(logs):
    worker = logs.worker()
    task = logs.submit("train")
    logs.write(worker, task, "loss=0.5\n")
    logs.write(worker, task, "careful\n", "err", "WARNING", "my.log")
    between = logs.tick(5)
    logs.write(worker, task, "loss=0.1\nLOSS\n")
    assert texts(logs.find(grep=r"loss=0\.\d")) == ["loss=0.5", "loss=0.1"]
    assert texts(logs.find(grep="loss", since=between)) == ["loss=0.1"]
    assert texts(logs.find(grep="loss", until=between)) == ["loss=0.5"]
    (careful,) = logs.find(level="warning")
    assert careful["logger"] == "my.log" and logs.find(level="error") == []
    assert texts(logs.find(stream="err")) == ["careful"]
    assert texts(logs.find(limit=1)) == ["LOSS"]


def test_records_logged_as_json_say_themselves_what_they_are(logs):
    worker = logs.worker()
    record = {"message": "it broke", "levelname": "ERROR", "logger": "deep.down", "timestamp_ns": 5}
    logs.write(worker, logs.submit("f"), json.dumps(record) + "\n" + '{"message": 3}\n{not json}\n')
    (found,) = logs.find(level="ERROR")
    assert (found["message"], found["logger"], found["time_ns"]) == ("it broke", "deep.down", 5)


def test_files_of_other_nodes_are_searched_too_and_those_of_the_runtime(logs):
    worker, far = logs.worker(), logs.worker(node=OTHER_NODE)
    logs.write(worker, logs.submit("f"), "here\n")
    logs.write(far, logs.submit("f"), "there\n", node=OTHER_NODE)
    (logs.directory / "logs" / "node.log").write_text("2026-01-02 03:04:05,006 WARNING obsray.node: slow\n  for long\n")
    assert texts(logs.find(function="f")) == ["here", "there"]
    assert texts(logs.find(node=OTHER_NODE.hex()[:6])) == ["there"]
    (slow, continued) = logs.find(stream="system")
    assert (slow["level"], slow["logger"]) == ("WARNING", "obsray.node") and slow["time_ns"] == continued["time_ns"] > 0


def test_the_end_of_a_huge_file_is_found_by_counting_line_ends(logs, monkeypatch):
    monkeypatch.setattr(log_files, "BLOCK_BYTES", 64)
    worker = logs.worker()
    for count in (1, 2, 7, 40):
        logs.file(worker).unlink(missing_ok=True)
        logs.write(worker, None, "".join(f"line {number}\n" for number in range(count)), mark=False)
        for wanted in (0, 1, 3, 39, 40, 41):
            found = logs.find(limit=wanted)
            assert texts(found) == [f"line {number}" for number in range(max(0, count - wanted), count)]
            assert [row["line"] for row in found] == list(range(max(0, count - wanted) + 1, count + 1))


def test_what_is_written_later_is_found_by_the_same_search_once(logs):
    worker = logs.worker()
    task = logs.submit("f")
    logs.write(worker, task, "one\nha")
    session_file.update(logs.directory, node_pid=1)
    views = logs.views()
    views.refresh()
    search = LogSearch(views, LogQuery.read(views.now_ns(), function="f"))
    assert texts(search.newest(final=False)) == ["one"]
    logs.write(worker, task, "lf\n", mark=False)
    other = logs.submit("g")
    logs.write(worker, other, "not mine\n")
    logs.write(worker, task, "two\n")
    assert texts(search.more()) == ["half", "two"] and search.more() == []


def test_sql_sees_lines_with_their_tasks(logs):
    pytest.importorskip("duckdb")
    worker = logs.worker()
    logs.write(worker, logs.submit("f"), "a\nb\n")
    views = logs.views()
    views.refresh()
    query = "SELECT name, line, text, time > TIMESTAMP '2020-01-01' AS timed FROM logs ORDER BY line"
    found = engine.prepare(views, query).run().to_pylist()
    line = {"name": "f", "line": 1, "text": "a", "timed": True}
    assert found == [line, {**line, "line": 2, "text": "b"}]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"grep": "("}, "not a regular expression"), ({"level": "loud"}, "DEBUG, INFO"),
        ({"since": "soon"}, "no moment"),
        ({"limit": "many"}, "whole number"), ({"task": "../x"}, "hex digits"), ({"stream": "both"}, "system"),
        ({"colour": "red"}, "no parameter"), ({"grep": "x" * 2000}, "characters"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_told(asked, said):
    with pytest.raises(QueryError, match=said):
        LogQuery.read(0, **asked)
