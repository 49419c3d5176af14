"""SQL answers from the same records as everything else, reads only, and says what is wrong with a query."""

from __future__ import annotations

import sys
from datetime import UTC

import pyarrow.parquet as pq
import pytest

import obsray.telemetry
from obsray.telemetry.collector import Collector
from obsray.telemetry.columns import SCHEMAS
from obsray.telemetry.database import engine
from obsray.telemetry.database.relations import RELATIONS, SQL_TYPES
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session
from tests.unit.telemetry.scenes import Scene


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    made = record_session(tmp_path_factory.mktemp("session"), tasks=300, live=False)
    (made.directory / "logs" / f"worker-{made.workers[0].hex()}.out").write_text("one\ntwo\n")
    return made


@pytest.fixture(scope="module")
def views(recorded):
    views = Views(Store.open(recorded.directory))
    views.refresh()
    return views


@pytest.fixture
def ask(views):
    def ask(query, *parameters, **options):
        return engine.prepare(views, query, parameters or None, **options).run().to_pylist()

    return ask


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_every_table_has_the_columns_that_are_documented(ask, relation):
    found = {row["column_name"]: row["column_type"] for row in ask(f"DESCRIBE {relation.name}")}
    assert list(found) == [column.name for column in relation.columns]
    assert all(column.text and column.text[-1] == "." for column in relation.columns)
    for column in relation.columns:
        expected = SQL_TYPES[column.kind]
        numbers = {"BIGINT": ("INT", "BIG", "UBIG"), "DOUBLE": ("DOUBLE", "FLOAT")}.get(expected, (expected, "VARCHAR"))
        assert any(part in found[column.name] for part in numbers), (column.name, found[column.name])


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_every_table_can_be_read_whole(ask, relation):
    rows = ask(f"FROM {relation.name}")
    never = {"transfers", "gpu", "spans", "metrics", "folded"}
    assert rows or relation.name in never


def test_a_session_in_which_nothing_ran_has_empty_tables(tmp_path):
    views = Scene(tmp_path / "s_empty").views()
    views.refresh()
    for table in ("tasks", "attempts", "objects", "actors", "spans"):
        assert not engine.prepare(views, f"FROM {table}").run().num_rows, table


def test_tasks_are_those_of_the_views(ask, views, recorded):
    counted = {row["state"]: row["n"] for row in ask("SELECT state, count(*) AS n FROM tasks GROUP BY state")}
    assert counted == {state: n for state, n in views.overview(refresh=False)["tasks"].items() if n}
    for task_id in (recorded.failed_task.hex(), recorded.queued_task.hex(), recorded.killed_task.hex()):
        (row,) = ask("SELECT * FROM tasks WHERE task_id = ?", task_id)
        shown = views.task(task_id, refresh=False)
        for name in ("name", "state", "outcome", "attempt", "worker_id", "job_id", "error", "actor_id"):
            assert row[name] == shown[name], name
        for name in ("run_seconds", "queue_seconds", "wait_arguments_seconds"):
            assert row[name] == pytest.approx(shown[name]) if row[name] is not None else True
        submitted = row["submitted_at"].replace(tzinfo=UTC).timestamp()
        assert submitted == pytest.approx(shown["submitted_at_ns"] / 1e9, abs=1e-3)


def test_each_attempt_is_a_row_also_the_one_that_was_killed(ask, recorded):
    rows = ask("FROM attempts WHERE task_id = ? ORDER BY attempt", recorded.killed_task.hex())
    assert [row["attempt"] for row in rows] == [0, 1]
    assert rows[0]["outcome"] == "worker_died" and rows[0]["worker_id"] == recorded.killed_worker.hex()
    assert rows[0]["run_seconds"] is None and rows[1]["outcome"] == "ok"
    assert ask("SELECT count(*) AS n FROM attempts WHERE outcome = 'ok'")[0]["n"] == recorded.finished


