"""``obsray sql`` as a user types it."""

from __future__ import annotations

import io
import json

import pyarrow.parquet as pq
import pytest

from obsray.cli import command
from obsray.testing.recorded_session import record_session


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return record_session(tmp_path_factory.mktemp("session"), tasks=60, live=False).directory


@pytest.fixture
def obsray(directory, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        code = command.main([*arguments, "--session", str(directory)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_an_answer_is_a_table_json_or_csv(obsray):
    query = "SELECT name, count(*) AS n FROM tasks GROUP BY name ORDER BY name"
    code, out, _ = obsray("sql", query)
    assert code == 0 and out.splitlines()[0].split() == ["name", "n"]
    rows = json.loads(obsray("sql", query, "--json")[1])
    assert {"name": "matrix", "n": next(row["n"] for row in rows if row["name"] == "matrix")} in rows
    assert obsray("sql", query, "--format", "csv")[1].splitlines()[0] == "name,n"
    assert json.loads(obsray("sql", query, "--format", "jsonl")[1].splitlines()[0])["name"] == rows[0]["name"]


def test_more_rows_than_are_shown_are_counted(obsray):
    assert obsray("sql", "FROM tasks", "--limit", "3")[1].splitlines()[-1].startswith("3 of ")


def test_a_file_takes_everything(obsray, tmp_path):
    path = tmp_path / "tasks.parquet"
    assert obsray("sql", "FROM tasks", "--format", "parquet", "-o", str(path))[0] == 0
    assert pq.read_table(path).num_rows > 60
    code, _, err = obsray("sql", "FROM tasks", "-o", str(tmp_path / "no" / "file.csv"))
    assert code == 1 and "cannot write" in err


def test_a_query_comes_from_stdin_and_without_one_the_tables_are_told(obsray, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 42 AS answer"))
    assert "42" in obsray("sql", "-")[1]
    assert "tasks  One task" in obsray("sql")[1]


def test_a_wrong_query_is_one_line_of_advice_and_no_traceback(obsray):
    code, out, err = obsray("sql", "SELECT x FROM nowhere")
    assert code == 1 and out == "" and "nowhere" in err and "Traceback" not in err
    assert "--output" in obsray("sql", "FROM tasks", "--format", "arrow")[2]
    assert obsray("sql", "FROM tasks", "--timeout", "0")[0] == 2


def test_lists_in_the_words_of_the_state_api(obsray):
    code, out, err = obsray("list", "tasks", "--filter", "COLOR=red", "--limit", "2", "--format", "json")
    assert code == 2 and "keys are" in err
    code, out, err = obsray("list", "tasks", "--filter", "STATE=finished", "--limit", "2", "--format", "json")
    rows = json.loads(out)
    assert code == 0 and [row["state"] for row in rows] == ["FINISHED"] * 2 and "come after these" in err
    cursor = err.split("--cursor ")[1].split()[0]
    more = json.loads(obsray("list", "tasks", "--filter", "state=finished", "--cursor", cursor, "--format", "json")[1])
    assert rows[0]["task_id"] not in {row["task_id"] for row in more}
    assert "- task_id: " in obsray("list", "tasks", "--detail", "--limit", "1")[1]
    assert "SEVERITY" in obsray("list", "cluster-events", "--limit", "3")[1]
    assert obsray("list", "runtime-envs")[0] == 0 and obsray("list", "functions", "--format", "json")[0] == 1


def test_a_summary_counts_by_name(obsray):
    code, out, _ = obsray("summary", "tasks")
    assert code == 0 and "matrix" in out and "FINISHED: " in out
    assert json.loads(obsray("summary", "actors", "--format", "json")[1])["total_actors"] == 1
    assert obsray("summary", "tasks", "--filter", "nonsense")[0] == 2
