"""``docs/sql.md``, made from the relations."""

from __future__ import annotations

from obsray.telemetry.database.relations import RELATIONS, SQL_TYPES, Relation

_HEAD = """# SQL

Everything a session records can be asked in SQL, while it runs and after its end. Generated from
`obsray/telemetry/database/relations.py`; do not edit.

    pip install 'obsray[sql]'
    obsray sql "SELECT name, quantile_cont(run_seconds, 0.99) AS p99 FROM tasks GROUP BY name ORDER BY p99 DESC"

The dialect is [DuckDB's](https://duckdb.org/docs/stable/sql/introduction). Three ways to ask:

* `obsray sql QUERY` on the command line: a table, or `--json`, `--format csv|jsonl|arrow|parquet -o FILE`;
  `--session DIR` for a session that is over.
* `obsray.telemetry.sql(query, parameters)` in a program or notebook: a `pyarrow.Table`, or `format="pandas"`.
* `GET /api/v1/sql?query=...` of the dashboard (`Authorization: Bearer <token>`): JSON, up to `limit` rows with
  `left_out` saying how many more there are, or all of them as an Arrow stream with `format=arrow`.

Queries only read, one at a time. They see no files, no network and no settings, unless files are asked for
(`--allow-files`, `allow_files=True`; never over HTTP). Over HTTP a query is stopped after 20 seconds.

* Ids are lower-case hex text, NULL where there is none; times are UTC `TIMESTAMP`s in microseconds; columns that end in
  `_seconds` and `_bytes` count those. NULL means not known, or not yet.
* `event.<kind>` has the records of one kind as they were told, with the fields of [events.md](events.md) under their
  names, `time`, `time_ns` (nanoseconds, as recorded), `process` (who told) and `sequence`. Enumerations are words.
* A task that is submitted in a loop may be told of by one record for many (`event.tasks_submitted`); `tasks` has a row
  for each of them all the same.
* Of what retention has folded away, sums and quantiles by function stay (`folded`); the ledger says how much that was.

## Examples

```sql
-- What made tasks wait for a worker, and for how long?
SELECT d.reason, count(*) AS decisions, max(d.queue_seconds) AS longest
FROM decisions d WHERE d.outcome = 'queued' GROUP BY 1 ORDER BY 3 DESC;

-- Tasks slower than three times the median of their function, and where they ran.
SELECT t.task_id, t.name, t.run_seconds, t.node_id FROM tasks t
JOIN functions f USING (name) WHERE t.run_seconds > 3 * f.run_seconds_p50 ORDER BY t.run_seconds DESC LIMIT 20;

-- What a worker did in its last second.
SELECT e.time, e.event, e.task_id, e.fields FROM events e
JOIN workers w ON e.process_id = w.worker_id WHERE w.died_at - e.time < INTERVAL 1 SECOND ORDER BY e.time;
```
"""


def markdown() -> str:
    """The whole page."""
    index = "\n".join(f"| [`{relation.name}`](#{relation.name}) | {relation.text} |" for relation in RELATIONS)
    parts = [_HEAD, f"## Tables\n\n| table | one row is |\n|---|---|\n{index}\n", *map(_section, RELATIONS)]
    return "\n".join(parts)


def _section(relation: Relation) -> str:
    rows = [
        f"| `{column.name}` | {SQL_TYPES[column.kind]} | {column.unit} | {column.text} |" for column in relation.columns
    ]
    lines = [f"## {relation.name}", "", relation.text, "", "| column | type | unit | meaning |", "|---|---|---|---|"]
    return "\n".join([*lines, *rows, ""])