def test_a_decision_and_its_candidates_can_be_joined(ask):
    (row,) = ask("""SELECT count(*) AS n, count(c.candidate_id) AS with_candidate FROM decisions d
        LEFT JOIN candidates c ON c.decision = d.decision AND c.node_id = d.node_id""")
    assert row["n"] > 0 and row["with_candidate"] > 0


def test_events_hold_every_record_once_and_each_kind_is_a_table(ask, views, recorded):
    total = sum(len(columns) for name in SCHEMAS for columns in views.store.select(name))
    assert ask("SELECT count(*) AS n FROM events")[0]["n"] == total
    (row,) = ask("SELECT worker, cause, fields->>'signal' AS signal FROM event.worker_died "
                 "JOIN events ON events.worker_id = worker AND events.event = 'worker_died' "
                 f"WHERE worker = '{recorded.killed_worker.hex()}'")  # fmt: skip
    assert row["cause"] == "signal" and row["signal"] == "9"


def test_what_is_stored_and_what_stands_in_rings_answers_the_same(tmp_path):
    made = record_session(tmp_path, tasks=120, live=False)
    query = "SELECT event, count(*) AS n, sum(sequence) AS s FROM events WHERE event LIKE 'task%' GROUP BY 1 ORDER BY 1"
    before = obsray.telemetry.sql(query, session=made.directory, format="rows")
    collector = Collector(made.directory, 1 << 30)
    collector.close()
    assert not list((made.directory / "rings").glob("*.ring"))
    assert obsray.telemetry.sql(query, session=made.directory, format="rows") == before


def test_lines_of_logs_are_rows(ask, recorded):
    rows = ask("FROM logs WHERE worker_id = ?", recorded.workers[0].hex())
    assert [(row["line"], row["text"], row["stream"]) for row in rows] == [(1, "one", "out"), (2, "two", "out")]


REFUSED = [
    "DELETE FROM tasks", "CREATE TABLE x AS SELECT 1", "COPY tasks TO '/tmp/never.csv'", "SELECT 1; SELECT 2",
    "ATTACH '/tmp/never.db'", "INSTALL httpfs", "SET threads = 1", "FROM read_csv('/etc/passwd')", "FROM '/etc/passwd'",
    "FROM read_text('/etc/passwd')", "FROM glob('/*')", "SELECT getenv('HOME')", "FROM recorded", "", "  ", "nonsense",
    "SELECT nothing FROM tasks", "PRAGMA database_list",
]  # fmt: skip


@pytest.mark.parametrize("query", REFUSED)
def test_a_query_that_does_more_than_read_or_is_wrong_is_refused(ask, query):
    with pytest.raises(engine.QueryError):
        ask(query)


def test_files_are_there_for_those_who_ask(views, tmp_path):
    path = tmp_path / "tasks.parquet"
    engine.prepare(views, f"COPY (FROM tasks) TO '{path}'", allow_files=True).run()
    assert pq.read_table(path).num_rows == len(views.task_table)


def test_a_query_ends_when_its_time_is_over(views):
    forever = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t"
    with pytest.raises(engine.QueryError, match=r"longer than 0\.2 s"):
        engine.prepare(views, forever).run(0.2)


def test_without_duckdb_the_error_says_what_installs_it(recorded, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ValueError, match=r"pip install 'obsray\[sql\]'"):
        obsray.telemetry.sql("FROM tasks", session=recorded.directory)


def test_parameters_by_name_and_other_forms_of_the_answer(recorded):
    table = obsray.telemetry.sql(
        "SELECT count(*) AS n FROM tasks WHERE name = $name", {"name": "matrix"}, session=recorded.directory
    )
    assert table["n"][0].as_py() > 0
    with pytest.raises(ValueError, match="format"):
        obsray.telemetry.sql("FROM tasks", session=recorded.directory, format="xml")
    with pytest.raises(FileNotFoundError):
        obsray.telemetry.sql("FROM tasks", session=recorded.directory / "nothing")
